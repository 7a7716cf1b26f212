// SPDX-License-Identifier: Apache-2.0 OR MIT
//! UDP services, from their resources to datagrams that come back.

use std::{
    net::{SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use gateway_tests::{
    admin,
    backend::echo::Echo,
    client::raw,
    gateway::{Datapath, Gateway},
    lab::Lab,
};
use serde_json::Value;

use crate::scene::{self, backend, vip};

const DEADLINE: Duration = Duration::from_secs(5);

/// A UDP port beside a TCP port of the same number, and the service of both.
fn resources(lab: &Lab) -> String {
    let address = backend(lab, 0, 5353).ip();
    format!(
        "{}  - port: {{number: 53, name: tcp, protocol: TCP}}\n    hosts: [\"*\"]\n{}\
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: dns}}
spec:
  hosts: [dns.internal]
  resolution: STATIC
  ports:
  - {{number: 53, name: udp, protocol: UDP, targetPort: 5353}}
  - {{number: 53, name: tcp, protocol: TCP, targetPort: 5353}}
  endpoints:
  - {{address: {address}}}
",
        scene::gateway("dns", 53, "UDP", "*", ""),
        scene::virtual_service(
            "dns",
            "*",
            "  tcp:\n  - route:\n    - destination: {host: dns.internal, port: {number: 53}}\n"
        ),
    )
}

/// Answers datagrams with the sender's address and what was sent, until it is
/// told to end.
fn answer(lab: &Lab) -> thread::JoinHandle<()> {
    let at = backend(lab, 0, 5353);
    let socket = lab.backends[0].run(|| UdpSocket::bind(at)).expect("bind");
    // The agent may take a while to start.
    socket
        .set_read_timeout(Some(12 * DEADLINE))
        .expect("a limit");
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            if &buffer[..len] == b"end" {
                return;
            }
            let text = String::from_utf8_lossy(&buffer[..len]);
            let _ = socket.send_to(format!("{} {text}", peer.ip()).as_bytes(), peer);
        }
    })
}

/// A client's socket that takes answers of the VIP only.
fn client(lab: &Lab) -> UdpSocket {
    let to = vip(lab, 53);
    lab.client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket.connect(to).expect("connect");
        socket.set_read_timeout(Some(DEADLINE)).expect("a limit");
        socket
    })
}

fn ask(socket: &UdpSocket, text: &str) -> String {
    let mut buffer = [0; 2048];
    socket.send(text.as_bytes()).expect("send");
    let len = socket.recv(&mut buffer).expect("an answer");
    String::from_utf8_lossy(&buffer[..len]).into_owned()
}

fn flows(lab: &Lab, gateway: &Gateway<'_>) -> Vec<Value> {
    let answer = admin::fetch(&lab.gateway, gateway.admin(), "/flows").expect("flows");
    let list: Value = serde_json::from_str(&answer.body).expect("JSON");
    list["flows"].as_array().cloned().expect("a list")
}

#[test]
fn udp_and_tcp_of_one_port_are_forwarded_in_the_kernel() {
    for mode in ["dnat", "snat"] {
        let Some(lab) = scene::lab() else { return };
        let server = answer(&lab);
        let _echo = Echo::start(&lab, 0, 5353, "").expect("echo");
        let gateway = scene::serve_with(
            &lab,
            Datapath::Ebpf,
            &format!("forwarding: {mode}\n"),
            &[("dns.yaml", resources(&lab))],
        );
        let socket = client(&lab);
        let source = if mode == "dnat" {
            gateway_tests::lab::CLIENT.to_string()
        } else {
            "10.99.1.1".to_owned()
        };
        for number in 0..20 {
            assert_eq!(
                ask(&socket, &number.to_string()),
                format!("{source} {number}")
            );
        }
        let seen = flows(&lab, &gateway);
        assert_eq!(seen.len(), 1, "{seen:?}");
        let flow = &seen[0];
        assert_eq!(
            (&flow["protocol"], &flow["kind"], &flow["tcp_state"]),
            (&"udp".into(), &mode.into(), &"two-way".into()),
            "{flow}"
        );
        assert_eq!(
            (&flow["packets_in"], &flow["packets_out"]),
            (&20.into(), &20.into())
        );

        // The TCP port beside it leads where it should.
        let stream = raw::connect(&lab.client, vip(&lab, 53)).expect("connect");
        let protocols: Vec<Value> = flows(&lab, &gateway)
            .into_iter()
            .map(|flow| flow["protocol"].clone())
            .collect();
        assert_eq!(protocols.len(), 2);
        assert!(protocols.contains(&"tcp".into()), "{protocols:?}");
        drop(stream);
        let status = gateway.status().expect("status");
        let services = status["datapath"]["report"]["services"].to_string();
        assert!(services.contains("10.97.0.1:53/udp"), "{services}");

        // A session outlives the agent, as a connection does.
        let mut gateway = gateway;
        gateway.kill();
        assert_eq!(ask(&socket, "x"), format!("{source} x"));
        gateway.start().expect("start again");
        assert_eq!(ask(&socket, "y"), format!("{source} y"));
        assert_eq!(
            flows(&lab, &gateway)
                .iter()
                .filter(|f| f["protocol"] == "udp")
                .count(),
            1
        );
        socket.send(b"end").expect("send");
        server.join().expect("the server");
    }
}

/// What no answer refreshes ends by the service's own timeout.
#[test]
fn a_session_ends_when_it_is_idle() {
    let Some(lab) = scene::lab() else { return };
    let server = answer(&lab);
    let mut yaml = resources(&lab);
    yaml.push_str(
        "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: dns}
spec:
  host: dns.internal
  trafficPolicy:
    connectionPool: {tcp: {idleTimeout: 1s}}
",
    );
    let gateway = scene::serve(&lab, &[("dns.yaml", yaml)]);
    let socket = client(&lab);
    assert_eq!(ask(&socket, "1"), "10.98.0.2 1");
    assert_eq!(flows(&lab, &gateway).len(), 1);
    gateway_tests::wait::until("the session to end", Duration::from_secs(10), || {
        Ok(flows(&lab, &gateway).is_empty().then_some(()))
    })
    .expect("end");
    // The next datagram starts another.
    assert_eq!(ask(&socket, "2"), "10.98.0.2 2");
    assert_eq!(
        gateway
            .service_at("10.97.0.1:53/udp")
            .expect("counters")
            .flows,
        2
    );
    socket.send(b"end").expect("send");
    server.join().expect("the server");
}

#[test]
fn without_kernel_programs_udp_is_not_served_and_the_rest_is() {
    let Some(lab) = scene::lab() else { return };
    let _echo = Echo::start(&lab, 0, 5353, "hi").expect("echo");
    // VIPs are claimed by the kernel side; without it the node must own them.
    let claim = format!("addr add {}/32 dev lo", lab.vip());
    lab.gateway.ip(&claim).expect("own the VIP");
    let gateway = scene::serve_with(
        &lab,
        Datapath::Userspace,
        "",
        &[("dns.yaml", resources(&lab))],
    );
    let to: SocketAddr = vip(&lab, 53);
    let _stream = raw::connect(&lab.client, to).expect("TCP");
    let socket = client(&lab);
    socket.send(b"1").expect("send");
    let error = socket.recv(&mut [0; 16]).expect_err("nobody is there");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(gateway.generation().expect("generation"), 1);
}
