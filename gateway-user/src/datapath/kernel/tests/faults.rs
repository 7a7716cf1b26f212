// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An agent that fails, or dies, at any one change of the kernel: what was
//! served before is served on, and the next try or the next agent comes to the
//! same maps as if nothing had happened.

use std::{
    collections::BTreeMap,
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
};

use gateway_common::{backend::Backend, guard::NodeLimits, settings::Settings, steer::SteerValue};

use super::{
    Datapath,
    lab::{CLIENT, Lab, VIP, ask, eventually},
    run, snapshot,
};
use crate::{
    datapath::{
        AttachMode, DatapathConfig, apply, detach, fault,
        ranges::{Ranges, RangesOf},
    },
    model::{
        ForwardingMode::{Auto, Snat},
        ListenAddress,
    },
    snapshot::{ListenKey, Snapshot},
};

/// What the programs read, wherever in the arrays it lies.
#[derive(Debug, PartialEq)]
struct Dump {
    /// Destination to id, hash policy, timeout and the ids of the ring.
    services: BTreeMap<String, (u32, u32, u32, Vec<u32>)>,
    /// Every entry in use, also those that no ring names.
    backends: BTreeMap<u32, Backend>,
    steer: BTreeMap<ListenKey, SteerValue>,
    ranges: BTreeMap<RangesOf, Ranges>,
    settings: Settings,
}

fn dump(datapath: &Datapath) -> Dump {
    let maps = &datapath.maps;
    let state = apply::read(maps).expect("the maps");
    let services = state.services.iter().map(|(destination, service)| {
        let value = service.value;
        let ring = maps.rings.read(value.ring_chunk, value.ring_size);
        let entry = (
            value.service_id,
            value.hash_policy,
            value.established_timeout_s,
            ring,
        );
        (destination.to_string(), entry)
    });
    let backends = (0..maps.max_backends()).filter_map(|id| {
        let backend = maps.backend(id).expect("a backend");
        (backend.port_be != 0).then_some((id, backend))
    });
    Dump {
        services: services.collect(),
        backends: backends.collect(),
        steer: state.steer,
        ranges: state.ranges,
        // Each agent that starts afresh chooses another key.
        settings: Settings {
            limits: NodeLimits {
                source_key: [0; 2],
                ..state.settings.limits
            },
            ..state.settings
        },
    }
}

/// A datapath with live endpoints behind it and an established connection.
struct Scene {
    lab: Lab,
    config: DatapathConfig,
    sockets: [TcpListener; 2],
}

impl Scene {
    fn new() -> Option<Self> {
        let lab = Lab::new()?;
        for port in [8080, 8081] {
            lab.echo(port);
        }
        let config = DatapathConfig {
            // Every round opens it anew, and the first one fills it.
            max_flows: 1_024,
            max_services: 64,
            max_backends: 64,
            max_ring_chunks: 256,
            ..lab.config()
        };
        let sockets =
            [0, 0].map(|port| TcpListener::bind(("127.0.0.1", port)).expect("a listener"));
        Some(Self {
            lab,
            config,
            sockets,
        })
    }

    /// As the agent starts.
    fn open(&self) -> Datapath {
        let mut datapath = run(Datapath::open(self.config.clone())).expect("to open");
        let sockets = [self.sockets[0].as_fd(), self.sockets[1].as_fd()];
        datapath.set_sockets(&sockets).expect("to set sockets");
        datapath
    }

    /// A new connection to the service, which must work.
    fn connect(&self, port: u16) -> TcpStream {
        let mut stream = self.lab.connect(&format!("{VIP}:{port}"));
        assert_eq!(ask(&mut stream, "new"), format!("{CLIENT} new"));
        stream
    }

    /// The service takes new flows, and the old one goes on.
    fn check(&self, established: &mut TcpStream, port: u16, when: &str) {
        let answer = ask(established, "old");
        assert_eq!(answer, format!("{CLIENT} old"), "{when}");
        drop(self.connect(port));
    }
}

/// The service that all snapshots have in common, with what tells them apart.
fn before() -> Snapshot {
    snapshot(
        1,
        &[
            (80, "10.2.0.2:8080", Auto),
            (81, "10.2.0.2:8080", Auto),
            (82, "10.2.0.2:8081", Snat),
        ],
    )
}

