// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Handed-off connections over every kind of way: each byte is checked at both
//! ends, both directions at once and in turn, with half-closes in either order
//! and resets, and the switch anywhere in between.
//!
//! `SLUICE_HANDOFF_CONNECTIONS` says how many are handed off in all, at least.

use std::{collections::BTreeMap, net::SocketAddr};

use gateway_tests::{
    checked::{Plan, Server, Style},
    gateway::Gateway,
    lab::Lab,
    netns::Netns,
    offload,
    sequence::{Moved, Side},
};

use crate::{
    handoff::{run_to, with_handoff, with_handoff_to},
    handoff_paths::{lose, narrow},
    ipv6,
    scene::{self, vip},
};

/// Handed off in all, unless the environment says otherwise.
const CONNECTIONS: u64 = 2_000;
/// Tests below.
const CASES: u64 = 8;
/// Connections made before it is looked at how many were handed off.
const BATCH: u64 = 120;
const AT_ONCE: usize = 16;

/// Runs connections until enough were handed off.
fn check(lab: &Lab, gateway: &Gateway<'_>, server: (&Server, SocketAddr), plan: fn(u64) -> Plan) {
    let all = std::env::var("SLUICE_HANDOFF_CONNECTIONS").map_or(CONNECTIONS, |text| {
        text.parse()
            .expect("SLUICE_HANDOFF_CONNECTIONS is a number")
    });
    let wanted = all.div_ceil(CASES);
    let (mut made, mut taken) = (0, 0);
    while taken < wanted {
        assert!(
            made < 4 * wanted + BATCH,
            "only {taken} of {made} handed off: {:?}",
            counts(gateway)
        );
        taken += run_to(lab, gateway, server, (BATCH, AT_ONCE), |number| {
            plan(made + number)
        });
        made += BATCH;
    }
    println!("{taken} of {made} handed off, 0 bad: {:?}", counts(gateway));
}

/// What became of the others, and of attempts that had to be made again.
fn counts(gateway: &Gateway<'_>) -> BTreeMap<String, u64> {
    let status = gateway.status().expect("status");
    let counts = status["connections"]["handoff"].as_object();
    counts
        .expect("counts of handoffs")
        .iter()
        .filter_map(|(name, count)| Some((name.clone(), count.as_u64().filter(|n| *n > 0)?)))
        .collect()
}

/// Every style; quiet for a moment half-way, most of the time.
fn short(number: u64) -> Plan {
    Plan {
        seed: number + 1,
        style: Style::nth(number),
        bytes: [
            20_000 + (number as u32 * 7_919) % 100_000,
            20_000 + (number as u32 * 104_729) % 100_000,
        ],
        pause: [20, 40, 0, 80][number as usize / 6 % 4],
    }
}

/// The same without resets: one that is lost is not sent again.
fn without_resets(number: u64) -> Plan {
    Plan {
        style: Style::nth(number % 4),
        ..short(number)
    }
}

/// Long enough that the switch comes in the middle of much.
fn long(number: u64) -> Plan {
    let plan = short(number);
    Plan {
        bytes: plan.bytes.map(|bytes| 200_000 + bytes * 4),
        ..plan
    }
}

/// The usual lab, made different first.
fn over(after_bytes: u64, plan: fn(u64) -> Plan, prepare: impl FnOnce(&Lab)) {
    let Some(lab) = scene::lab() else { return };
    prepare(&lab);
    let server = Server::start(&lab, 0, 7000).expect("server");
    let gateway = with_handoff(&lab, after_bytes);
    check(&lab, &gateway, (&server, vip(&lab, 443)), plan);
}

/// The three namespaces that connections go through.
fn all(lab: &Lab) -> [&Netns; 3] {
    [&lab.client, &lab.gateway, &lab.backends[0]]
}

#[test]
fn in_the_middle_of_a_transfer() {
    over(100_000, long, |_| {});
}

#[test]
fn without_offloads() {
    over(4_096, short, |lab| {
        for netns in [&lab.client, &lab.backends[0]] {
            netns.run(|| offload::none("eth0")).expect("offloads");
        }
    });
}

#[test]
fn with_loss_on_both_sides() {
    over(4_096, without_resets, |lab| {
        lose(&lab.client, 200);
        lose(&lab.backends[0], 200);
    });
}

#[test]
fn between_windows_of_other_scales() {
    over(4_096, short, |lab| {
        // 10 or 11, 7 and what the machine allows.
        lab.client
            .sysctl("net.ipv4.tcp_rmem", "4096 131072 67108864")
            .expect("set");
        lab.backends[0]
            .sysctl("net.ipv4.tcp_rmem", "4096 65536 131072")
            .expect("set");
    });
}

#[test]
fn without_timestamps() {
    over(4_096, short, |lab| {
        for netns in all(lab) {
            netns.sysctl("net.ipv4.tcp_timestamps", "0").expect("set");
        }
    });
}

#[test]
fn over_narrow_links() {
    over(4_096, short, |lab| {
        narrow(lab, "wire", &lab.client);
        narrow(lab, "pod1", &lab.backends[0]);
    });
}

#[test]
fn as_sequence_numbers_begin_anew() {
    let Some(lab) = scene::lab() else { return };
    for netns in all(&lab) {
        Moved::without_sack(netns).expect("set");
    }
    let client = Moved::start(&lab.client, "eth0", Side::Client).expect("attach");
    let backend = Moved::start(&lab.backends[0], "eth0", Side::Server).expect("attach");
    let server = Server::start(&lab, 0, 7000).expect("server");
    let gateway = with_handoff(&lab, 4_096);
    check(&lab, &gateway, (&server, vip(&lab, 443)), short);
    for moved in [client, backend] {
        let ports = moved.ports().expect("the map");
        assert!(ports as u64 >= BATCH / 2, "{ports} ports");
    }
}

#[test]
fn over_ipv6() {
    let Some(lab) = scene::lab() else { return };
    ipv6::dual_stack(&lab);
    let target = SocketAddr::from((ipv6::BACKEND, 7000));
    let server = Server::serve(&lab.backends[0], target).expect("server");
    let gateway = with_handoff_to(&lab, 4_096, target);
    let address = SocketAddr::from((ipv6::VIP, 443));
    check(&lab, &gateway, (&server, address), short);
}
