// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Connections through the programs, and through the end of the agent.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::AsFd,
};

use gateway_common::flow::{SLOT_CLAIMED, SLOT_DEAD, SLOT_FREE};

use super::{
    Datapath,
    lab::{BACKEND, CLIENT, Lab, VIP, ask, eventually},
    run, snapshot,
};
use crate::{
    datapath::{AttachMode, DatapathConfig, detach, flows::monotonic_ns},
    model::ForwardingMode,
    snapshot::Snapshot,
};

const SECOND: u64 = 1_000_000_000;

fn services(generation: u64) -> Snapshot {
    let backend = format!("{BACKEND}:8080");
    snapshot(
        generation,
        &[
            (80, &backend, ForwardingMode::Auto),
            (81, &backend, ForwardingMode::Snat),
        ],
    )
}

/// What the backend sees as the client, by port of the VIP.
const SEEN: [(u16, &str); 2] = [(80, CLIENT), (81, "10.2.0.1")];

fn check(streams: &mut [TcpStream], word: &str) {
    for (stream, (port, seen)) in streams.iter_mut().zip(SEEN) {
        assert_eq!(ask(stream, word), format!("{seen} {word}"), "port {port}");
    }
}

fn connections_survive(attach: AttachMode) {
    let Some(lab) = Lab::new() else { return };
    let config = DatapathConfig {
        attach,
        ..lab.config()
    };
    lab.echo(8080);
    if attach == AttachMode::XdpNative {
        lab.prepare_for_native_xdp();
    }
    let mut datapath = run(Datapath::open(config.clone())).expect("to open");
    run(datapath.apply(&services(1))).expect("to apply");
    let connect = || SEEN.map(|(port, _)| lab.connect(&format!("{VIP}:{port}")));
    let mut streams = connect();
    check(&mut streams, "first");
    let flows: Vec<_> = datapath.flows().collect();
    assert_eq!(flows.len(), 2, "{flows:?}");
    assert!(
        flows.iter().all(|flow| flow.tcp_state == "established"),
        "{flows:?}"
    );

    // The agent ends; the kernel goes on, for old connections and new ones.
    drop(datapath);
    check(&mut streams, "without an agent");
    let mut orphans = connect();
    check(&mut orphans, "born without an agent");

    // The next agent replaces the programs under way.
    let mut datapath = run(Datapath::open(config.clone())).expect("to adopt");
    check(&mut streams, "adopted");
    run(datapath.apply(&services(2))).expect("to apply");
    check(&mut streams, "applied");
    check(&mut orphans, "applied");

    // Configuration governs new connections only.
    run(datapath.apply(&Snapshot::default())).expect("to apply");
    assert!(datapath.report().services.is_empty());
    check(&mut streams, "unconfigured");
    datapath.sweep();
    check(&mut streams, "swept");

    let report = datapath.report();
    assert!(report.verdicts["forwarded"].packets >= 40, "{report:?}");
    assert_eq!(report.verdicts["dropped"].packets, 0, "{report:?}");
    drop((streams, orphans));
    eventually("the flows close", || {
        datapath.flows().all(|flow| flow.state == "closing")
    });
    assert_eq!(datapath.sweep().closing, 4, "closed flows linger");
    let later = monotonic_ns() + 250 * SECOND;
    let swept = datapath
        .sweeper
        .sweep(&mut datapath.maps, &mut datapath.peers, later)
        .expect("to sweep");
    assert_eq!((swept.closed, swept.expired), (4, 0));
    assert!(datapath.flows().next().is_none());
    drop(datapath);
    run(detach(&config)).expect("to detach");
}

#[test]
fn connections_survive_the_agent_at_tc() {
    connections_survive(AttachMode::Tc);
}

#[test]
fn connections_survive_the_agent_at_generic_xdp() {
    connections_survive(AttachMode::XdpGeneric);
}

#[test]
fn connections_survive_the_agent_at_native_xdp() {
    connections_survive(AttachMode::XdpNative);
}

