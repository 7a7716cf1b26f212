// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ports forwarded in the kernel: DNAT, SNAT, no backend, many connections.

use std::{
    io::{Read, Write},
    net::Shutdown,
    time::Duration,
};

use gateway_tests::{
    backend::{echo::Echo, kafka as broker, mosquitto},
    client::{
        kafka,
        mqtt::{self, Broker, Subscriber},
        raw::{self, End},
    },
    gateway::Datapath,
    lab::{CLIENT, Lab},
};

use crate::scene::{self, backend, serve, serve_with, tcp, vip};

#[test]
fn mqtt_is_forwarded_in_the_kernel() {
    let Some(lab) = scene::lab() else { return };
    let _mosquitto = mosquitto::start(&lab, 0, None).expect("mosquitto");
    let yaml = tcp("mqtt", 1883, &[backend(&lab, 0, mosquitto::PLAIN)]);
    let gateway = serve(&lab, &[("mqtt.yaml", yaml)]);
    let host = lab.vip().to_string();
    let broker = Broker {
        host: &host,
        port: 1883,
        authority: None,
    };
    let mut subscriber = Subscriber::start(&lab, &broker, "sub", "t").expect("subscribe");
    for number in 0..5 {
        mqtt::publish(&lab, &broker, "t", &number.to_string()).expect("publish");
    }
    let messages = subscriber.wait_for(5).expect("messages");
    assert_eq!(messages, ["0", "1", "2", "3", "4"]);
    let counters = gateway.service(1883).expect("counters");
    assert_eq!(counters.flows, 6);
    assert!(
        counters.packets_in > 20 && counters.packets_out > 20,
        "{counters:?}"
    );
    assert_eq!(
        gateway.closed("", "").expect("status"),
        0,
        "the agent saw one"
    );
}

#[test]
fn kafka_messages_come_back_with_the_same_checksum() {
    let Some(lab) = scene::lab() else { return };
    let packages = broker::packages_dir().expect("packages");
    let name = "kafka.example.com:9092";
    let _kafka = broker::start(&lab, 1, name, &packages).expect("kafka");
    let yaml = tcp("kafka", 9092, &[backend(&lab, 1, broker::PORT)]);
    let gateway = serve(&lab, &[("kafka.yaml", yaml)]);
    let sent = lab.dir().join("sent");
    let lines: String = (0..10_000).map(|n| format!("message {n}\n")).collect();
    std::fs::write(&sent, lines).expect("write");
    kafka::produce(&lab, &packages, name, &sent).expect("produce");
    let got = kafka::consume(&lab, &packages, name).expect("consume");
    assert_eq!(
        kafka::checksum(&sent).expect("sum"),
        kafka::checksum(&got).expect("sum")
    );
    assert!(gateway.service(9092).expect("counters").flows >= 2);
}

#[test]
fn new_connections_spread_over_the_backends() {
    let Some(lab) = scene::lab() else { return };
    let _servers =
        [0, 1, 2].map(|index| Echo::start(&lab, index, 7000, &format!("{index}")).expect("echo"));
    let targets = [0, 1, 2].map(|index| backend(&lab, index, 7000));
    let gateway = serve(&lab, &[("echo.yaml", tcp("echo", 31_400, &targets))]);
    let mut counts = [0_u32; 3];
    for _ in 0..90 {
        let got = exchange(&lab, b"x");
        assert_eq!(got.len(), 2, "{got:?}");
        counts[usize::from(got[0] - b'0')] += 1;
    }
    assert!(counts.iter().all(|count| *count >= 10), "{counts:?}");
    assert_eq!(gateway.service(31_400).expect("counters").flows, 90);
}

#[test]
fn large_transfers_arrive_whole_in_both_directions() {
    let Some(lab) = scene::lab() else { return };
    let _echo = Echo::start(&lab, 0, 7000, "").expect("echo");
    let yaml = tcp("echo", 31_400, &[backend(&lab, 0, 7000)]);
    let _gateway = serve(&lab, &[("echo.yaml", yaml)]);
    assert_echoes(&lab, 8 << 20);
}

#[test]
fn snat_reaches_a_backend_without_a_route_to_the_client() {
    let Some(lab) = scene::lab() else { return };
    lab.backends[0]
        .ip("route del default")
        .expect("remove its route");
    let _echo = Echo::start(&lab, 0, 7000, "").expect("echo");
    let yaml = tcp("echo", 31_400, &[backend(&lab, 0, 7000)]);
    let gateway = serve_with(
        &lab,
        Datapath::Ebpf,
        "forwarding: snat\n",
        &[("echo.yaml", yaml)],
    );
    assert_echoes(&lab, 1 << 20);
    assert_eq!(gateway.service(31_400).expect("counters").flows, 1);
}

