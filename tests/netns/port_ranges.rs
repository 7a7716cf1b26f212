// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Listeners for ten thousand ports, from one annotation to the backend's port.

use std::{
    io::{Read, Write},
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use gateway_tests::{
    backend::echo::Echo,
    client::raw,
    gateway::Datapath,
    lab::{CLIENT, Lab},
};

use crate::scene::{self, backend, vip};

const DEADLINE: Duration = Duration::from_secs(5);

/// TCP and UDP on 30000 to 39999, TLS passthrough on 40000 to 49999, and one
/// port of TLS in the middle of the first range.
fn resources(lab: &Lab) -> String {
    let address = backend(lab, 0, 1).ip();
    format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata:
  name: ranges
  annotations: {{sluice.dev/port-ranges: \"30000-39999, 40000-49999\"}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: 30000, name: tcp, protocol: TCP}}
    hosts: [\"*\"]
  - port: {{number: 30000, name: udp, protocol: UDP}}
    hosts: [\"*\"]
  - port: {{number: 40000, name: tls, protocol: TLS}}
    tls: {{mode: PASSTHROUGH}}
    hosts: [\"a.example.com\"]
  - port: {{number: 35000, name: inner, protocol: TLS}}
    tls: {{mode: PASSTHROUGH}}
    hosts: [\"a.example.com\"]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: ranges}}
spec:
  hosts: [\"*\"]
  gateways: [ranges]
  tcp:
  - match: [{{port: 30000}}]
    route:
    - destination: {{host: up.internal, port: {{number: 30000}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: names}}
spec:
  hosts: [\"a.example.com\"]
  gateways: [ranges]
  tls:
  - match: [{{sniHosts: [\"a.example.com\"]}}]
    route:
    - destination: {{host: up.internal, port: {{number: 40000}}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: up}}
spec:
  hosts: [up.internal]
  resolution: STATIC
  ports:
  - {{number: 30000, name: tcp, protocol: TCP}}
  - {{number: 30000, name: udp, protocol: UDP}}
  - {{number: 40000, name: tls, protocol: TCP}}
  endpoints:
  - {{address: {address}}}
"
    )
}

/// What comes back of `bytes` that the client sends to `to`.
fn echoed(lab: &Lab, to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = raw::connect(&lab.client, to).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    stream.write_all(bytes).expect("send");
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer).expect("an answer");
    answer
}

#[test]
fn ten_thousand_ports_are_one_entry_and_reach_the_port_the_client_used() {
    let Some(lab) = scene::lab() else { return };
    let gateway = scene::serve(&lab, &[("ranges.yaml", resources(&lab))]);
    let report = gateway.status().expect("status")["datapath"]["report"].clone();
    assert_eq!(report["steered"], 3, "{report}");
    let mut served: Vec<_> = report["services"]
        .as_array()
        .expect("services")
        .iter()
        .map(|service| service["destination"].as_str().expect("text").to_owned())
        .collect();
    served.sort();
    // The port that the agent serves in the middle is cut out.
    assert_eq!(
        served,
        [
            "10.97.0.1:30000-34999",
            "10.97.0.1:30000-39999/udp",
            "10.97.0.1:35001-39999",
        ]
    );

    for port in [30_000, 34_999, 39_999] {
        let _echo = Echo::start(&lab, 0, port, "").expect("echo");
        assert_eq!(echoed(&lab, vip(&lab, port), b"tcp"), b"tcp");
        let server = lab.backends[0]
            .run(|| UdpSocket::bind(backend(&lab, 0, port)))
            .expect("bind");
        let client = lab
            .client
            .run(|| UdpSocket::bind("0.0.0.0:0"))
            .expect("bind");
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(DEADLINE)).expect("a limit");
        }
        client.send_to(b"ask", vip(&lab, port)).expect("send");
        let mut buffer = [0; 16];
        let (len, peer) = server.recv_from(&mut buffer).expect("a datagram");
        assert_eq!((&buffer[..len], peer.ip()), (&b"ask"[..], CLIENT.into()));
        server.send_to(b"answer", peer).expect("send");
        let (len, peer) = client.recv_from(&mut buffer).expect("an answer");
        assert_eq!((&buffer[..len], peer), (&b"answer"[..], vip(&lab, port)));
    }
    // The agent keeps the port as well; the one in the middle is a port of its
    // own and leads where its endpoint is.
    let hello = raw::records(&raw::client_hello(Some("a.example.com"), 200), 16_384);
    let _echo = Echo::start(&lab, 0, 45_678, "").expect("echo");
    assert_eq!(echoed(&lab, vip(&lab, 45_678), &hello), hello);
    let _echo = Echo::start(&lab, 0, 40_000, "").expect("echo");
    assert_eq!(echoed(&lab, vip(&lab, 35_000), &hello), hello);
    let refused = raw::connect(&lab.client, vip(&lab, 50_000)).expect_err("not ours");
    assert!(format!("{refused:#}").contains("refused"), "{refused:#}");

    let tcp = gateway
        .service_at("10.97.0.1:30000-34999")
        .expect("counters");
    assert_eq!(tcp.flows, 3);
    let udp = gateway
        .service_at("10.97.0.1:30000-39999/udp")
        .expect("counters");
    assert_eq!(udp.flows, 3);
}

#[test]
fn a_range_that_goes_away_is_gone_and_its_flows_go_on() {
    let Some(lab) = scene::lab() else { return };
    let _echo = Echo::start(&lab, 0, 31_000, "").expect("echo");
    let gateway = scene::serve(&lab, &[("ranges.yaml", resources(&lab))]);
    let mut kept = raw::connect(&lab.client, vip(&lab, 31_000)).expect("connect");
    kept.set_read_timeout(Some(DEADLINE)).expect("a limit");
    let narrower = resources(&lab).replace("30000-39999,", "30000-30999,");
    gateway.reload("ranges.yaml", &narrower).expect("reload");
    raw::connect(&lab.client, vip(&lab, 31_001)).expect_err("not ours any more");
    kept.write_all(b"on").expect("send");
    let mut answer = [0; 2];
    kept.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"on");
}

#[test]
fn without_kernel_programs_a_range_is_not_served_and_the_rest_is() {
    let Some(lab) = scene::lab() else { return };
    let _echo = Echo::start(&lab, 0, 40_000, "").expect("echo");
    let claim = format!("addr add {}/32 dev lo", lab.vip());
    lab.gateway.ip(&claim).expect("own the VIP");
    let files = [("ranges.yaml", resources(&lab))];
    let _gateway = scene::serve_with(&lab, Datapath::Userspace, "", &files);
    let hello = raw::records(&raw::client_hello(Some("a.example.com"), 200), 16_384);
    assert_eq!(echoed(&lab, vip(&lab, 35_000), &hello), hello);
    raw::connect(&lab.client, vip(&lab, 30_000)).expect_err("a range");
}