/// Fails at every change between two configurations, both ways of failing. Port
/// 80 is served by both; a connection to `other` is in the first one's care.
fn cut_everywhere(from: &Snapshot, other: u16, to: &Snapshot) {
    let Some(scene) = Scene::new() else { return };
    let mut datapath = scene.open();
    run(datapath.apply(from)).expect("to apply");
    let mut established = scene.connect(80);
    let mut second = scene.connect(other);
    run(datapath.apply(to)).expect("to apply");
    let undisturbed = dump(&datapath);

    let mut changes = 0;
    for dies in [false, true] {
        changes = 0;
        loop {
            run(datapath.apply(from)).expect("to go back");
            fault::after(changes);
            let outcome = run(datapath.apply(to));
            fault::disarm();
            let when = format!("cut after {changes} changes, dies: {dies}");
            if outcome.is_ok() {
                break;
            }
            scene.check(&mut established, 80, &when);
            assert_eq!(ask(&mut second, "old"), format!("{CLIENT} old"), "{when}");
            if dies {
                drop(datapath);
                scene.check(&mut established, 80, &when);
                datapath = scene.open();
                scene.check(&mut established, 80, &when);
            }
            run(datapath.apply(to)).expect("to try again");
            assert_eq!(dump(&datapath), undisturbed, "{when}");
            scene.check(&mut established, 80, &when);
            changes += 1;
            assert!(changes < 100, "it ends");
        }
        assert_eq!(dump(&datapath), undisturbed);
    }
    eprintln!("{changes} changes, cut at each");
    assert!(changes >= 2, "{changes}");
    assert_eq!(ask(&mut second, "old"), format!("{CLIENT} old"));
    drop(datapath);
    run(detach(&scene.config)).expect("to detach");
}

#[test]
fn changed_endpoints_may_fail_anywhere() {
    let mut to = before();
    to.generation = 2;
    // Other ids, as the compiler gives them to other addresses.
    for (id, old, address) in [(11, 1, "10.2.0.2:8081"), (12, 2, "10.2.0.2:8081")] {
        let mut target = to.backends.remove(&old).expect("the backend");
        target.address = address.parse().expect("an address");
        to.backends.insert(id, target);
    }
    for service in to.services.values_mut() {
        let mut changed = service.as_ref().clone();
        let ids = changed
            .ring
            .iter()
            .map(|id| if *id < 3 { id + 10 } else { *id });
        // Long enough for more than one chunk of the ring.
        let ids: Vec<u32> = ids.collect();
        changed.ring = ids.repeat(40).into();
        changed.members = changed
            .members
            .iter()
            .map(|(id, share)| (if *id < 3 { id + 10 } else { *id }, *share))
            .collect();
        *service = changed.into();
    }
    cut_everywhere(&before(), 81, &to);
}

#[test]
fn a_removed_service_may_fail_anywhere() {
    let mut to = before();
    to.generation = 2;
    // Its listener stays and is the agent's from now on.
    to.services.retain(|key, _| key.port != 81);
    to.backends.remove(&2);
    cut_everywhere(&before(), 81, &to);
}

#[test]
fn a_removed_listener_may_fail_anywhere() {
    let mut to = before();
    to.generation = 2;
    to.services.retain(|key, _| key.port != 81);
    to.listeners.retain(|key, _| key.port != 81);
    to.backends.remove(&2);
    cut_everywhere(&before(), 81, &to);
}

#[test]
fn a_new_service_may_fail_anywhere() {
    let to = snapshot(
        2,
        &[
            (80, "10.2.0.2:8080", Auto),
            (81, "10.2.0.2:8080", Auto),
            (82, "10.2.0.2:8081", Snat),
            (83, "10.2.0.2:8081", Auto),
            (84, "10.2.0.2:8080", Snat),
        ],
    );
    cut_everywhere(&before(), 81, &to);
}

/// The service of port 81 for ports from 90 on instead.
fn with_range(mut snapshot: Snapshot, last_port: u16) -> Snapshot {
    let single = ListenKey::tcp(ListenAddress::Any, 81);
    let range = ListenKey {
        port: 90,
        last_port,
        ..single
    };
    let service = snapshot.services.remove(&single).expect("the service");
    let listener = snapshot.listeners.remove(&single).expect("the listener");
    snapshot.services.insert(range, service);
    snapshot.listeners.insert(range, listener);
    snapshot
}

#[test]
fn a_range_of_ports_may_grow_and_fail_anywhere() {
    let from = with_range(before(), 95);
    let mut to = with_range(before(), 99);
    to.generation = 2;
    cut_everywhere(&from, 93, &to);
}

#[test]
fn the_last_range_of_ports_may_go_and_fail_anywhere() {
    let mut to = before();
    to.generation = 2;
    cut_everywhere(&with_range(before(), 95), 93, &to);
}

