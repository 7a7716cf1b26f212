// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the agent takes it gives back: VIP routes, programs, links, pins.

use std::{fs, time::Duration};

use gateway_tests::{attached, backend::echo::Echo, lab::Lab};

use crate::{
    forward::assert_echoes,
    scene::{self, backend, serve, tcp},
};

#[test]
fn detach_leaves_nothing_behind() {
    let Some(lab) = scene::lab() else { return };
    let before = traces(&lab);
    let _echo = Echo::start(&lab, 0, 7000, "").expect("echo");
    let yaml = tcp("echo", 31_400, &[backend(&lab, 0, 7000)]);
    let mut gateway = serve(&lab, &[("echo.yaml", yaml)]);
    assert_echoes(&lab, 1000);
    let during = traces(&lab);
    assert!(during.contains("10.97.0.1"), "the VIP is claimed: {during}");
    assert!(during.contains("sk_lookup: 1"), "{during}");
    gateway
        .terminate(Duration::from_secs(40))
        .expect("terminate");
    gateway.detach().expect("detach");
    assert_eq!(traces(&lab), before);
    assert_eq!(pins(&lab), Vec::<String>::new());
    gateway.detach().expect("a second detach has nothing to do");
}

#[test]
fn detach_cleans_up_after_a_crash() {
    let Some(lab) = scene::lab() else { return };
    let before = traces(&lab);
    let yaml = tcp("echo", 31_400, &[backend(&lab, 0, 7000)]);
    let mut gateway = serve(&lab, &[("echo.yaml", yaml)]);
    gateway.kill();
    assert_ne!(
        traces(&lab),
        before,
        "a crash leaves the data path in place"
    );
    gateway.detach().expect("detach");
    assert_eq!(traces(&lab), before);
    assert_eq!(pins(&lab), Vec::<String>::new());
}

/// Routes, rules, links and attached programs of the gateway namespace.
pub fn traces(lab: &Lab) -> String {
    let netns = &lab.gateway;
    let mut text = netns.ip("-4 route show table all").expect("routes");
    for family in ["-4", "-6"] {
        text.push_str(&netns.ip(&format!("{family} rule")).expect("rules"));
    }
    text.push_str(&netns.ip("-br addr show scope global").expect("addresses"));
    // An XDP program shows here by its id.
    for line in netns.ip("link show").expect("links").lines() {
        if line.contains("xdp") {
            text.push_str(&format!("{line}\n"));
        }
    }
    for interface in ["wire", "pod1", "pod2", "pod3"] {
        let attached::Attached { tc, sk_lookup } =
            attached::count(netns, interface).expect("ask the kernel");
        text.push_str(&format!("{interface}: tc: {tc} sk_lookup: {sk_lookup}\n"));
    }
    text
}

fn pins(lab: &Lab) -> Vec<String> {
    fs::read_dir(lab.bpffs())
        .expect("list the bpffs")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        // The kernel's own, in every bpffs.
        .filter(|name| !name.ends_with(".debug"))
        .collect()
}
