// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Compilation of hand-made models.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{DnsAnswers, Observed, compile, dns_names, probe_targets};
use crate::{
    model::{
        Cluster, ClusterId, Endpoint, EndpointAddress, FlowLimits, ForwardingMode, HandoffPolicy,
        HashPolicy, Health, HealthDefaults, HostPattern, ListenAddress, Listener, ListenerKind,
        LoadBalancing, Model, Probe, ProbeProtocol, ProxyProtocol, Sources, TcpDestination,
        TcpRoute, TlsAction, TlsChain,
    },
    origin::Origin,
    snapshot::{ListenKey, ListenerTable, Snapshot},
};

fn cluster(name: &str, endpoints: &[EndpointAddress]) -> Cluster {
    Cluster {
        id: ClusterId::new(name, 9000, None),
        endpoints: endpoints
            .iter()
            .map(|address| Endpoint {
                address: address.clone(),
                port: 9000,
                weight: 1,
                probed: false,
            })
            .collect(),
        leaving: Vec::new(),
        load_balancing: LoadBalancing::default(),
        connect_timeout: Duration::from_secs(1),
        proxy_protocol: None,
        health: None,
        sources: Sources::everyone(),
        limits: FlowLimits::default(),
        source_address: crate::model::SourceAddress::Node,
    }
}

fn route(name: &str) -> TcpRoute {
    TcpRoute {
        origin: Origin::new("test.yaml", 1),
        destinations: vec![TcpDestination {
            cluster: ClusterId::new(name, 9000, None),
            weight: 1,
        }],
        idle_timeout: None,
        hash_policy: HashPolicy::default(),
        forwarding: ForwardingMode::default(),
        handoff: HandoffPolicy::default(),
    }
}

