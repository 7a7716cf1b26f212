// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the node says to its neighbours, and keeps of them.

use std::{fs, net::SocketAddr, time::Duration};

use gateway_tests::{
    gateway::{Datapath, Gateway},
    wait,
};

use crate::{
    ipv6,
    modes::{self, DEADLINE},
    scene,
};

/// Clients of the same network ask for the VIPs themselves, without a router.
#[test]
fn vips_in_the_network_of_the_clients_are_answered_for() {
    let Some(lab) = scene::lab() else { return };
    ipv6::dual_stack(&lab);
    // Claimed by the agent, not configured.
    let own = format!("addr del {}/128 dev lo", ipv6::VIP);
    lab.gateway.ip(&own).expect("give it up");
    for route in [
        "route del default".to_owned(),
        "-6 route del default".to_owned(),
        format!("route add {} dev eth0", lab.vip()),
        format!("-6 route add {} dev eth0", ipv6::VIP),
    ] {
        lab.client.ip(&route).expect("on the link");
    }
    let services = modes::services(&lab);
    let mut gateway = Gateway::new(&lab, Datapath::Ebpf, "").expect("prepare the agent");
    let bootstrap = gateway.bootstrap_file();
    let text = fs::read_to_string(&bootstrap).expect("the bootstrap");
    let text = text.replace(
        &format!("vips: [{}]", lab.vip()),
        &format!("vips: [{}, \"{}\"]", lab.vip(), ipv6::VIP),
    );
    fs::write(&bootstrap, text).expect("write");
    gateway
        .write("modes.yaml", &modes::yaml(&services))
        .expect("configure");
    gateway.start().expect("start the agent");
    for service in services.into_iter().filter(|one| one.mode == "dnat") {
        modes::exchange(&lab, service, 10_000, 10_000);
        let ip = service.vip.ip();
        let known = lab
            .client
            .ip(&format!("neigh show {ip}"))
            .expect("neighbours");
        assert!(known.contains("lladdr"), "{known}");
    }
    gateway.terminate(DEADLINE).expect("end");
    gateway.detach().expect("detach");
    let proxied = lab.gateway.ip("-6 neigh show proxy").expect("entries");
    assert_eq!(proxied.trim(), "", "given back");
}

/// At XDP nothing but the kernel's own probes would notice that a backend moves.
#[test]
fn next_hops_of_backends_are_kept_resolved_at_xdp() {
    let Some(lab) = scene::lab() else { return };
    let backend: SocketAddr = scene::backend(&lab, 0, 7000);
    let yaml = scene::tcp("echo", 31_400, &[backend]);
    let gateway = scene::serve_with(
        &lab,
        Datapath::Ebpf,
        "attach: xdp-generic\n",
        &[("echo.yaml", yaml)],
    );
    let entry = || {
        let shown = lab
            .gateway
            .ip(&format!("neigh show {} dev pod1", backend.ip()));
        shown.expect("neighbours")
    };
    // Nobody has sent anything there yet.
    wait::until("the entry", Duration::from_secs(10), || {
        let shown = entry();
        Ok((shown.contains("managed") && shown.contains("lladdr")).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", entry()));
    // And no longer than it is one.
    let elsewhere = scene::tcp("echo", 31_400, &[scene::backend(&lab, 1, 7000)]);
    gateway.reload("echo.yaml", &elsewhere).expect("reload");
    assert!(!entry().contains("managed"), "{}", entry());
}