#[test]
fn an_idle_flow_expires_and_its_slot_is_used_again() {
    let Some(lab) = Lab::new() else { return };
    let config = DatapathConfig {
        max_flows: 2,
        ..lab.config()
    };
    lab.echo(8080);
    let mut datapath = run(Datapath::open(config.clone())).expect("to open");
    run(datapath.apply(&services(1))).expect("to apply");
    let mut generations = Vec::new();
    for _ in 0..3 {
        let mut streams = SEEN.map(|(port, _)| lab.connect(&format!("{VIP}:{port}")));
        check(&mut streams, "full");
        generations.push(datapath.flows().count());
        let soon = monotonic_ns() + 7_000 * SECOND;
        let swept = datapath
            .sweeper
            .sweep(&mut datapath.maps, &mut datapath.peers, soon)
            .expect("to sweep");
        assert_eq!((swept.active, swept.expired), (2, 0));
        let late = monotonic_ns() + 8_000 * SECOND;
        let swept = datapath
            .sweeper
            .sweep(&mut datapath.maps, &mut datapath.peers, late)
            .expect("to sweep");
        assert_eq!((swept.active, swept.expired), (0, 2));
    }
    assert_eq!(generations, [2, 2, 2]);
    drop(datapath);
    run(detach(&config)).expect("to detach");
}

/// What an agent that dies at the worst moment, or a program that never comes
/// back, leaves behind is found.
#[test]
fn lost_slots_are_found_again() {
    let Some(lab) = Lab::new() else { return };
    let config = DatapathConfig {
        max_flows: 8,
        ..lab.config()
    };
    let mut datapath = run(Datapath::open(config.clone())).expect("to open");
    let mut take = || {
        datapath
            .maps
            .pop_free_slot()
            .expect("to take")
            .expect("a slot")
    };
    let (lost, stuck, dead) = (take(), take(), take());
    let change = |datapath: &Datapath, slot: u32, from: u32, to: u32| {
        let slot = datapath.maps.slots.slot(slot).expect("the slot");
        assert!(slot.change_state(from, to));
    };
    change(&datapath, stuck, SLOT_FREE, SLOT_CLAIMED);
    change(&datapath, dead, SLOT_FREE, SLOT_DEAD);
    drop(datapath);

    let mut datapath = run(Datapath::open(config.clone())).expect("to adopt");
    let mut swept = Vec::new();
    for seconds in [0, 1, 2, 12] {
        let now = monotonic_ns() + seconds * SECOND;
        let result = datapath
            .sweeper
            .sweep(&mut datapath.maps, &mut datapath.peers, now)
            .expect("to sweep");
        swept.push((result.closed, result.reclaimed));
    }
    assert_eq!(swept, [(1, 0), (0, 0), (0, 0), (0, 1)]);
    let mut free: Vec<u32> =
        std::iter::from_fn(|| datapath.maps.pop_free_slot().expect("to take")).collect();
    assert!(free.contains(&lost), "{free:?}");
    free.sort_unstable();
    assert_eq!(free, (0..8).collect::<Vec<u32>>(), "each slot once");
    drop(datapath);
    run(detach(&config)).expect("to detach");
}

#[test]
fn steered_connections_reach_the_agents_sockets() {
    let Some(lab) = Lab::new() else { return };
    let mut datapath = run(Datapath::open(lab.config())).expect("to open");
    let mut wanted = services(1);
    wanted.services.clear();
    let sockets = [0, 0].map(|port| TcpListener::bind(("127.0.0.1", port)).expect("a listener"));
    run(datapath.apply(&wanted)).expect("to apply");
    datapath
        .set_sockets(&[sockets[0].as_fd(), sockets[1].as_fd()])
        .expect("to set");
    let (accepted, port) = std::thread::scope(|scope| {
        for socket in &sockets {
            socket.set_nonblocking(true).expect("to be set");
        }
        let client = scope.spawn(|| {
            let mut stream = lab.connect(&format!("{VIP}:80"));
            stream.write_all(b"hello").expect("to be sent");
            stream.shutdown(Shutdown::Write).expect("to half-close");
        });
        let mut accepted = None;
        eventually("a connection is accepted", || {
            accepted = sockets.iter().find_map(|socket| socket.accept().ok());
            accepted.is_some()
        });
        client.join().expect("the client");
        let (stream, _) = accepted.expect("just seen");
        let address = stream.local_addr().expect("an address");
        (stream, address)
    });
    assert_eq!(port.to_string(), format!("{VIP}:80"));
    let mut stream = accepted;
    stream.set_nonblocking(false).expect("to be set");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("to be read");
    assert_eq!(text, "hello");
    assert_eq!(datapath.report().verdicts["steered"].packets, 1);
    drop(datapath);
    run(detach(&lab.config())).expect("to detach");
}
