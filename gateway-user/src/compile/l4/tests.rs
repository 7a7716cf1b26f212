// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stable ids, shares and reuse.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use super::services;
use crate::{
    model::{
        ClusterId, FlowLimits, ForwardingMode, HandoffPolicy, HashPolicy, ListenAddress, Listener,
        ListenerKind, LoadBalancing, Model, Sources, TcpDestination, TcpRoute,
    },
    origin::Origin,
    snapshot::{BackendTarget, Cluster, Endpoint, ListenKey, Service, Snapshot},
};

/// One forwarded listener: port, forwarding, and its destinations as weight and
/// endpoints (address, weight).
type Row<'a> = (u16, ForwardingMode, &'a [(u32, &'a [(&'a str, u32)])]);

fn compile(rows: &[Row<'_>], previous: &Snapshot) -> Snapshot {
    compile_up_to(rows, 0, previous)
}

/// As [`compile`]; listeners have all ports up to `last_port`, if that is not
/// before their own.
fn compile_up_to(rows: &[Row<'_>], last_port: u16, previous: &Snapshot) -> Snapshot {
    let mut model = Model::default();
    let mut clusters = BTreeMap::new();
    for (port, forwarding, destinations) in rows {
        let mut route = TcpRoute {
            origin: Origin::new("test.yaml", 1),
            destinations: Vec::new(),
            idle_timeout: None,
            hash_policy: HashPolicy::FiveTuple,
            forwarding: *forwarding,
            handoff: HandoffPolicy::default(),
        };
        for (i, (weight, endpoints)) in destinations.iter().enumerate() {
            let id = ClusterId::new(&format!("c{i}"), *port, None);
            route.destinations.push(TcpDestination {
                cluster: id.clone(),
                weight: *weight,
            });
            let endpoints = endpoints
                .iter()
                .map(|(address, weight)| Endpoint {
                    address: address.parse().expect("an address"),
                    weight: *weight,
                })
                .collect();
            let cluster = Cluster {
                id: id.clone(),
                endpoints,
                load_balancing: LoadBalancing::default(),
                connect_timeout: Duration::from_secs(10),
                proxy_protocol: None,
                down: Vec::new(),
                leaving: Vec::new(),
                panic: false,
                health: None,
                sources: Sources::everyone(),
                source_address: crate::model::SourceAddress::Node,
            };
            clusters.insert(id, Arc::new(cluster));
        }
        model.listeners.push(Listener {
            address: ListenAddress::Any,
            port: *port,
            last_port: last_port.max(*port),
            kind: ListenerKind::Forward(route),
            origin: Origin::new("test.yaml", 1),
            sources: Sources::everyone(),
            limits: FlowLimits::default(),
        });
    }
    let (services, backends) = services(&model, &clusters, previous);
    Snapshot {
        generation: previous.generation + 1,
        services,
        backends,
        clusters,
        ..Snapshot::default()
    }
}

fn key(port: u16) -> ListenKey {
    ListenKey::tcp(ListenAddress::Any, port)
}

fn id_of(snapshot: &Snapshot, address: &str) -> u32 {
    let address: SocketAddr = address.parse().expect("an address");
    let mut ids = snapshot
        .backends
        .iter()
        .filter(|(_, target)| target.address == address);
    *ids.next().expect("the backend has an id").0
}

const SNAT: ForwardingMode = ForwardingMode::Snat;

#[test]
fn shares_multiply_destination_and_endpoint_weights() {
    let snapshot = compile(
        &[(
            1883,
            SNAT,
            &[
                (75, &[("10.0.0.1:1", 1), ("10.0.0.2:1", 2)]),
                (25, &[("10.0.0.3:1", 9)]),
            ],
        )],
        &Snapshot::default(),
    );
    let ring = &snapshot.services[&key(1883)].ring;
    for (address, wanted) in [
        ("10.0.0.1:1", 0.25),
        ("10.0.0.2:1", 0.5),
        ("10.0.0.3:1", 0.25),
    ] {
        let id = id_of(&snapshot, address);
        let share = ring.iter().filter(|slot| **slot == id).count() as f64 / ring.len() as f64;
        assert!((share - wanted).abs() < 0.01, "{address}: {share}");
    }
}

#[test]
fn ids_start_at_one_and_survive_changes() {
    let first = compile(
        &[
            (1, SNAT, &[(1, &[("10.0.0.1:1", 1), ("10.0.0.2:1", 1)])]),
            (2, SNAT, &[(1, &[("10.0.0.3:1", 1)])]),
        ],
        &Snapshot::default(),
    );
    assert_eq!(
        first.backends.keys().copied().collect::<Vec<_>>(),
        [1, 2, 3]
    );

    // The first service goes, another backend and another service come.
    let second = compile(
        &[
            (2, SNAT, &[(1, &[("10.0.0.3:1", 1), ("10.0.0.0:1", 1)])]),
            (3, SNAT, &[(1, &[("10.0.0.3:1", 1)])]),
        ],
        &first,
    );
    assert_eq!(id_of(&second, "10.0.0.3:1"), id_of(&first, "10.0.0.3:1"));
    assert_eq!(second.services[&key(2)].id, first.services[&key(2)].id);
    // Ids the kernel may still use are not handed out in the same step …
    assert!(!first.backends.contains_key(&id_of(&second, "10.0.0.0:1")));
    assert_ne!(second.services[&key(3)].id, first.services[&key(1)].id);
    // … but in the next one.
    let third = compile(
        &[
            (2, SNAT, &[(1, &[("10.0.0.3:1", 1), ("10.0.0.9:1", 1)])]),
            (4, SNAT, &[(1, &[("10.0.0.3:1", 1)])]),
        ],
        &second,
    );
    assert_eq!(id_of(&third, "10.0.0.9:1"), 1);
    assert_eq!(third.services[&key(4)].id, first.services[&key(1)].id);
}

#[test]
fn unchanged_services_are_the_same_objects() {
    let rows: [Row<'_>; 2] = [
        (1, SNAT, &[(1, &[("10.0.0.1:1", 1), ("10.0.0.2:1", 1)])]),
        (2, SNAT, &[(1, &[("10.0.0.1:1", 1), ("10.0.0.2:1", 1)])]),
    ];
    let first = compile(&rows, &Snapshot::default());
    assert!(Arc::ptr_eq(
        &first.services[&key(1)].ring,
        &first.services[&key(2)].ring
    ));
    let second = compile(&rows, &first);
    for port in [1, 2] {
        assert!(Arc::ptr_eq(
            &first.services[&key(port)],
            &second.services[&key(port)]
        ));
    }
}

#[test]
fn one_address_in_two_modes_is_two_backends() {
    let snapshot = compile(
        &[
            (1, SNAT, &[(1, &[("10.0.0.1:1", 1)])]),
            (2, ForwardingMode::Dnat, &[(1, &[("10.0.0.1:1", 1)])]),
        ],
        &Snapshot::default(),
    );
    let ids: BTreeSet<u32> = snapshot
        .services
        .values()
        .map(|service| service.ring[0])
        .collect();
    assert_eq!(ids.len(), 2);
}

#[test]
fn an_adopted_table_gives_its_ids() {
    // The kernel knows single addresses and resolved modes only.
    let rows: [Row<'_>; 1] = [(
        1,
        ForwardingMode::Auto,
        &[(1, &[("10.0.0.1:1", 1), ("10.0.0.2:1", 1)])],
    )];
    let mut adopted = compile(&rows, &Snapshot::default());
    let service = adopted.services.remove(&key(1)).expect("the service");
    let mut service = Arc::unwrap_or_clone(service);
    service.id = 77;
    adopted.services.insert(
        ListenKey::tcp(ListenAddress::Ip([10, 97, 0, 1].into()), 1),
        Arc::new(service),
    );
    adopted.backends = [(40, "10.0.0.2:1"), (41, "10.0.0.1:1")]
        .map(|(id, address)| {
            let target = BackendTarget {
                address: address.parse().expect("an address"),
                forwarding: SNAT,
            };
            (id, target)
        })
        .into();
    let snapshot = compile(&rows, &adopted);
    assert_eq!(snapshot.services[&key(1)].id, 77);
    assert_eq!(id_of(&snapshot, "10.0.0.1:1"), 41);
    assert_eq!(id_of(&snapshot, "10.0.0.2:1"), 40);
}

#[test]
fn endpoints_on_the_first_port_of_a_range_keep_the_clients() {
    let rows: [Row<'_>; 1] = [(
        30_000,
        SNAT,
        &[(1, &[("10.0.0.1:30000", 1), ("10.0.0.2:5000", 1)])],
    )];
    let range = compile_up_to(&rows, 39_999, &Snapshot::default());
    let service = range.services.values().next().expect("a service");
    assert_eq!(service.members.len(), 2);
    id_of(&range, "10.0.0.1:0");
    id_of(&range, "10.0.0.2:5000");
    let single = compile(&rows, &Snapshot::default());
    id_of(&single, "10.0.0.1:30000");
}

/// The kernel may know parts of a range only, beside ports of its own.
#[test]
fn a_range_takes_the_id_of_an_adopted_part() {
    let rows: [Row<'_>; 1] = [(30_000, SNAT, &[(1, &[("10.0.0.1:30000", 1)])])];
    let mut adopted = compile_up_to(&rows, 39_999, &Snapshot::default());
    let (key, service) = adopted.services.pop_first().expect("the service");
    for (id, first, last) in [(70, 31_000, 31_000), (71, 30_005, 30_999), (72, 1, 2)] {
        let key = ListenKey {
            address: ListenAddress::Ip([10, 97, 0, 1].into()),
            port: first,
            last_port: last,
            ..key
        };
        let service = Service {
            id,
            ..Service::clone(&service)
        };
        adopted.services.insert(key, Arc::new(service));
    }
    let snapshot = compile_up_to(&rows, 39_999, &adopted);
    assert_eq!(snapshot.services[&key].id, 71);
}

#[test]
fn no_endpoint_is_an_empty_ring() {
    let snapshot = compile(&[(1, SNAT, &[(1, &[])])], &Snapshot::default());
    assert!(snapshot.services[&key(1)].ring.is_empty());
    assert!(snapshot.backends.is_empty());
}
