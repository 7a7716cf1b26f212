// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The datapath on a real kernel. Needs root.

mod attach;
mod faults;
mod lab;
mod labels;
mod limits;
mod others;
mod scene;
mod trace;
mod traffic;

use std::{fs, sync::Arc, time::Instant};

use aya::programs::{SchedClassifier, TcAttachType};

use self::lab::{Lab, VIP, ip, ip_addr, output};
use super::Datapath;
use crate::{
    datapath::{
        AttachMode, DatapathConfig, DatapathError, NotInKernel, bpffs::Pins, detach, layout,
    },
    model::{FlowLimits, ForwardingMode, HashPolicy, ListenAddress, Sources},
    origin::Origin,
    snapshot::{BackendTarget, ListenKey, Listener, ListenerTable, Service, Snapshot, SniTable},
};

/// Forwarded ports of the VIP with their backends.
fn snapshot(generation: u64, services: &[(u16, &str, ForwardingMode)]) -> Snapshot {
    let mut snapshot = Snapshot {
        generation,
        ..Snapshot::default()
    };
    for (id, (port, backend, forwarding)) in (0..).zip(services) {
        let backend_id = id + 1;
        let key = ListenKey::tcp(ListenAddress::Any, *port);
        let target = BackendTarget {
            address: backend.parse().expect("an address"),
            forwarding: *forwarding,
        };
        let service = Service {
            id,
            hash_policy: HashPolicy::FiveTuple,
            forwarding: *forwarding,
            idle_timeout: None,
            members: [(backend_id, 1)].into(),
            standby: [].into(),
            ring: [backend_id].into(),
            sources: None,
            limits: FlowLimits::default(),
            proxy_header: false,
        };
        let listener = Listener {
            origin: Origin::new("test.yaml", 1),
            table: ListenerTable::Tls(SniTable::default()),
            sources: Sources::everyone(),
        };
        snapshot.backends.insert(backend_id, target);
        snapshot.services.insert(key, Arc::new(service));
        snapshot.listeners.insert(key, Arc::new(listener));
    }
    snapshot
}

fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(future)
}

fn programs_at(interface: &str) -> usize {
    let (_, programs) =
        SchedClassifier::query_tcx(interface, TcAttachType::Ingress).expect("to be asked");
    programs.len()
}

#[test]
fn detach_leaves_nothing_and_may_be_repeated() {
    let Some(lab) = Lab::new() else { return };
    let config = lab.config();
    let datapath = run(Datapath::open(config.clone())).expect("to open");
    assert!(output("ip", "route show table local").contains(VIP));
    assert_eq!((programs_at("wire0"), programs_at("pod0")), (1, 1));
    assert!(matches!(
        run(detach(&config)),
        Err(DatapathError::InUse { .. })
    ));
    drop(datapath);
    // The end of the agent changes nothing.
    assert!(output("ip", "route show table local").contains(VIP));
    assert_eq!((programs_at("wire0"), programs_at("pod0")), (1, 1));

    let detached = run(detach(&config)).expect("to detach");
    assert_eq!(detached.links, ["sk_lookup", "tc_pod0", "tc_wire0"]);
    assert_eq!(detached.maps.len(), layout::layout().len());
    assert_eq!(detached.vips, [ip_addr(VIP)]);
    assert!(!output("ip", "route show table local").contains(VIP));
    assert_eq!((programs_at("wire0"), programs_at("pod0")), (0, 0));
    assert!(!Pins::new(&config.bpffs).maps().exists());
    let again = run(detach(&config)).expect("to detach again");
    assert_eq!(again, Default::default());
}

#[test]
fn another_agent_is_kept_out_and_another_layout_refused() {
    let Some(lab) = Lab::new() else { return };
    let config = lab.config();
    let first = run(Datapath::open(config.clone())).expect("to open");
    let second = run(Datapath::open(config.clone()));
    assert!(matches!(second, Err(DatapathError::InUse { .. })));
    drop(first);
    fs::create_dir(config.bpffs.join("v999")).expect("a directory");
    let other = run(Datapath::open(config.clone()));
    assert!(matches!(other, Err(DatapathError::OtherLayout { .. })));
    run(detach(&config)).expect("to detach");
}

