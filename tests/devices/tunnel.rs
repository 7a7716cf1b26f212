// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Backends of direct return that are set up by the very lines of the README.

use std::fs;

use gateway_tests::netns::Netns;

use crate::{ipv6, modes, scene};

const README: &str = include_str!("../../README.md");
/// Bytes in each direction of a connection.
const HALF: u64 = 200_000;

/// The commands of the block in which the backend's tunnels are.
fn commands() -> Vec<&'static str> {
    let blocks = README.split("```sh\n").skip(1);
    let mut blocks = blocks.filter_map(|rest| rest.split("```").next());
    let block = blocks.find(|block| block.contains("tunl0"));
    let lines = block.expect("a block").lines();
    let commands = lines.flat_map(|line| line.split('#').next().unwrap_or_default().split(';'));
    commands
        .map(str::trim)
        .filter(|it| !it.is_empty())
        .collect()
}

fn run(netns: &Netns, command: &str) {
    if let Some(arguments) = command.strip_prefix("ip ") {
        netns.ip(arguments).expect(command);
    } else if let Some(settings) = command.strip_prefix("sysctl -w ") {
        for setting in settings.split_whitespace() {
            let (key, value) = setting.split_once('=').expect(command);
            netns.sysctl(key, value).expect(command);
        }
    } else {
        panic!("{command}: neither ip nor sysctl");
    }
}

/// Packets that a device has received.
fn received(netns: &Netns, device: &str) -> u64 {
    let table = netns.run(|| fs::read_to_string("/proc/thread-self/net/dev"));
    let table = table.expect("the devices");
    let mut lines = table.lines().filter_map(|line| line.trim().split_once(':'));
    let (_, counters) = lines.find(|(name, _)| *name == device).expect(device);
    let packets = counters.split_whitespace().nth(1);
    packets
        .and_then(|text| text.parse().ok())
        .expect("a number")
}

#[test]
fn direct_return_works_with_the_lines_of_the_readme() {
    let Some(lab) = scene::lab() else { return };
    ipv6::dual_stack(&lab);
    let [backend, ..] = &lab.backends;
    let commands = commands();
    assert!(commands.len() >= 5, "{commands:?}");
    // As a machine of today has them: Debian's is not so, others are.
    for key in [
        "net.ipv4.conf.all.rp_filter",
        "net.ipv4.conf.tunl0.rp_filter",
    ] {
        backend.sysctl(key, "1").expect("switch on");
    }
    for command in commands {
        run(backend, command);
    }
    // The way to the backend takes the outer header as well.
    for (netns, command) in [
        (&lab.gateway, "link set pod1 mtu 1600"),
        (backend, "link set eth0 mtu 1600"),
        (backend, "route replace default via 10.99.1.1 mtu 1500"),
        (backend, "-6 route replace default via fd99::1 mtu 1500"),
    ] {
        netns.ip(command).expect("longer packets");
    }
    let services = modes::services(&lab);
    let services: Vec<_> = services.into_iter().filter(|it| it.mode == "dsr").collect();
    let gateway = scene::serve(&lab, &[("modes.yaml", modes::yaml(&services))]);
    for (service, device) in services.into_iter().zip(["tunl0", "ip6tnl0"]) {
        let seen = modes::exchange(&lab, service, HALF, HALF);
        assert_eq!(seen, modes::client(service.vip), "{service:?}");
        modes::datagrams(&lab, service, 200, 1_400, 1_400);
        let counted = gateway
            .service_at(&service.vip.to_string())
            .expect("counters");
        assert_eq!((counted.flows, counted.packets_out), (1, 0), "{service:?}");
        assert!(received(backend, device) > HALF / 1_500, "{device}");
    }
}
