// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Interfaces that come, go and come again while the agent runs.

use std::time::{Duration, Instant};

use gateway_tests::{
    attached::{self, Tcx},
    backend::echo::Echo,
    client::raw,
    lab::Lab,
    wait,
};

use crate::{
    scene::{self, backend, serve, tcp, vip},
    upgrade::converse,
};

const DEADLINE: Duration = Duration::from_secs(10);

/// Waits for one program on an interface.
fn attached(lab: &Lab, interface: &str) -> Tcx {
    let start = Instant::now();
    let what = format!("a program on {interface}");
    let found = wait::until(&what, DEADLINE, || {
        Ok(attached::tcx(&lab.gateway, interface)?.first().copied())
    })
    .expect("attach");
    println!("{interface}: attached after {:?}", start.elapsed());
    found
}

#[test]
fn interfaces_are_followed_as_they_come_go_and_come_again() {
    let Some(lab) = scene::lab() else { return };
    let _echos = [0, 1].map(|index| Echo::start(&lab, index, 7000, "").expect("echo"));
    let yaml = tcp("stays", 31_400, &[backend(&lab, 0, 7000)])
        + &tcp("leaves", 31_401, &[backend(&lab, 1, 7000)]);
    let gateway = serve(&lab, &[("echo.yaml", yaml)]);
    let connect = |port| raw::connect(&lab.client, vip(&lab, port)).expect("connect");
    let mut stays = connect(31_400);
    let mut leaves = connect(31_401);
    converse(&mut stays, "before");
    converse(&mut leaves, "before");

    // One that a pattern names comes later.
    let first = attached(&lab, "pod1");
    lab.gateway
        .ip("link add pod9 type veth peer name peer9")
        .expect("add");
    attached(&lab, "pod9");
    converse(&mut stays, "beside a new one");

    // A pod's interface is taken down and made anew, as by a CNI that starts
    // again: another device of the same name.
    let old = attached(&lab, "pod2");
    lab.gateway.ip("link del pod2").expect("del");
    let make = format!(
        "link add pod2 type veth peer name eth0 netns {}",
        lab.backends[1].name()
    );
    lab.gateway.ip(&make).expect("add");
    lab.gateway
        .ip("addr add 10.99.2.1/24 dev pod2")
        .expect("addr");
    lab.gateway.ip("link set pod2 up").expect("up");
    lab.backends[1]
        .ip("addr add 10.99.2.2/24 dev eth0")
        .expect("addr");
    lab.backends[1].ip("link set eth0 up").expect("up");
    lab.backends[1]
        .ip("route add default via 10.99.2.1")
        .expect("route");
    let new = attached(&lab, "pod2");
    assert_ne!(new.link, old.link);
    // The flow lived on in the kernel, and TCP sends again what was lost.
    converse(&mut leaves, "on the new device");
    converse(&mut connect(31_401), "new");

    // The same device under another name keeps its link.
    lab.gateway.ip("link set pod9 down").expect("down");
    let before = attached(&lab, "pod9");
    lab.gateway.ip("link set pod9 name pod8").expect("rename");
    wait::until("the new name in /status", DEADLINE, || {
        let report = gateway.status()?["datapath"]["report"]["interfaces"].to_string();
        Ok((report.contains("pod8") && !report.contains("pod9")).then_some(()))
    })
    .expect("follow");
    assert_eq!(attached(&lab, "pod8").link, before.link);
    assert_eq!(attached::tcx(&lab.gateway, "pod8").expect("ask").len(), 1);

    // What is gone leaves no pin behind; who stayed was not touched.
    lab.gateway.ip("link del pod8").expect("del");
    let links = lab.bpffs().join("sluice");
    wait::until("no pin of pod8", DEADLINE, || {
        let layout = std::fs::read_dir(&links)?.next().transpose()?;
        let Some(layout) = layout else {
            return Ok(None);
        };
        let mut names = std::fs::read_dir(layout.path().join("links"))?;
        let stale = names.any(|name| name.is_ok_and(|name| name.file_name() == "tc_pod8"));
        Ok((!stale).then_some(()))
    })
    .expect("no stale pin");
    assert_eq!(attached(&lab, "pod1"), first);
    converse(&mut stays, "after");
}

#[test]
fn a_wire_that_is_replaced_is_attached_again() {
    let Some(lab) = scene::lab() else { return };
    let _echo = Echo::start(&lab, 0, 7000, "").expect("echo");
    let yaml = tcp("echo", 31_400, &[backend(&lab, 0, 7000)]);
    let _gateway = serve(&lab, &[("echo.yaml", yaml)]);
    let mut stream = raw::connect(&lab.client, vip(&lab, 31_400)).expect("connect");
    converse(&mut stream, "before");
    let old = attached(&lab, "wire");
    lab.gateway.ip("link del wire").expect("del");
    let make = format!(
        "link add wire type veth peer name eth0 netns {}",
        lab.client.name()
    );
    lab.gateway.ip(&make).expect("add");
    // Not up before the program is there: the stack would reset the stream.
    let new = attached(&lab, "wire");
    assert_ne!(new, old);
    lab.gateway
        .ip("addr add 10.98.0.1/24 dev wire")
        .expect("addr");
    lab.gateway.ip("link set wire up").expect("up");
    lab.client
        .ip("addr add 10.98.0.2/24 dev eth0")
        .expect("addr");
    lab.client.ip("link set eth0 up").expect("up");
    lab.client
        .ip("route add default via 10.98.0.1")
        .expect("route");
    converse(&mut stream, "on the new wire");
}
