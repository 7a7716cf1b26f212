// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Handed-off connections whose ends are silent, removed or idle: nobody has a
//! socket that would find out, and yet both ends are told.

use std::{net::TcpStream, thread, time::Duration};

use gateway_tests::{
    admin,
    client::raw::{End, read_to_end},
    gateway::{Datapath, Gateway},
    lab::{Lab, VIP},
    netns::Netns,
};
use serde_json::Value;

use crate::{
    handoff::NAME,
    handoff_ends::{exchange, handed_over},
    scene::{self, backend, passthrough, serve_with},
};

/// Until an end must have heard.
const DEADLINE: Duration = Duration::from_secs(20);

fn yaml(lab: &Lab, index: usize) -> String {
    passthrough("raw", 443, NAME, &[backend(lab, index, 7000)])
}

fn gateway<'lab>(lab: &'lab Lab, bootstrap: &str, yaml: String) -> Gateway<'lab> {
    let bootstrap =
        format!("handoff: {{mode: auto, after_bytes: 4096, keepalive: 500ms}}\n{bootstrap}");
    serve_with(lab, Datapath::Ebpf, &bootstrap, &[("raw.yaml", yaml)])
}

/// What comes from a namespace to `destination` is lost from now on; the other
/// way it still hears.
fn mute(netns: &Netns, destination: &str) {
    for interface in ["all", "eth0"] {
        let key = format!("net.ipv4.conf.{interface}.rp_filter");
        netns.sysctl(&key, "0").expect("hear everybody");
    }
    netns
        .ip(&format!("route add blackhole {destination}/32"))
        .expect("cut off");
}

fn both_are_reset(client: &mut TcpStream, server: &mut TcpStream) {
    for (stream, which) in [(client, "client"), (server, "server")] {
        let end = read_to_end(stream, DEADLINE).expect("read");
        assert_eq!(end, End::Reset, "the {which} is told");
    }
}

fn resets(gateway: &Gateway<'_>, reason: &str) -> f64 {
    let metrics = gateway.metrics().expect("metrics");
    metrics.sum("sluice_flows_reset_total", &[("reason", reason)])
}

/// Packets of the only flow, both ways.
fn packets(lab: &Lab, gateway: &Gateway<'_>) -> [u64; 2] {
    let answer = admin::fetch(&lab.gateway, gateway.admin(), "/flows").expect("flows");
    let list: Value = serde_json::from_str(&answer.body).expect("JSON");
    ["packets_in", "packets_out"].map(|key| list["flows"][0][key].as_u64().expect("a number"))
}

#[test]
fn ends_that_answer_are_asked_and_left_alone() {
    let Some(lab) = scene::lab() else { return };
    let gateway = gateway(&lab, "", yaml(&lab, 0));
    let (mut client, mut server) = handed_over(&lab, &gateway);
    let before = packets(&lab, &gateway);
    // Longer than a silent one would be given.
    thread::sleep(Duration::from_secs(6));
    let after = packets(&lab, &gateway);
    assert!(
        after[0] > before[0] && after[1] > before[1],
        "both ends have answered: {before:?}, {after:?}"
    );
    exchange(&mut client, &mut server, 9);
    assert_eq!(resets(&gateway, "peer_silent"), 0.0);
}

#[test]
fn a_silent_client_is_found_and_both_ends_are_reset() {
    let Some(lab) = scene::lab() else { return };
    let gateway = gateway(&lab, "", yaml(&lab, 0));
    let (mut client, mut server) = handed_over(&lab, &gateway);
    mute(&lab.client, &VIP.to_string());
    both_are_reset(&mut client, &mut server);
    assert_eq!(resets(&gateway, "peer_silent"), 1.0);
}

#[test]
fn a_silent_backend_is_found_by_the_next_agent() {
    let Some(lab) = scene::lab() else { return };
    let mut gateway = gateway(&lab, "", yaml(&lab, 0));
    let (mut client, mut server) = handed_over(&lab, &gateway);
    gateway.kill();
    mute(
        &lab.backends[0],
        &server.peer_addr().expect("an address").ip().to_string(),
    );
    gateway.start().expect("start again");
    both_are_reset(&mut client, &mut server);
    assert_eq!(resets(&gateway, "peer_silent"), 1.0);
}

#[test]
fn an_endpoint_that_was_removed_keeps_it_while_it_answers() {
    let Some(lab) = scene::lab() else { return };
    let bootstrap = "timeouts: {removed_endpoint: 500ms}\n";
    let gateway = gateway(&lab, bootstrap, yaml(&lab, 0));
    let (mut client, mut server) = handed_over(&lab, &gateway);
    gateway.reload("raw.yaml", &yaml(&lab, 1)).expect("reload");
    thread::sleep(Duration::from_secs(5));
    exchange(&mut client, &mut server, 9);
    mute(
        &lab.backends[0],
        &server.peer_addr().expect("an address").ip().to_string(),
    );
    both_are_reset(&mut client, &mut server);
    let reset = resets(&gateway, "endpoint_gone") + resets(&gateway, "peer_silent");
    assert_eq!(reset, 1.0);
}

#[test]
fn an_idle_timeout_ends_it_on_both_sides() {
    let Some(lab) = scene::lab() else { return };
    let rule = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: raw}\nspec:\n  host: raw.internal\n  trafficPolicy:\n    connectionPool: {tcp: {idleTimeout: 3s}}\n";
    let gateway = gateway(&lab, "", yaml(&lab, 0) + rule);
    let (mut client, mut server) = handed_over(&lab, &gateway);
    for round in 10..14 {
        thread::sleep(Duration::from_secs(1));
        exchange(&mut client, &mut server, round);
    }
    both_are_reset(&mut client, &mut server);
}