#[test]
fn dnat_keeps_the_client_address() {
    let Some(lab) = scene::lab() else { return };
    let listener = lab.backends[0]
        .run(|| std::net::TcpListener::bind(backend(&lab, 0, 7000)).expect("listen"));
    let yaml = tcp("echo", 31_400, &[backend(&lab, 0, 7000)]);
    let _gateway = serve(&lab, &[("echo.yaml", yaml)]);
    let _stream = raw::connect(&lab.client, vip(&lab, 31_400)).expect("connect");
    let (_, peer) = listener.accept().expect("accept");
    assert_eq!(peer.ip(), CLIENT);
}

#[test]
fn a_service_without_a_backend_refuses_and_counts() {
    let Some(lab) = scene::lab() else { return };
    let yaml = tcp("echo", 31_400, &[]);
    let gateway = serve(&lab, &[("echo.yaml", yaml)]);
    let refused = lab
        .client
        .run(|| std::net::TcpStream::connect_timeout(&vip(&lab, 31_400), Duration::from_secs(1)));
    assert!(refused.is_err());
    let status = gateway.status().expect("status").to_string();
    assert!(status.contains("no_backend"), "{status}");
}

#[test]
fn flows_are_listed_by_service_client_backend_and_state() {
    let Some(lab) = scene::lab() else { return };
    let _servers = [0, 1].map(|index| Echo::start(&lab, index, 7000, "x").expect("echo"));
    let yaml = tcp("first", 31_400, &[backend(&lab, 0, 7000)])
        + &tcp("second", 31_401, &[backend(&lab, 1, 7000)]);
    let gateway = serve(&lab, &[("echo.yaml", yaml)]);
    let mut streams = Vec::new();
    for port in [31_400, 31_400, 31_400, 31_401] {
        let mut stream = raw::connect(&lab.client, vip(&lab, port)).expect("connect");
        // Greeted: both directions are open.
        stream.read_exact(&mut [0]).expect("a greeting");
        streams.push(stream);
    }
    let flows = |args: &[&str]| {
        let output = gateway.sluice(&[&["flows"], args].concat()).expect("run");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let client = CLIENT.to_string();
    let [first, second] = [0, 1].map(|index| backend(&lab, index, 7000).to_string());
    for (args, summary) in [
        (&[][..], "4 of 4 flows match, 4 listed; established 4;"),
        (&["--limit", "1"], "4 of 4 flows match, 1 listed;"),
        (&["--service", "31400"], "3 of 4 flows match, 3 listed;"),
        (&["--client", &client], "4 of 4 flows match, 4 listed;"),
        (
            &["--client", "192.0.2.0/24"],
            "0 of 4 flows match, 0 listed;",
        ),
        (&["--backend", &second], "1 of 4 flows match, 1 listed;"),
        (&["--state", "established"], "4 of 4 flows match"),
        (
            &["--state", "fin-wait", "--limit", "0"],
            "0 of 4 flows match",
        ),
    ] {
        let text = flows(args);
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with(summary), "{args:?}: {text}");
    }
    let text = flows(&["--backend", &first]);
    let listed = text
        .lines()
        .filter(|line| line.starts_with(&client))
        .count();
    assert_eq!(listed, 3, "{text}");
    drop(streams);
    let output = gateway
        .sluice(&["flows", "--client", "nobody"])
        .expect("run");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn half_closed_connections_still_carry_the_other_direction() {
    let Some(lab) = scene::lab() else { return };
    let _echo = Echo::start(&lab, 0, 7000, "late").expect("echo");
    let yaml = tcp("echo", 31_400, &[backend(&lab, 0, 7000)]);
    let _gateway = serve(&lab, &[("echo.yaml", yaml)]);
    assert_eq!(exchange(&lab, &[7; 300_000]).len(), 300_004);
}

/// Sends, closes its half, and returns all that comes back.
fn exchange(lab: &Lab, bytes: &[u8]) -> Vec<u8> {
    let mut stream = raw::connect(&lab.client, vip(lab, 31_400)).expect("connect");
    let mut sender = stream.try_clone().expect("clone");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            sender.write_all(bytes).expect("write");
            sender.shutdown(Shutdown::Write).expect("close");
        });
        match raw::read_to_end(&mut stream, Duration::from_secs(10)).expect("read") {
            End::Closed(got) => got,
            other => panic!("the connection did not end: {other:?}"),
        }
    })
}

/// Sends pseudo-random bytes and wants the same back.
pub fn assert_echoes(lab: &Lab, size: usize) {
    let mut state = 1_u32;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(size)
    .collect();
    let got = exchange(lab, &bytes);
    assert_eq!(got.len(), bytes.len());
    assert!(got == bytes, "other bytes came back");
}
