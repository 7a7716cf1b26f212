// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Passthrough connections that the kernel takes over: every byte arrives, both
//! ways, whatever happens around the moment, and also when the agent is gone.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use gateway_tests::{
    capture::Capture,
    checked::{Connection, Plan, Server, Style},
    gateway::{Datapath, Gateway},
    lab::Lab,
    wait,
};

use crate::{
    ipv6,
    scene::{self, backend, passthrough, serve_with, vip},
};

/// The server name that is passed through.
pub const NAME: &str = "a.example.com";

/// An agent that passes [`NAME`] through to backend 0, and hands connections off
/// once they have moved `after_bytes`.
pub fn with_handoff(lab: &Lab, after_bytes: u64) -> Gateway<'_> {
    with_handoff_to(lab, after_bytes, backend(lab, 0, 7000))
}

/// [`with_handoff`] to another backend, from the VIP of its family.
pub fn with_handoff_to(lab: &Lab, after_bytes: u64, target: SocketAddr) -> Gateway<'_> {
    let mut yaml = passthrough("raw", 443, NAME, &[target]);
    if target.is_ipv6() {
        yaml = ipv6::bound(&yaml, NAME);
    }
    let bootstrap = format!("handoff: {{mode: auto, after_bytes: {after_bytes}}}\n");
    serve_with(lab, Datapath::Ebpf, &bootstrap, &[("raw.yaml", yaml)])
}

/// Connections that the kernel took over.
pub fn handed_off(gateway: &Gateway<'_>) -> u64 {
    gateway.closed("passthrough", "handed_off").expect("status")
}

/// Runs `count` connections, `at_once` at a time; how many were handed off.
pub fn run(
    lab: &Lab,
    gateway: &Gateway<'_>,
    server: &Server,
    counts: (u64, usize),
    plan: impl Fn(u64) -> Plan + Sync,
) -> u64 {
    run_to(lab, gateway, (server, vip(lab, 443)), counts, plan)
}

/// [`run`] to another address of the gateway. A failure leaves a capture.
pub fn run_to(
    lab: &Lab,
    gateway: &Gateway<'_>,
    (server, address): (&Server, SocketAddr),
    (count, at_once): (u64, usize),
    plan: impl Fn(u64) -> Plan + Sync,
) -> u64 {
    let test = thread::current()
        .name()
        .unwrap_or("test")
        .replace("::", "-");
    let _capture = Capture::start(&lab.gateway, &test).expect("capture");
    let next = AtomicU64::new(0);
    let before = handed_off(gateway);
    let good_before = server.good();
    let bad: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..at_once)
            .map(|_| {
                scope.spawn(|| {
                    let mut bad = Vec::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return bad;
                        }
                        let opened = Connection::open(&lab.client, address, NAME, plan(number));
                        if let Err(error) = opened.and_then(Connection::run) {
                            bad.push(format!("{error:#}"));
                        }
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("a client thread"))
            .collect()
    });
    assert!(
        bad.is_empty(),
        "{} of {count} clients: {bad:#?}; servers: {:#?}; {}",
        bad.len(),
        server.bad(),
        gateway.metrics().map(|_| "").unwrap_or("no metrics")
    );
    wait::until_true("every server has finished", Duration::from_secs(20), || {
        server.good() == good_before + count || !server.bad().is_empty()
    })
    .expect("servers finish");
    assert_eq!(server.bad(), Vec::<String>::new());
    handed_off(gateway) - before
}

#[test]
fn connections_of_every_kind_arrive_whole() {
    let Some(lab) = scene::lab() else { return };
    let server = Server::start(&lab, 0, 7000).expect("server");
    let gateway = with_handoff(&lab, 4_096);
    let count = 600;
    let taken = run(&lab, &gateway, &server, (count, 16), |number| Plan {
        seed: number + 1,
        style: Style::nth(number),
        bytes: [
            20_000 + (number as u32 * 7919) % 300_000,
            20_000 + (number as u32 * 104_729) % 300_000,
        ],
        pause: if number % 3 == 0 { 20 } else { 0 },
    });
    println!("{taken} of {count} handed off");
    assert!(taken > count / 10, "{taken} of {count} handed off");
}

#[test]
fn connections_that_end_as_they_are_handed_off_arrive_whole() {
    let Some(lab) = scene::lab() else { return };
    let server = Server::start(&lab, 0, 7000).expect("server");
    let gateway = with_handoff(&lab, 4_096);
    let count = 2_000;
    let taken = run(&lab, &gateway, &server, (count, 16), |number| Plan {
        seed: number + 1,
        style: Style::nth(number),
        // About where the agent begins to try.
        bytes: [
            1_500 + (number as u32 * 37) % 4_000,
            1_500 + (number as u32 * 61) % 4_000,
        ],
        pause: (number % 4) as u16,
    });
    println!("{taken} of {count} handed off");
    assert!(taken > count / 100, "{taken} of {count} handed off");
}

#[test]
fn a_handed_off_connection_outlives_the_agent() {
    let Some(lab) = scene::lab() else { return };
    let server = Server::start(&lab, 0, 7000).expect("server");
    let mut gateway = with_handoff(&lab, 4_096);
    thread::scope(|scope| {
        let connections: Vec<_> = (0..8)
            .map(|number| {
                let plan = Plan {
                    seed: 100 + number,
                    style: Style::Turns,
                    bytes: [400_000, 400_000],
                    pause: 8_000,
                };
                let connection =
                    Connection::open(&lab.client, vip(&lab, 443), NAME, plan).expect("open");
                scope.spawn(move || connection.run())
            })
            .collect();
        wait::until_true("all are handed off", Duration::from_secs(5), || {
            handed_off(&gateway) == 8
        })
        .expect("handed off in the pause");
        gateway.kill();
        // The next one finds them in the kernel, and leaves them alone.
        gateway.start().expect("start again");
        let listed = gateway.sluice(&["flows"]).expect("run");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert_eq!(listed.matches("handoff").count(), 8, "{listed}");
        gateway.kill();
        for connection in connections {
            connection
                .join()
                .expect("a client thread")
                .expect("every byte arrives");
        }
        gateway.start().expect("start again");
    });
    wait::until_true("every server has finished", Duration::from_secs(20), || {
        server.good() == 8
    })
    .expect("servers finish");
    assert_eq!(server.bad(), Vec::<String>::new());
}
