// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the forwarding program is attached: every mode forwards alike.

use gateway_tests::{backend::echo::Echo, gateway::Datapath};

use crate::{
    forward::assert_echoes,
    scene::{self, backend, serve_with, tcp},
};

#[test]
fn tc_forwards() {
    forwards_with("attach: tc\n");
}

#[test]
fn generic_xdp_forwards() {
    forwards_with("attach: xdp-generic\n");
}

#[test]
fn native_xdp_forwards() {
    forwards_with("attach: xdp-native\n");
}

fn forwards_with(bootstrap: &str) {
    let Some(lab) = scene::lab() else { return };
    let _echo = Echo::start(&lab, 0, 7000, "").expect("echo");
    let yaml = tcp("echo", 31_400, &[backend(&lab, 0, 7000)]);
    let gateway = serve_with(&lab, Datapath::Ebpf, bootstrap, &[("echo.yaml", yaml)]);
    assert_echoes(&lab, 1 << 20);
    let counters = gateway.service(31_400).expect("counters");
    assert_eq!(counters.flows, 1, "{counters:?}");
    assert!(counters.packets_out > 0, "{counters:?}");
}
