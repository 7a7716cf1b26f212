// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The lab itself, without a gateway: what fails here is not the agent's fault.

use std::{io::Write, time::Duration};

use gateway_tests::{
    backend::{echo::Echo, iperf, kafka as broker, mosquitto, nginx},
    client::{
        curl, iperf as stream, kafka,
        mqtt::{self, Broker, Subscriber},
        raw,
    },
    netns::{NETNS_DIR, run},
    pki::Authority,
};

use crate::scene;

#[test]
fn brokers_and_clients_reach_each_other_without_a_gateway() {
    let Some(lab) = scene::lab() else { return };
    let authority = Authority::new(lab.dir()).expect("make an authority");
    let address = lab.backend_address(0);
    let leaf = authority.issue(&["a.example.com"]).expect("issue");

    let _nginx = nginx::start(&lab, 0, Some(&leaf)).expect("nginx");
    let request = curl::Request {
        scheme: "https",
        host: "a.example.com",
        address,
        port: nginx::HTTPS,
        path: "/x?y=1",
        authority: Some(&authority.certificate()),
        options: &[],
    };
    let answer = curl::get(&lab.client, &request).expect("curl");
    assert_eq!((answer.status, answer.field("id")), (200, Some("backend1")));
    assert_eq!(answer.field("uri"), Some("/x?y=1"));

    let _mosquitto = mosquitto::start(&lab, 0, Some(&leaf)).expect("mosquitto");
    let host = address.to_string();
    let plain = Broker {
        host: &host,
        port: mosquitto::PLAIN,
        authority: None,
    };
    let mut subscriber = Subscriber::start(&lab, &plain, "sub", "t").expect("subscribe");
    mqtt::publish(&lab, &plain, "t", "hello").expect("publish");
    assert_eq!(subscriber.wait_for(1).expect("message"), ["hello"]);

    let packages = broker::packages_dir().expect("packages");
    let url = format!("{}:{}", lab.backend_address(1), broker::PORT);
    let _kafka = broker::start(&lab, 1, &url, &packages).expect("kafka");
    let sent = lab.dir().join("sent");
    std::fs::write(&sent, "one\ntwo\n").expect("write");
    kafka::produce(&lab, &packages, &url, &sent).expect("produce");
    let got = kafka::consume(&lab, &packages, &url).expect("consume");
    assert_eq!(std::fs::read_to_string(got).expect("read"), "one\ntwo\n");

    let _iperf = iperf::start(&lab, 2, iperf::PORT).expect("iperf3");
    let rate = stream::rate(&lab.client, lab.backend_address(2), iperf::PORT, 1).expect("rate");
    assert!(rate > 0.0);

    let echo = Echo::start(&lab, 2, 7000, "echo 3\n").expect("echo");
    let mut stream = raw::connect(&lab.client, echo.address()).expect("connect");
    stream.write_all(b"ping").expect("write");
    stream.shutdown(std::net::Shutdown::Write).expect("close");
    let end = raw::read_to_end(&mut stream, Duration::from_secs(5)).expect("read");
    assert_eq!(end, raw::End::Closed(b"echo 3\nping".to_vec()));
}

#[test]
fn a_lab_leaves_nothing_behind_when_its_test_panics() {
    let Some(lab) = scene::lab() else { return };
    let (dir, gateway) = (lab.dir().to_owned(), lab.gateway.name().to_owned());
    let panicked = std::thread::spawn(move || {
        let _lab = lab;
        panic!("a test that fails");
    })
    .join();
    assert!(panicked.is_err());
    assert!(!dir.exists(), "{} is left", dir.display());
    assert!(!std::path::Path::new(NETNS_DIR).join(gateway).exists());
    let mounts = run(std::process::Command::new("cat").arg("/proc/mounts")).expect("mounts");
    assert!(!mounts.contains(&dir.display().to_string()));
}
