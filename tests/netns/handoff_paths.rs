// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Handed-off connections over ways that lose packets, and between ends that speak
//! TCP differently: what cannot be made one stays with the agent, and every byte
//! arrives either way.

use std::process::Stdio;

use gateway_tests::{
    checked::{Plan, Server, Style},
    lab::Lab,
    netns::{self, Netns},
};
use serde_json::Value;

use crate::{
    handoff::{run, with_handoff},
    scene,
};

/// Connections of every style with some hundred segments each.
fn plan(number: u64) -> Plan {
    Plan {
        seed: number + 1,
        style: Style::nth(number),
        bytes: [
            10_000 + (number as u32 * 7919) % 120_000,
            10_000 + (number as u32 * 104_729) % 120_000,
        ],
        pause: if number.is_multiple_of(3) { 20 } else { 0 },
    }
}

/// [`plan`] without resets: one that is lost is not sent again.
fn plan_without_resets(number: u64) -> Plan {
    Plan {
        style: Style::nth(number % 4),
        ..plan(number)
    }
}

/// Connections that were not handed off for `reason`.
fn ineligible(status: &Value, reason: &str) -> u64 {
    status["connections"]["handoff"][format!("ineligible_{reason}")]
        .as_u64()
        .expect("a count")
}

/// Drops one packet of `each` that come in.
pub fn lose(netns: &Netns, each: u32) {
    let rules = format!(
        "add table inet loss; \
         add chain inet loss in {{ type filter hook input priority 0; }}; \
         add rule inet loss in numgen random mod {each} 0 drop"
    );
    netns::run(netns.command("nft").arg(rules).stdin(Stdio::null())).expect("nft");
}

/// Between the gateway and a backend, at both ends.
pub fn narrow(lab: &Lab, gateway: &str, end: &Netns) {
    lab.gateway
        .ip(&format!("link set {gateway} mtu 1300"))
        .expect("shorten");
    end.ip("link set eth0 mtu 1300").expect("shorten");
}

#[test]
fn segments_that_are_lost_around_the_moment_are_sent_again() {
    let Some(lab) = scene::lab() else { return };
    let server = Server::start(&lab, 0, 7000).expect("server");
    let gateway = with_handoff(&lab, 4_096);
    lose(&lab.client, 100);
    lose(&lab.backends[0], 100);
    let count = 240;
    let taken = run(&lab, &gateway, &server, (count, 24), plan_without_resets);
    println!("{taken} of {count} handed off");
    assert!(taken > count / 20, "{taken} of {count} handed off");
}

#[test]
fn timestamps_of_one_side_alone_keep_a_connection_with_the_agent() {
    let Some(lab) = scene::lab() else { return };
    let server = Server::start(&lab, 0, 7000).expect("server");
    let gateway = with_handoff(&lab, 4_096);
    lab.client
        .sysctl("net.ipv4.tcp_timestamps", "0")
        .expect("set");
    let count = 60;
    let taken = run(&lab, &gateway, &server, (count, 12), plan);
    assert_eq!(taken, 0);
    assert!(ineligible(&gateway.status().expect("status"), "timestamps") > 0);
    // Both sides without.
    lab.gateway
        .sysctl("net.ipv4.tcp_timestamps", "0")
        .expect("set");
    let taken = run(&lab, &gateway, &server, (count, 12), plan);
    println!("{taken} of {count} handed off");
    assert!(taken > count / 10, "{taken} of {count} handed off");
}

#[test]
fn window_scales_may_differ() {
    let Some(lab) = scene::lab() else { return };
    let server = Server::start(&lab, 0, 7000).expect("server");
    let gateway = with_handoff(&lab, 4_096);
    // A client without, whose windows end at 64 KiB.
    lab.client
        .sysctl("net.ipv4.tcp_window_scaling", "0")
        .expect("set");
    let count = 120;
    let taken = run(&lab, &gateway, &server, (count, 12), plan);
    println!("{taken} of {count} handed off");
    assert!(taken > count / 10, "{taken} of {count} handed off");
    // And a backend without, behind clients that have one.
    lab.client
        .sysctl("net.ipv4.tcp_window_scaling", "1")
        .expect("set");
    lab.backends[0]
        .sysctl("net.ipv4.tcp_window_scaling", "0")
        .expect("set");
    let taken = run(&lab, &gateway, &server, (count, 12), plan);
    println!("{taken} of {count} handed off");
    assert!(taken > count / 10, "{taken} of {count} handed off");
}

#[test]
fn a_backend_behind_a_narrower_way_stays_with_the_agent() {
    let Some(lab) = scene::lab() else { return };
    narrow(&lab, "pod1", &lab.backends[0]);
    let server = Server::start(&lab, 0, 7000).expect("server");
    let gateway = with_handoff(&lab, 4_096);
    let count = 60;
    let taken = run(&lab, &gateway, &server, (count, 12), plan);
    assert_eq!(taken, 0);
    assert!(ineligible(&gateway.status().expect("status"), "mss") > 0);
}

#[test]
fn a_client_behind_a_narrower_way_is_handed_off() {
    let Some(lab) = scene::lab() else { return };
    narrow(&lab, "wire", &lab.client);
    let server = Server::start(&lab, 0, 7000).expect("server");
    let gateway = with_handoff(&lab, 4_096);
    let count = 60;
    let taken = run(&lab, &gateway, &server, (count, 12), plan);
    println!("{taken} of {count} handed off");
    assert!(taken > count / 10, "{taken} of {count} handed off");
}
