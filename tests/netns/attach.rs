// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the forwarding program is attached: every mode forwards alike.

use gateway_tests::{attached, backend::echo::Echo, gateway::Datapath, lab::Lab, offload};

use crate::{
    forward::assert_echoes,
    scene::{self, backend, serve_with, tcp},
};

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

fn forwards_with(lab: &Lab, bootstrap: &str) {
    let _echo = Echo::start(lab, 0, 7000, "").expect("echo");
    let yaml = tcp("echo", 31_400, &[backend(lab, 0, 7000)]);
    let gateway = serve_with(lab, Datapath::Ebpf, bootstrap, &[("echo.yaml", yaml)]);
    let xdp = bootstrap.contains("xdp");
    let links = lab.gateway.ip("link show wire").expect("links");
    assert_eq!(links.contains("xdp"), xdp, "{links}");
    let programs = attached::count(&lab.gateway, "wire").expect("ask the kernel");
    assert_eq!(programs.tcx > 0, !xdp, "{programs:?}");
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
