// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who may connect: lists of sources, in the kernel and in the agent.

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

use crate::scene::{self, backend, serve_with, tcp, vip};

/// A second address of the client.
const OTHER: [u8; 4] = [10, 98, 0, 3];
const DEADLINE: Duration = Duration::from_secs(5);
/// Long enough for a SYN to be answered here; too short for a second one.
const NO_ANSWER: Duration = Duration::from_millis(800);

const BOTH: [Datapath; 2] = [Datapath::Ebpf, Datapath::Userspace];

/// An echo service on port 31400 whose Gateway has `annotations`, one a line,
/// with an agent that serves it.
fn scene(lab: &Lab) -> Echo {
    let other = IpAddr::from(OTHER);
    lab.client
        .ip(&format!("addr add {other}/24 dev eth0"))
        .expect("a second address");
    Echo::start(lab, 0, 7000, "").expect("echo")
}

fn annotated(lab: &Lab, annotations: &str) -> String {
    let yaml = tcp("echo", 31_400, &[backend(lab, 0, 7000)]);
    let from = "kind: Gateway\nmetadata: {name: echo}";
    let to = format!("kind: Gateway\nmetadata: {{name: echo, annotations: {{{annotations}}}}}");
    assert!(yaml.contains(from));
    yaml.replace(from, &to)
}

fn start<'lab>(lab: &'lab Lab, datapath: Datapath, yaml: String) -> Gateway<'lab> {
    if datapath == Datapath::Userspace {
        let claim = format!("addr add {}/32 dev lo", lab.vip());
        lab.gateway.ip(&claim).expect("own the VIP");
    }
    serve_with(lab, datapath, "", &[("echo.yaml", yaml)])
}

/// Connects from `source`; none when nobody answers or the far side resets
/// before it says anything.
fn greet(lab: &Lab, source: impl Into<IpAddr>, port: u16) -> Option<TcpStream> {
    let to = vip(lab, port);
    let from = SocketAddr::new(source.into(), 0);
    let mut stream: TcpStream = lab.client.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&from.into()).expect("its address");
        let connected = socket.connect_timeout(&to.into(), NO_ANSWER);
        connected.ok().map(|()| socket.into())
    })?;
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    let mut answer = [0; 5];
    let said = stream
        .write_all(b"hello")
        .and_then(|()| stream.read_exact(&mut answer));
    (said.is_ok() && &answer == b"hello").then_some(stream)
}

fn expect_counted(gateway: &Gateway<'_>, datapath: Datapath, least: u64) {
    match datapath {
        Datapath::Userspace => scene::expect_closed(gateway, "refused", "source_denied", least),
        Datapath::Ebpf => wait::until("drops are counted", DEADLINE, || {
            let drops = &gateway.status()?["datapath"]["report"]["drops"];
            let counted = drops["source_denied"]["packets"].as_u64();
            Ok(counted.filter(|now| *now >= least))
        })
        .map(drop)
        .expect("counted"),
    }
}

#[test]
fn annotations_say_who_may_connect_in_both_data_paths() {
    for datapath in BOTH {
        let Some(lab) = scene::lab() else { return };
        let _echo = scene(&lab);
        let yaml = annotated(
            &lab,
            "sluice.dev/allow-sources: 10.98.0.0/24, sluice.dev/deny-sources: 10.98.0.3",
        );
        let gateway = start(&lab, datapath, yaml);
        let mut kept = greet(&lab, CLIENT, 31_400).expect("the client may");
        assert!(greet(&lab, OTHER, 31_400).is_none(), "{datapath:?}");
        expect_counted(&gateway, datapath, 1);

        // Another list is for those that come later.
        let yaml = annotated(&lab, "sluice.dev/allow-sources: 10.98.0.3/32");
        gateway.reload("echo.yaml", &yaml).expect("reload");
        assert!(greet(&lab, CLIENT, 31_400).is_none(), "{datapath:?}");
        let _other = greet(&lab, OTHER, 31_400).expect("the other may now");
        kept.write_all(b"still").expect("it is open");
        let mut answer = [0; 5];
        kept.read_exact(&mut answer).expect("and answered");
        assert_eq!(&answer, b"still");
        expect_counted(&gateway, datapath, 2);

        // Without a list everyone may.
        gateway
            .reload("echo.yaml", &annotated(&lab, ""))
            .expect("reload");
        let _both =
            [CLIENT, OTHER.into()].map(|source| greet(&lab, source, 31_400).expect("everyone may"));
    }
}

#[test]
fn an_authorization_policy_says_who_may_connect_in_both_data_paths() {
    for datapath in BOTH {
        let Some(lab) = scene::lab() else { return };
        let _echo = scene(&lab);
        let policy = "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: office}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  rules:
  - from: [{source: {ipBlocks: [10.98.0.0/24], notIpBlocks: [10.98.0.3]}}]
    to: [{operation: {ports: [\"31400\"]}}]
";
        let yaml = annotated(&lab, "") + policy;
        let gateway = start(&lab, datapath, yaml);
        let _client = greet(&lab, CLIENT, 31_400).expect("the client may");
        assert!(greet(&lab, OTHER, 31_400).is_none(), "{datapath:?}");
        expect_counted(&gateway, datapath, 1);
    }
}

#[test]
fn lists_outlive_the_agent_and_are_adopted() {
    let Some(lab) = scene::lab() else { return };
    let _echo = scene(&lab);
    let yaml = annotated(&lab, "sluice.dev/deny-sources: 10.98.0.3");
    let mut gateway = start(&lab, Datapath::Ebpf, yaml);
    gateway.kill();
    let _client = greet(&lab, CLIENT, 31_400).expect("forwarded without an agent");
    assert!(greet(&lab, OTHER, 31_400).is_none());
    let bootstrap = gateway.bootstrap_file();
    let to = gateway.listener(31_400);
    let said = gateway
        .sluice(&[
            "trace",
            "--bootstrap",
            &bootstrap.to_string_lossy(),
            "--from",
            "10.98.0.3:4000",
            "--to",
            &to,
        ])
        .expect("trace");
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(
        text.contains("! sources: 10.98.0.3 is not taken: dropped as source_denied"),
        "{text}"
    );
    gateway.start().expect("start again");
    let _client = greet(&lab, CLIENT, 31_400).expect("the client may");
    assert!(greet(&lab, OTHER, 31_400).is_none());
    let warnings = &gateway.status().expect("status")["datapath"]["report"]["warnings"];
    assert_eq!(warnings.as_array().map(Vec::len), Some(0), "{warnings}");
}
