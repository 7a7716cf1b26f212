// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Routes that say themselves whether and when their connections are handed off.

use std::time::Duration;

use gateway_tests::{
    backend::echo::Echo,
    gateway::{Datapath, Gateway},
    wait,
};

use crate::{
    handoff_records::{Client, flows},
    scene::{self, backend, passthrough, serve_with},
};

#[test]
fn a_route_hands_off_by_age_or_by_round_trips_and_others_do_not() {
    let Some(lab) = scene::lab() else { return };
    let _echo = Echo::start(&lab, 0, 7000, "").expect("echo");
    let route = |name: &str, annotations: &str| {
        let yaml = passthrough(
            name,
            443,
            &format!("{name}.test"),
            &[backend(&lab, 0, 7000)],
        );
        let plain = format!("kind: VirtualService\nmetadata: {{name: {name}}}");
        assert!(yaml.contains(&plain), "{yaml}");
        let annotated = format!(
            "kind: VirtualService\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}"
        );
        (format!("{name}.yaml"), yaml.replace(&plain, &annotated))
    };
    let files = [
        route(
            "old",
            "sluice.dev/handoff: always-log, sluice.dev/handoff-after-age: 1s",
        ),
        route(
            "chatty",
            "sluice.dev/handoff: auto, sluice.dev/handoff-after-round-trips: \"3\"",
        ),
        route("off", "sluice.dev/handoff: \"off\""),
        route("silent", "sluice.dev/handoff-after-bytes: \"1\""),
    ];
    let files: Vec<(&str, String)> = files
        .iter()
        .map(|(file, yaml)| (file.as_str(), yaml.clone()))
        .collect();
    let bootstrap = "handoff: {mode: routes, after_bytes: 1}\n";
    let mut gateway = serve_with(&lab, Datapath::Ebpf, bootstrap, &files);
    // The hello is all that they say, and its echo.
    let names = ["old", "chatty", "off", "silent"];
    let mut clients = names.map(|name| Client::open(&lab, &format!("{name}.test")));
    let handed_off = |name: &str| {
        let name = format!("{name}.test");
        flows(&gateway, &["--sni", &name, "--kind", "handoff"]).len()
    };
    wait::until_true("it is old enough", Duration::from_secs(10), || {
        handed_off("old") == 1
    })
    .expect("handed off");
    assert_eq!(names.map(handed_off), [1, 0, 0, 0]);
    for client in &mut clients {
        client.rounds(2);
    }
    wait::until_true("it has spoken enough", Duration::from_secs(10), || {
        handed_off("chatty") == 1
    })
    .expect("handed off");
    for client in &mut clients {
        client.rounds(2);
    }
    assert_eq!(names.map(handed_off), [1, 1, 0, 0]);
    for client in &mut clients {
        client.finish();
    }
    let log = gateway.process().expect("it runs").log();
    let told = |name: &str| {
        let sni = format!("sni=\"{name}.test\"");
        let is_told = |line: &&str| line.contains("handed off") && line.contains(&sni);
        log.lines().filter(is_told).count()
    };
    assert!(told("old") > 0, "{log}");
    assert_eq!(told("chatty"), 0, "{log}");
}

#[test]
fn without_any_configuration_what_lasts_outlives_the_agent() {
    let Some(lab) = scene::lab() else { return };
    let _echo = Echo::start(&lab, 0, 7000, "").expect("echo");
    let yaml = passthrough("plain", 443, "plain.test", &[backend(&lab, 0, 7000)]);
    let mut gateway = serve_with(&lab, Datapath::Ebpf, "", &[("plain.yaml", yaml)]);
    // One says little and stays, the other says much.
    let [mut old, mut chatty] = [0, 1].map(|_| Client::open(&lab, "plain.test"));
    chatty.rounds(20);
    let handed_off = |gateway: &Gateway<'_>| {
        let flows = flows(gateway, &["--sni", "plain.test", "--kind", "handoff"]);
        flows.len()
    };
    wait::until_true("both are handed off", Duration::from_secs(30), || {
        handed_off(&gateway) == 2
    })
    .expect("handed off");
    gateway.kill();
    for client in [&mut old, &mut chatty] {
        client.rounds(3);
    }
    gateway.start().expect("start again");
    assert_eq!(handed_off(&gateway), 2);
    for client in [&mut old, &mut chatty] {
        client.rounds(1);
        client.finish();
    }
}
