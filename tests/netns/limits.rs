// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Limits of new flows: of a source, and of half-open ones.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use gateway_tests::{
    backend::echo::Echo,
    gateway::{Datapath, Gateway},
    lab::{CLIENT, Lab},
    wait,
};
use socket2::{Domain, Socket, Type};

use crate::{
    scene::{self, backend, serve_with, tcp, vip},
    syn_flood::Flood,
};

const PORT: u16 = 31_400;
/// A second address of the client.
const OTHER: [u8; 4] = [10, 98, 0, 3];
/// Long enough for a SYN to be answered here; too short for a second one.
const NO_ANSWER: Duration = Duration::from_millis(800);
const DEADLINE: Duration = Duration::from_secs(40);

fn annotated(lab: &Lab, annotations: &str) -> String {
    let yaml = tcp("echo", PORT, &[backend(lab, 0, 7000)]);
    let from = "kind: Gateway\nmetadata: {name: echo}";
    let to = format!("kind: Gateway\nmetadata: {{name: echo, annotations: {{{annotations}}}}}");
    assert!(yaml.contains(from));
    yaml.replace(from, &to)
}

fn echo(lab: &Lab) -> Echo {
    let other = IpAddr::from(OTHER);
    lab.client
        .ip(&format!("addr add {other}/24 dev eth0"))
        .expect("a second address");
    Echo::start(lab, 0, 7000, "").expect("echo")
}

/// Connects from `source` and is echoed; none when nobody answers in time.
fn greet(lab: &Lab, source: impl Into<IpAddr>, limit: Duration) -> Option<TcpStream> {
    let to = vip(lab, PORT);
    let from = SocketAddr::new(source.into(), 0);
    let mut stream: TcpStream = lab.client.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&from.into()).expect("its address");
        let connected = socket.connect_timeout(&to.into(), limit);
        connected.ok().map(|()| socket.into())
    })?;
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    let mut answer = [0; 5];
    stream.write_all(b"hello").expect("send");
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"hello");
    Some(stream)
}

fn dropped(gateway: &Gateway<'_>, reason: &str) -> u64 {
    let status = gateway.status().expect("status");
    let drops = &status["datapath"]["report"]["drops"];
    drops[reason]["packets"].as_u64().expect("counted")
}

fn trace(lab: &Lab, gateway: &Gateway<'_>) -> String {
    let bootstrap = gateway.bootstrap_file();
    let arguments = ["trace", "--bootstrap", &bootstrap.to_string_lossy()];
    let from = format!("{CLIENT}:4000");
    let to = vip(lab, PORT).to_string();
    let ends = ["--from", &from, "--to", &to];
    let said = gateway.sluice(&[&arguments[..], &ends].concat());
    String::from_utf8_lossy(&said.expect("trace").stdout).into_owned()
}

#[test]
fn a_source_has_as_many_flows_as_it_may_and_others_theirs() {
    let Some(lab) = scene::lab() else { return };
    let _echo = echo(&lab);
    let yaml = annotated(&lab, "sluice.dev/source-flows: \"2\"");
    let bootstrap = "timeouts: {tcp_flow: 20s}\n";
    let mut gateway = serve_with(&lab, Datapath::Ebpf, bootstrap, &[("echo.yaml", yaml)]);
    let first = greet(&lab, CLIENT, DEADLINE).expect("one");
    let _second = greet(&lab, CLIENT, DEADLINE).expect("two");
    assert!(greet(&lab, CLIENT, NO_ANSWER).is_none(), "three");
    assert!(dropped(&gateway, "source_flows") >= 1);
    let said = trace(&lab, &gateway);
    let line = "! limits: 2 of 2 flows of this source: dropped as source_flows";
    assert!(said.contains(line), "{said}");
    let _other = greet(&lab, OTHER, DEADLINE).expect("another source");

    // The kernel counts on without the agent, in both directions.
    gateway.kill();
    assert!(greet(&lab, CLIENT, NO_ANSWER).is_none(), "three");
    drop(first);
    let _third = greet(&lab, CLIENT, DEADLINE).expect("there is room for one");
    assert!(greet(&lab, CLIENT, NO_ANSWER).is_none(), "and no more");

    // Idle flows that the agent ends make room as well.
    gateway.start().expect("start again");
    wait::until("idle flows expire", DEADLINE, || {
        Ok(greet(&lab, CLIENT, NO_ANSWER))
    })
    .expect("room");
}

#[test]
fn more_clients_than_the_rate_allows_wait_and_all_are_served() {
    let Some(lab) = scene::lab() else { return };
    let _echo = echo(&lab);
    let yaml = annotated(
        &lab,
        "sluice.dev/source-rate: \"8\", sluice.dev/source-burst: \"2\"",
    );
    let gateway = serve_with(&lab, Datapath::Ebpf, "", &[("echo.yaml", yaml)]);
    std::thread::scope(|threads| {
        let clients: Vec<_> = (0..16)
            .map(|_| threads.spawn(|| greet(&lab, CLIENT, DEADLINE).is_some()))
            .collect();
        for client in clients {
            assert!(client.join().expect("no panic"));
        }
    });
    assert!(dropped(&gateway, "source_rate") >= 1);
    let said = trace(&lab, &gateway);
    assert!(
        said.contains("new flows of this source left, 8 more a second"),
        "{said}"
    );
}

#[test]
fn half_open_flows_of_a_service_are_bounded() {
    let Some(lab) = scene::lab() else { return };
    let _echo = echo(&lab);
    let yaml = annotated(
        &lab,
        "sluice.dev/half-open: \"10\", sluice.dev/syn-cookies: \"off\"",
    );
    let gateway = serve_with(&lab, Datapath::Ebpf, "", &[("echo.yaml", yaml)]);
    let kept = greet(&lab, CLIENT, DEADLINE).expect("before");
    let flood = Flood::new(&lab, PORT);
    flood.send(&lab, 0..30);
    wait::until("the flood is refused", DEADLINE, || {
        Ok((dropped(&gateway, "half_open_full") >= 20).then_some(()))
    })
    .expect("counted");
    let status = gateway.status().expect("status");
    let flows = &status["datapath"]["report"]["flows"];
    assert_eq!(flows["half_open"].as_u64(), Some(10), "{flows}");
    assert!(greet(&lab, CLIENT, NO_ANSWER).is_none(), "no room");
    let said = trace(&lab, &gateway);
    let line = "! limits: 10 of 10 half-open connections of the service: dropped as half_open_full";
    assert!(said.contains(line), "{said}");
    drop(kept);
}
