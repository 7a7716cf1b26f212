// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SIGTERM: connections in the agent finish, forwarded ones do not notice.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use gateway_tests::{
    admin,
    backend::echo::Echo,
    client::raw::{self, client_hello, records},
    gateway::Datapath,
    wait,
};

use crate::scene::{self, backend, passthrough, serve_with, tcp, vip};

#[test]
fn a_drain_waits_for_open_connections_and_leaves_forwarded_ones_alone() {
    let Some(lab) = scene::lab() else { return };
    let _echo = Echo::start(&lab, 0, 7000, "").expect("echo");
    let target = [backend(&lab, 0, 7000)];
    let yaml = tcp("echo", 31_400, &target) + &passthrough("raw", 443, "a.example.com", &target);
    // What is quiet would be the kernel's as the drain begins.
    let bootstrap = "handoff: {mode: off}\n";
    let mut gateway = serve_with(&lab, Datapath::Ebpf, bootstrap, &[("all.yaml", yaml)]);

    let mut forwarded = raw::connect(&lab.client, vip(&lab, 31_400)).expect("connect");
    echoes(&mut forwarded, b"before");
    let hello = records(&client_hello(Some("a.example.com"), 300), 16_384);
    let mut passed = raw::connect(&lab.client, vip(&lab, 443)).expect("connect");
    echoes(&mut passed, &hello);

    gateway
        .process()
        .expect("running")
        .signal(libc::SIGTERM)
        .expect("signal");
    wait::until_true("not ready", Duration::from_secs(5), || {
        admin::fetch(&lab.gateway, gateway.admin(), "/readyz")
            .is_ok_and(|answer| answer.status == 503)
    })
    .expect("the drain shows");
    echoes(&mut passed, b"while it drains");
    assert!(gateway.process().expect("running").exit_status().is_none());
    drop(passed);
    let status = gateway
        .process()
        .expect("running")
        .wait(Duration::from_secs(10))
        .expect("ends once the connection has");
    assert!(status.success(), "{status}");
    echoes(&mut forwarded, b"without any agent");
    let mut another = raw::connect(&lab.client, vip(&lab, 31_400)).expect("a new flow");
    echoes(&mut another, b"also without any agent");
}

/// Sends `bytes` and wants them back.
fn echoes(stream: &mut TcpStream, bytes: &[u8]) {
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("set a deadline");
    stream.write_all(bytes).expect("write");
    let mut got = vec![0; bytes.len()];
    stream.read_exact(&mut got).expect("read");
    assert_eq!(got, bytes);
}