#[test]
fn the_next_agent_adopts_and_follows_interfaces() {
    let Some(lab) = Lab::new() else { return };
    let config = lab.config();
    let wanted = snapshot(7, &[(80, "10.2.0.2:8080", ForwardingMode::Auto)]);
    let mut first = run(Datapath::open(config.clone())).expect("to open");
    let applied = run(first.apply(&wanted)).expect("to apply");
    assert_eq!(
        (applied.services, applied.backends, applied.steered),
        (1, 1, 1)
    );
    let programs = first.report().interfaces;
    drop(first);

    let mut second = run(Datapath::open(config.clone())).expect("to adopt");
    let report = second.report();
    assert_eq!(report.generation, 7);
    assert_eq!(report.services[0].destination.to_string(), "10.97.0.1:80");
    assert_eq!(report.backends[0].forwarding, "dnat");
    assert_ne!(report.interfaces[0].program_id, programs[0].program_id);
    assert_eq!((programs_at("wire0"), programs_at("pod0")), (1, 1));
    assert_eq!(second.adopted().services.len(), 1);
    let applied = run(second.apply(&wanted)).expect("to apply");
    assert_eq!(applied.operations, 0, "nothing differs");

    ip("link add pod1 type veth peer name peer1");
    ip("link del pod0");
    assert!(run(second.refresh()).expect("to refresh"));
    let report = second.report();
    let names: Vec<&str> = report.interfaces.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["pod1", "wire0"]);
    assert_eq!(report.backends[0].forwarding, "unreachable");
    assert!(
        !Pins::new(&config.bpffs).links().join("tc_pod0").exists(),
        "no stale pin"
    );
    assert!(!run(second.refresh()).expect("to refresh"), "nothing new");

    // Another hook takes over, and the old one ends.
    drop(second);
    let generic = DatapathConfig {
        attach: AttachMode::XdpGeneric,
        ..config.clone()
    };
    let third = run(Datapath::open(generic)).expect("to open");
    assert_eq!(third.report().interfaces[1].mode, "xdp-generic");
    assert_eq!(programs_at("wire0"), 0);
    assert!(output("ip", "link show wire0").contains("xdpgeneric"));
    drop(third);
    run(detach(&config)).expect("to detach");
    assert!(!output("ip", "link show wire0").contains("xdp"));
}

#[test]
fn what_the_node_cannot_forward_is_reported() {
    let Some(lab) = Lab::new() else { return };
    let mut datapath = run(Datapath::open(lab.config())).expect("to open");
    let auto = ForwardingMode::Auto;
    let wanted = snapshot(1, &[(80, "10.1.0.1:80", auto), (81, "10.9.9.9:80", auto)]);
    let applied = run(datapath.apply(&wanted)).expect("to apply");
    assert_eq!(applied.proxied.len(), 1);
    assert_eq!(applied.proxied[0].reason, NotInKernel::LocalBackend);
    assert_eq!(datapath.report().backends[0].forwarding, "unreachable");
    run(detach(&lab.config())).expect_err("an agent runs");
    drop(datapath);
    run(detach(&lab.config())).expect("to detach");
}

/// Callers move it between threads.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Datapath>();
};

#[test]
fn one_of_five_thousand_services_is_a_handful_of_operations() {
    let Some(lab) = Lab::new() else { return };
    let backends: Vec<String> = (0..5_000)
        .map(|i| format!("10.2.{}.{}:80", i / 250, i % 250 + 1))
        .collect();
    let mut services: Vec<(u16, &str, ForwardingMode)> = (1..)
        .zip(&backends)
        .map(|(port, backend)| (port, backend.as_str(), ForwardingMode::Auto))
        .collect();
    let config = DatapathConfig {
        vips: lab.config().vips,
        wire_interfaces: lab.config().wire_interfaces,
        pod_interfaces: lab.config().pod_interfaces,
        bpffs: lab.config().bpffs,
        ..DatapathConfig::default()
    };
    let start = Instant::now();
    let mut datapath = run(Datapath::open(config.clone())).expect("to open");
    let opened = start.elapsed();
    let first = snapshot(1, &services);
    let start = Instant::now();
    run(datapath.apply(&first)).expect("to apply");
    let filled = start.elapsed();
    services[77].2 = ForwardingMode::Snat;
    let second = snapshot(2, &services);
    let start = Instant::now();
    let applied = run(datapath.apply(&second)).expect("to apply");
    let changed = start.elapsed();
    assert_eq!(applied.operations, 2, "the backend and the settings");
    drop(datapath);
    let start = Instant::now();
    let mut datapath = run(Datapath::open(config.clone())).expect("to adopt");
    let adopted = start.elapsed();
    let start = Instant::now();
    datapath.sweep();
    eprintln!(
        "open {opened:?}, 5,000 services {filled:?}, one of them {changed:?}, adopt {adopted:?}, \
         sweep {:?}",
        start.elapsed()
    );
    drop(datapath);
    run(detach(&lab.config())).expect("to detach");
}