/// The very first agent, from loading to serving: whatever it leaves, the next
/// one makes whole.
#[test]
fn the_first_start_may_fail_anywhere() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.config.max_flows = 2;
    let to = snapshot(1, &[(80, "10.2.0.2:8080", Auto)]);
    let mut undisturbed = None;
    let mut changes = 0;
    loop {
        fault::after(changes);
        let outcome = run(Datapath::open(scene.config.clone())).and_then(|mut datapath| {
            let sockets = [scene.sockets[0].as_fd(), scene.sockets[1].as_fd()];
            datapath.set_sockets(&sockets)?;
            run(datapath.apply(&to))
        });
        fault::disarm();
        let is_whole = outcome.is_ok();
        let mut datapath = scene.open();
        run(datapath.apply(&to)).expect("to apply");
        // Slots that never reached the queue are found after two rounds.
        eventually("every slot is free", || {
            datapath.sweep();
            let mut free: Vec<u32> =
                std::iter::from_fn(|| datapath.maps.pop_free_slot().expect("to take")).collect();
            for slot in &free {
                datapath.maps.push_free_slot(*slot).expect("to give back");
            }
            free.sort_unstable();
            free == [0, 1]
        });
        let found = dump(&datapath);
        let first = undisturbed.get_or_insert(found);
        assert_eq!(dump(&datapath), *first, "cut after {changes} changes");
        drop(scene.connect(80));
        drop(datapath);
        run(detach(&scene.config)).expect("to detach");
        if is_whole {
            break;
        }
        changes += 1;
        assert!(changes < 100, "it ends");
    }
    eprintln!("{changes} changes, cut at each");
    assert!(changes > 10, "{changes}");
}

/// The next agent, from replacing the programs to serving, with another
/// number of sockets and another configuration.
#[test]
fn a_restart_may_fail_anywhere() {
    let Some(scene) = Scene::new() else { return };
    let to = snapshot(
        2,
        &[(80, "10.2.0.2:8080", Auto), (81, "10.2.0.2:8081", Snat)],
    );
    let mut datapath = scene.open();
    run(datapath.apply(&before())).expect("to apply");
    let mut established = scene.connect(80);
    let mut changes = 0;
    loop {
        drop(datapath);
        fault::after(changes);
        let outcome = run(Datapath::open(scene.config.clone())).and_then(|mut datapath| {
            datapath.set_sockets(&[scene.sockets[0].as_fd()])?;
            Ok(())
        });
        fault::disarm();
        let when = format!("cut after {changes} changes");
        scene.check(&mut established, 80, &when);
        datapath = scene.open();
        scene.check(&mut established, 80, &when);
        assert_eq!(datapath.report().services.len(), 3, "{when}");
        if outcome.is_ok() {
            break;
        }
        changes += 1;
        assert!(changes < 100, "it ends");
    }
    eprintln!("{changes} changes, cut at each");
    assert!(changes > 5, "{changes}");
    run(datapath.apply(&to)).expect("to apply");
    scene.check(&mut established, 80, "at the end");
    drop(datapath);
    run(detach(&scene.config)).expect("to detach");
}

/// From one mode of XDP to the other, which a device takes one of at a time.
#[test]
fn a_change_of_the_hook_may_fail_anywhere() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.lab.prepare_for_native_xdp();
    scene.config.attach = AttachMode::XdpGeneric;
    let to = DatapathConfig {
        attach: AttachMode::XdpNative,
        ..scene.config.clone()
    };
    let mut datapath = scene.open();
    run(datapath.apply(&before())).expect("to apply");
    drop(datapath);
    let mut established = scene.connect(80);
    let mut changes = 0;
    loop {
        fault::after(changes);
        let outcome = run(Datapath::open(to.clone()));
        fault::disarm();
        let when = format!("cut after {changes} changes");
        scene.check(&mut established, 80, &when);
        let is_whole = outcome.is_ok();
        drop(outcome);
        let datapath = run(Datapath::open(to.clone())).expect("to open");
        scene.check(&mut established, 80, &when);
        let report = datapath.report();
        let wire = report.interfaces.iter().find(|one| one.name == "wire0");
        assert_eq!(wire.map(|one| one.mode), Some("xdp-native"), "{when}");
        assert!(wire.is_some_and(|one| one.others.is_empty()), "{report:?}");
        assert_eq!(super::programs_at("wire0"), 0, "tc only stood in");
        drop(datapath);
        if is_whole {
            break;
        }
        drop(scene.open());
        scene.check(&mut established, 80, "changed back");
        changes += 1;
        assert!(changes < 100, "it ends");
    }
    eprintln!("{changes} changes, cut at each");
    assert!(changes > 8, "{changes}");
    run(detach(&scene.config)).expect("to detach");
}
