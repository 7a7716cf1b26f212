// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the forwarding program is attached: every mode forwards alike.

use std::{
    io::{Read, Write},
    time::Duration,
};

use gateway_tests::{
    attached,
    backend::echo::Echo,
    client::raw,
    gateway::{Datapath, Gateway},
    lab::Lab,
    offload, wait,
};

use crate::{
    forward::assert_echoes,
    scene::{self, backend, serve, serve_with, tcp},
};

/// For what takes a second.
const DEADLINE: Duration = Duration::from_secs(20);

#[test]
fn tc_forwards_super_packets() {
    let Some(lab) = scene::lab() else { return };
    forwards_with(&lab, "attach: tc\n");
}

#[test]
fn auto_takes_tc_on_veth() {
    let Some(lab) = scene::lab() else { return };
    forwards_with(&lab, "attach: auto\n");
}

#[test]
fn generic_xdp_forwards() {
    let Some(lab) = scene::lab() else { return };
    on_wires(&lab);
    forwards_with(&lab, "attach: xdp-generic\n");
}

#[test]
fn native_xdp_forwards() {
    let Some(lab) = scene::lab() else { return };
    on_wires(&lab);
    forwards_with(&lab, "attach: xdp-native\n");
}

/// A veth device sends what XDP redirects to it only if its other end has GRO or a
/// program, as few pods have: such frames were lost.
#[test]
fn the_stack_sends_where_native_xdp_cannot() {
    let Some(lab) = scene::lab() else { return };
    for netns in [&lab.client].into_iter().chain(&lab.backends) {
        netns
            .run(|| offload::full_checksums("eth0"))
            .expect("set offloads");
    }
    let _echo = Echo::start(&lab, 0, 7000, "").expect("echo");
    let yaml = tcp("echo", 31_400, &[backend(&lab, 0, 7000)]);
    let bootstrap = "attach: xdp-native\n";
    let gateway = serve_with(&lab, Datapath::Ebpf, bootstrap, &[("echo.yaml", yaml)]);
    let report = || gateway.status().expect("status")["datapath"]["report"].take();
    let missed = || {
        let packets = &report()["verdicts"]["egress_miss"]["packets"];
        packets.as_u64().expect("counted")
    };
    let told = || {
        let warnings = report()["warnings"].take();
        let mut warnings = warnings.as_array().expect("a list").iter();
        warnings.any(|it| {
            let text = it.as_str().unwrap_or_default();
            text.starts_with("pod1 (veth)") && text.contains("gro on")
        })
    };
    assert_echoes(&lab, 1 << 20);
    assert!(missed() > 0);
    wait::until_true("a word to the operator", DEADLINE, told).expect("told");

    on_wires(&lab);
    wait::until_true("the end of it", DEADLINE, || !told()).expect("noticed");
    let before = missed();
    assert_echoes(&lab, 1 << 20);
    assert_eq!(missed(), before, "from now on XDP sends");
}

#[test]
fn a_new_agent_replaces_the_program_under_a_connection() {
    let Some(lab) = scene::lab() else { return };
    let _echo = Echo::start(&lab, 0, 7000, "").expect("echo");
    let yaml = tcp("echo", 31_400, &[backend(&lab, 0, 7000)]);
    let mut gateway = serve(&lab, &[("echo.yaml", yaml)]);
    let programs = |gateway: &Gateway<'_>| {
        let status = gateway.status().expect("status");
        let interfaces = status["datapath"]["report"]["interfaces"]
            .as_array()
            .expect("a list");
        let ids = interfaces.iter().map(|of| of["program_id"].as_u64());
        ids.collect::<Option<Vec<u64>>>().expect("ids")
    };
    let before = programs(&gateway);
    let mut stream = raw::connect(&lab.client, scene::vip(&lab, 31_400)).expect("connect");
    let deadline = Some(Duration::from_secs(20));
    stream.set_read_timeout(deadline).expect("set a deadline");
    let mut echoes = |text: &[u8; 4]| {
        stream.write_all(text).expect("send");
        let mut got = [0; 4];
        stream.read_exact(&mut got).expect("receive");
        assert_eq!(&got, text);
    };
    echoes(b"here");
    gateway.kill();
    echoes(b"dead");
    gateway.start().expect("start again");
    echoes(b"back");
    let after = programs(&gateway);
    assert_eq!(before.len(), after.len());
    assert!(before.iter().all(|id| !after.contains(id)), "{after:?}");
    let attached = attached::count(&lab.gateway, "wire").expect("ask the kernel");
    assert_eq!((attached.tc, attached.sk_lookup), (1, 1));
    assert_eq!(gateway.service(31_400).expect("counters").flows, 1);
}

fn forwards_with(lab: &Lab, bootstrap: &str) {
    let _echo = Echo::start(lab, 0, 7000, "").expect("echo");
    let yaml = tcp("echo", 31_400, &[backend(lab, 0, 7000)]);
    let gateway = serve_with(lab, Datapath::Ebpf, bootstrap, &[("echo.yaml", yaml)]);
    let xdp = bootstrap.contains("xdp");
    let links = lab.gateway.ip("link show wire").expect("links");
    assert_eq!(links.contains("xdp"), xdp, "{links}");
    let programs = attached::count(&lab.gateway, "wire").expect("ask the kernel");
    assert_eq!(programs.tc > 0, !xdp, "{programs:?}");
    assert_echoes(lab, 1 << 20);
    let counters = gateway.service(31_400).expect("counters");
    assert_eq!(counters.flows, 1, "{counters:?}");
    assert!(counters.packets_out > 0, "{counters:?}");
}

fn on_wires(lab: &Lab) {
    for netns in [&lab.client].into_iter().chain(&lab.backends) {
        netns
            .run(|| offload::like_a_wire("eth0"))
            .expect("set offloads");
    }
}