fn forwarded(port: u16, name: &str) -> Listener {
    Listener {
        address: ListenAddress::Any,
        port,
        last_port: port,
        kind: ListenerKind::Forward(route(name)),
        origin: Origin::new("test.yaml", 1),
        sources: Sources::everyone(),
        limits: FlowLimits::default(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn model(clusters: Vec<Cluster>, listeners: Vec<Listener>) -> Model {
    Model {
        listeners,
        clusters: clusters
            .into_iter()
            .map(|cluster| (cluster.id.clone(), cluster))
            .collect(),
        ..Model::default()
    }
}

#[test]
fn an_unchanged_cluster_keeps_its_identity_and_ids() {
    let model = model(
        vec![cluster("a.test", &[EndpointAddress::Ip(ip("10.0.0.1"))])],
        vec![forwarded(1883, "a.test")],
    );
    let (first, _) = compile(&model, &Observed::default(), &Snapshot::default());
    let (second, _) = compile(&model, &Observed::default(), &first);
    assert_eq!(second.generation, 2);
    let id = ClusterId::new("a.test", 9000, None);
    assert!(std::sync::Arc::ptr_eq(
        &first.clusters[&id],
        &second.clusters[&id]
    ));
    assert_eq!(first.backends, second.backends);
    let key = ListenKey::tcp(ListenAddress::Any, 1883);
    assert_eq!(first.services[&key], second.services[&key]);
}

#[test]
fn a_header_is_for_connections_and_not_for_datagrams() {
    let mut headed = cluster("a", &[EndpointAddress::Ip(ip("10.0.0.1"))]);
    headed.proxy_protocol = Some(ProxyProtocol::V1);
    let datagrams = Listener {
        kind: ListenerKind::ForwardUdp(route("a")),
        ..forwarded(53, "a")
    };
    let model = model(
        vec![headed, cluster("b", &[])],
        vec![forwarded(1, "a"), forwarded(2, "b"), datagrams],
    );
    let (snapshot, findings) = compile(&model, &Observed::default(), &Snapshot::default());
    assert!(findings.is_empty(), "{findings:?}");
    let headers: Vec<(u16, bool)> = snapshot
        .services
        .iter()
        .map(|(key, service)| (key.port, service.proxy_header))
        .collect();
    assert_eq!(headers, [(1, true), (2, false), (53, false)]);
}

#[test]
fn dns_answers_become_endpoints() {
    let model = model(
        vec![cluster("b.test", &[EndpointAddress::Dns("b.test".into())])],
        vec![forwarded(1883, "b.test")],
    );
    assert_eq!(dns_names(&model), ["b.test".to_owned()].into());
    let (without, _) = compile(&model, &Observed::default(), &Snapshot::default());
    let id = ClusterId::new("b.test", 9000, None);
    assert!(without.clusters[&id].endpoints.is_empty());
    let answers = DnsAnswers::from([("b.test".to_owned(), vec![ip("10.0.0.2"), ip("10.0.0.1")])]);
    let observed = Observed {
        dns: answers,
        ..Observed::default()
    };
    let (with, _) = compile(&model, &observed, &without);
    let addresses: Vec<String> = with.clusters[&id]
        .endpoints
        .iter()
        .map(|endpoint| endpoint.address.to_string())
        .collect();
    assert_eq!(addresses, ["10.0.0.1:9000", "10.0.0.2:9000"]);
}

#[test]
fn chains_are_found_by_exact_name_then_suffix_then_default() {
    let chain = |names: &[&str], line: u32| TlsChain {
        names: names
            .iter()
            .map(|name| HostPattern::parse(name).expect("a pattern"))
            .collect(),
        action: TlsAction::Passthrough(route("a.test")),
        origin: Origin::new("test.yaml", line),
    };
    let listener = Listener {
        address: ListenAddress::Any,
        port: 443,
        last_port: 443,
        kind: ListenerKind::Tls(vec![
            chain(&["*"], 1),
            chain(&["*.example.com"], 2),
            chain(&["*.a.example.com", "b.example.com"], 3),
        ]),
        origin: Origin::new("test.yaml", 1),
        sources: Sources::everyone(),
        limits: FlowLimits::default(),
    };
    let model = model(vec![cluster("a.test", &[])], vec![listener]);
    let (snapshot, _) = compile(&model, &Observed::default(), &Snapshot::default());
    let found = snapshot.listener(ip("10.0.0.9"), 443).expect("a listener");
    let ListenerTable::Tls(table) = &found.table else {
        panic!("not TLS")
    };
    for (sni, line) in [
        (Some("b.example.com"), 3),
        (Some("x.a.example.com"), 3),
        (Some("a.example.com"), 2),
        (Some("example.com"), 1),
        (None, 1),
    ] {
        let chain = crate::conn::decide::find_chain(table, sni).expect("a chain");
        assert_eq!(chain.origin.line, line, "{sni:?}");
    }
}

fn probed(name: &str, endpoints: &[(&str, bool)], panic_percent: u8) -> Cluster {
    let defaults = HealthDefaults::default();
    let addresses: Vec<EndpointAddress> = endpoints
        .iter()
        .map(|(address, _)| EndpointAddress::Ip(ip(address)))
        .collect();
    let mut cluster = cluster(name, &addresses);
    for (endpoint, (_, probed)) in cluster.endpoints.iter_mut().zip(endpoints) {
        endpoint.probed = *probed;
    }
    cluster.health = Some(Health {
        probe: Arc::new(Probe {
            protocol: ProbeProtocol::Tcp,
            port: Some(9001),
            proxy_protocol: None,
            interval: defaults.interval,
            timeout: defaults.timeout,
            unhealthy_threshold: 2,
            healthy_threshold: 2,
        }),
        panic_percent,
    });
    cluster
}

/// What is observed when the probed endpoints `down` are down.
fn observed(model: &Model, down: &[&str]) -> Observed {
    let dns = DnsAnswers::new();
    let down: Vec<IpAddr> = down.iter().map(|address| ip(address)).collect();
    Observed {
        down: probe_targets(model, &dns)
            .into_iter()
            .filter(|target| down.contains(&target.address.ip()))
            .collect(),
        dns,
    }
}

fn endpoints(snapshot: &Snapshot, name: &str) -> (Vec<String>, Vec<String>, bool) {
    let cluster = &snapshot.clusters[&ClusterId::new(name, 9000, None)];
    let text = |all: &[crate::snapshot::Endpoint]| {
        all.iter().map(|one| one.address.ip().to_string()).collect()
    };
    (text(&cluster.endpoints), text(&cluster.down), cluster.panic)
}

#[test]
fn an_endpoint_that_is_down_takes_no_new_connection() {
    let all = [("10.0.0.1", true), ("10.0.0.2", true), ("10.0.0.3", false)];
    let model = model(
        vec![probed("a.test", &all, 25)],
        vec![forwarded(1883, "a.test")],
    );
    let targets = probe_targets(&model, &DnsAnswers::new());
    let asked: Vec<String> = targets.iter().map(|one| one.address.to_string()).collect();
    assert_eq!(
        asked,
        ["10.0.0.1:9001", "10.0.0.2:9001"],
        "on the probe's port"
    );

    let (before, _) = compile(&model, &Observed::default(), &Snapshot::default());
    assert_eq!(endpoints(&before, "a.test").0.len(), 3, "none is down yet");
    let (snapshot, _) = compile(
        &model,
        &observed(&model, &["10.0.0.1", "10.0.0.3"]),
        &before,
    );
    let (used, down, panic) = endpoints(&snapshot, "a.test");
    assert_eq!(
        used,
        ["10.0.0.2", "10.0.0.3"],
        "who is not probed counts as up"
    );
    assert_eq!((down, panic), (vec!["10.0.0.1".to_owned()], false));

    let (again, _) = compile(&model, &observed(&model, &["10.0.0.1"]), &snapshot);
    let id = ClusterId::new("a.test", 9000, None);
    assert!(Arc::ptr_eq(&again.clusters[&id], &snapshot.clusters[&id]));
}

#[test]
fn with_too_few_up_all_are_used() {
    let all = [("10.0.0.1", true), ("10.0.0.2", true), ("10.0.0.3", true)];
    for (percent, down, used, panic) in [
        (25, &["10.0.0.1", "10.0.0.2"][..], 1, false),
        (50, &["10.0.0.1", "10.0.0.2"], 3, true),
        (25, &["10.0.0.1", "10.0.0.2", "10.0.0.3"], 3, true),
        (0, &["10.0.0.1", "10.0.0.2", "10.0.0.3"], 0, false),
    ] {
        let model = model(
            vec![probed("a.test", &all, percent)],
            vec![forwarded(1883, "a.test")],
        );
        let (snapshot, _) = compile(&model, &observed(&model, down), &Snapshot::default());
        let (endpoints, left, panics) = endpoints(&snapshot, "a.test");
        assert_eq!(
            (endpoints.len(), panics),
            (used, panic),
            "{percent} {down:?}"
        );
        assert_eq!(left.len(), down.len());
        let service = snapshot.services.values().next().expect("a service");
        assert_eq!(service.members.len(), used);
        assert_eq!(service.standby.len(), if panic { 0 } else { down.len() });
        assert_eq!(service.ring.is_empty(), used == 0);
        assert_eq!(snapshot.backends.len(), 3, "all of them keep their flows");
    }
}

#[test]
fn an_endpoint_that_leaves_is_kept_for_its_flows() {
    let all = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|text| EndpointAddress::Ip(ip(text)));
    let mut cluster = cluster("a.test", &all[..2]);
    let before = model(vec![cluster.clone()], vec![forwarded(1883, "a.test")]);
    let (before, _) = compile(&before, &Observed::default(), &Snapshot::default());
    // The second leaves, as a third does that was never ready; another slice
    // still has the first as ready.
    cluster.leaving = cluster.endpoints.clone();
    cluster.leaving.push(Endpoint {
        address: all[2].clone(),
        ..cluster.endpoints[0].clone()
    });
    cluster.endpoints.truncate(1);
    let model = model(vec![cluster], vec![forwarded(1883, "a.test")]);
    assert!(probe_targets(&model, &DnsAnswers::new()).is_empty());
    let (after, _) = compile(&model, &Observed::default(), &before);
    let id = ClusterId::new("a.test", 9000, None);
    let leaving = &after.clusters[&id].leaving;
    let leaving: Vec<String> = leaving.iter().map(|one| one.ip().to_string()).collect();
    assert_eq!(leaving, ["10.0.0.2", "10.0.0.3"]);
    assert!(!after.clusters[&id].panic);
    let service = after.services.values().next().expect("a service");
    assert_eq!(service.members.len(), 1);
    assert_eq!(service.standby.len(), 2);
    assert_eq!(after.backends.len(), 3);
    for (id, target) in &before.backends {
        assert_eq!(after.backends.get(id), Some(target), "ids stay");
    }
}

/// Of 11 endpoints one goes down: a ring for 10 would have another size, and
/// nearly every slot another owner.
#[test]
fn a_ring_changes_little_when_an_endpoint_goes_down() {
    let names: Vec<String> = (1..=11).map(|i| format!("10.0.0.{i}")).collect();
    let all: Vec<(&str, bool)> = names.iter().map(|name| (name.as_str(), true)).collect();
    let model = model(
        vec![probed("a.test", &all, 25)],
        vec![forwarded(1883, "a.test")],
    );
    let (before, _) = compile(&model, &Observed::default(), &Snapshot::default());
    let (after, _) = compile(&model, &observed(&model, &["10.0.0.4"]), &before);
    assert_eq!(before.backends, after.backends, "ids stay");
    let ring = |snapshot: &Snapshot| {
        let service = snapshot.services.values().next().expect("a service");
        Arc::clone(&service.ring)
    };
    let (old, new) = (ring(&before), ring(&after));
    assert_eq!(old.len(), new.len());
    let (gone, _) = before
        .backends
        .iter()
        .find(|(_, target)| target.address.ip() == ip("10.0.0.4"))
        .expect("a backend");
    assert!(!new.contains(gone));
    let moved = old
        .iter()
        .zip(new.iter())
        .filter(|(old, new)| *old != gone && old != new)
        .count();
    assert!(
        moved * 50 < old.len(),
        "{moved} of {} slots moved",
        old.len()
    );

    let (back, _) = compile(&model, &Observed::default(), &after);
    assert_eq!(ring(&back), old, "the way back is the same");
}

#[test]
fn names_are_probed_as_far_as_they_are_resolved() {
    let mut cluster = probed("a.test", &[("10.0.0.1", true)], 25);
    cluster.endpoints[0].address = EndpointAddress::Dns("a.test".to_owned());
    let model = model(vec![cluster], vec![forwarded(1883, "a.test")]);
    assert!(probe_targets(&model, &DnsAnswers::new()).is_empty());
    let dns = DnsAnswers::from([("a.test".to_owned(), vec![ip("10.0.0.1"), ip("fd00::1")])]);
    let targets = probe_targets(&model, &dns);
    assert_eq!(targets.len(), 2);
    let down = targets
        .into_iter()
        .filter(|target| target.address.is_ipv6())
        .collect();
    let observed = Observed { dns, down };
    let (snapshot, _) = compile(&model, &observed, &Snapshot::default());
    let (used, down, _) = endpoints(&snapshot, "a.test");
    assert_eq!(
        (used, down),
        (vec!["10.0.0.1".into()], vec!["fd00::1".into()])
    );
}

#[test]
fn a_port_goes_before_a_range_and_an_address_before_any() {
    let at = |address, port, last_port| Listener {
        address,
        last_port,
        ..forwarded(port, "a.test")
    };
    let own = ListenAddress::Ip(ip("10.0.0.9"));
    let mut listeners = vec![
        at(ListenAddress::Any, 100, 200),
        at(ListenAddress::Any, 150, 150),
        at(own, 140, 160),
        at(own, 145, 145),
        at(ListenAddress::Any, 300, 400),
    ];
    for (line, listener) in (1..).zip(&mut listeners) {
        listener.origin = Origin::new("test.yaml", line);
    }
    let model = model(vec![cluster("a.test", &[])], listeners);
    let (snapshot, _) = compile(&model, &Observed::default(), &Snapshot::default());
    let found = |address: &str, port| {
        let listener = snapshot.listener(ip(address), port);
        listener.map(|listener| listener.origin.line)
    };
    for (port, line) in [
        (99, None),
        (100, Some(1)),
        (140, Some(3)),
        (145, Some(4)),
        (150, Some(2)),
        (160, Some(3)),
        (161, Some(1)),
        (201, None),
        (300, Some(5)),
        (400, Some(5)),
        (401, None),
    ] {
        assert_eq!(found("10.0.0.9", port), line, "{port}");
    }
    for (port, line) in [(140, 1), (145, 1), (150, 2), (200, 1)] {
        assert_eq!(found("10.0.0.8", port), Some(line), "{port}");
    }
}
