// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Order, minimality, and that a plan may fail anywhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use gateway_common::{
    addr::Addr16,
    backend::{Backend, FORWARD_SNAT, NO_BACKEND},
    guard::Guard,
    service::RING_CHUNK_IDS,
    settings::Settings,
    steer::SteerValue,
};

use super::{MapOp, State, plan};
use crate::{
    datapath::{
        Destination,
        ranges::RangeTable,
        serves::NotInKernel,
        tables::{Entry, Tables},
    },
    model::ListenAddress,
    snapshot::ListenKey,
};

pub(super) const SETTINGS: Settings = Settings {
    hash_seed: 1,
    flow_slots: 16,
    snat_port_min: 61_000,
    snat_port_max: 65_535,
    ..Settings::NONE
};

fn destination(port: u16) -> Destination {
    SocketAddr::from((Ipv4Addr::new(10, 97, 0, 1), port)).into()
}

fn backend(host: u8) -> Backend {
    Backend {
        addr: Addr16::from_v4([10, 0, 0, host]),
        snat_addr: Addr16::from_v4([10, 0, 0, 254]),
        port_be: 80u16.to_be(),
        _pad: 0,
        forwarding: FORWARD_SNAT,
    }
}

/// Services as (port, ring), backends as (id, last byte of the address).
fn wanted(generation: u32, services: &[(u16, &[u32])], backends: &[(u32, u8)]) -> Tables {
    Tables {
        generation,
        services: services
            .iter()
            .map(|(port, ring)| {
                let entry = Entry {
                    service_id: u32::from(*port),
                    ring: Arc::from(*ring),
                    hash_policy: 0,
                    established_timeout_s: 0,
                    sources: None,
                    guard: Guard::NONE,
                };
                (destination(*port), entry)
            })
            .collect(),
        backends: backends
            .iter()
            .map(|(id, host)| (*id, backend(*host)))
            .collect(),
        steer: services
            .iter()
            .map(|(port, _)| {
                let key = ListenKey::tcp(ListenAddress::Any, *port);
                let value = SteerValue {
                    socket_base: 0,
                    socket_count: 2,
                };
                (key, value)
            })
            .collect(),
        proxied: Vec::new(),
    }
}

/// The ring array as the programs read it, beside the agent's view.
struct Kernel {
    state: State,
    chunks: Vec<[u32; RING_CHUNK_IDS as usize]>,
}

impl Kernel {
    fn new(chunks: u32) -> Self {
        Self {
            state: State::new(SETTINGS, chunks, 1_000, 1_000),
            chunks: vec![[NO_BACKEND; RING_CHUNK_IDS as usize]; chunks as usize],
        }
    }

    fn run(&mut self, op: &MapOp) {
        if let MapOp::WriteRing(start, ring) = op {
            for (chunk, ids) in self.chunks[*start as usize..]
                .iter_mut()
                .zip(ring.chunks(RING_CHUNK_IDS as usize))
            {
                chunk.fill(NO_BACKEND);
                chunk[..ids.len()].copy_from_slice(ids);
            }
        }
        self.state.applied(op);
    }

    fn apply(&mut self, tables: &Tables) -> Vec<MapOp> {
        let plan = plan(&mut self.state, tables);
        for op in &plan.ops {
            self.run(op);
        }
        plan.ops
    }

    /// What the programs would read as the ring of a service.
    fn ring_in_memory(&self, destination: &Destination) -> Vec<u32> {
        let value = self.state.services[destination].value;
        let ids = self.chunks[value.ring_chunk as usize..].iter().flatten();
        ids.take(value.ring_size as usize).copied().collect()
    }
}

#[test]
fn first_plan_makes_before_it_points() {
    let mut kernel = Kernel::new(8);
    let ops = kernel.apply(&wanted(1, &[(80, &[1, 2, 1])], &[(1, 1), (2, 2)]));
    let kinds: Vec<&str> = ops
        .iter()
        .map(|op| match op {
            MapOp::ClearBackendStats(_) | MapOp::ClearServiceStats(_) => "clear",
            MapOp::SetBackend(..) => "backend",
            MapOp::WriteRing(..) => "ring",
            MapOp::SetService(..) => "service",
            MapOp::SetSteer(..) => "steer",
            MapOp::SetSettings(_) => "settings",
            _ => "other",
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "clear", "backend", "clear", "backend", "ring", "clear", "service", "steer", "settings"
        ]
    );
    assert_eq!(kernel.ring_in_memory(&destination(80)), [1, 2, 1]);
}

#[test]
fn an_unchanged_snapshot_writes_only_its_number() {
    let mut kernel = Kernel::new(8);
    let services: [(u16, &[u32]); 2] = [(80, &[1, 2]), (81, &[2])];
    kernel.apply(&wanted(1, &services, &[(1, 1), (2, 2)]));
    // The rings are equal, but not the same objects.
    let ops = kernel.apply(&wanted(2, &services, &[(1, 1), (2, 2)]));
    assert!(matches!(ops.as_slice(), [MapOp::SetSettings(_)]), "{ops:?}");
}

#[test]
fn one_changed_service_among_many_touches_only_itself() {
    let mut kernel = Kernel::new(10_000);
    let ring = [1];
    let mut services: Vec<(u16, &[u32])> =
        (1..=5_000).map(|port| (port, ring.as_slice())).collect();
    kernel.state.max_services = 6_000;
    kernel.apply(&wanted(1, &services, &[(1, 1), (2, 2)]));
    services[77].1 = &[2];
    let ops = kernel.apply(&wanted(2, &services, &[(1, 1), (2, 2)]));
    assert!(
        matches!(
            ops.as_slice(),
            [
                MapOp::WriteRing(..),
                MapOp::SetService(..),
                MapOp::SetSettings(_)
            ]
        ),
        "{ops:?}"
    );
}

#[test]
fn services_share_the_place_of_a_shared_ring() {
    let mut kernel = Kernel::new(2);
    let mut tables = wanted(1, &[(80, &[1]), (81, &[1])], &[(1, 1)]);
    let ring = Arc::clone(&tables.services[&destination(80)].ring);
    tables
        .services
        .get_mut(&destination(81))
        .expect("it is there")
        .ring = ring;
    let ops = kernel.apply(&tables);
    let rings = ops
        .iter()
        .filter(|op| matches!(op, MapOp::WriteRing(..)))
        .count();
    assert_eq!(rings, 1);
}

#[test]
fn a_region_rests_for_a_generation_before_it_is_written_again() {
    let mut kernel = Kernel::new(3);
    let place = |kernel: &Kernel| kernel.state.services[&destination(80)].value.ring_chunk;
    let mut places = Vec::new();
    for (generation, id) in (1..=4).zip([1, 2, 1, 2]) {
        kernel.apply(&wanted(generation, &[(80, &[id])], &[(1, 1), (2, 2)]));
        places.push(place(&kernel));
    }
    assert_eq!(places, [0, 1, 2, 0]);
}

#[test]
fn a_full_ring_array_leaves_the_service_to_the_agent() {
    let mut kernel = Kernel::new(1);
    let tables = wanted(1, &[(80, &[1]), (81, &[2])], &[(1, 1), (2, 2)]);
    let plan = plan(&mut kernel.state, &tables);
    assert_eq!(plan.proxied.len(), 1);
    assert_eq!(plan.proxied[0].destination, destination(81));
    assert_eq!(plan.proxied[0].reason, NotInKernel::RingsFull);
    let pointed = plan
        .ops
        .iter()
        .filter(|op| matches!(op, MapOp::SetService(..)))
        .count();
    assert_eq!(pointed, 1);
}

#[test]
fn a_full_service_map_breaks_before_it_makes() {
    let mut kernel = Kernel::new(8);
    kernel.state.max_services = 1;
    kernel.apply(&wanted(1, &[(80, &[1])], &[(1, 1)]));
    let ops = kernel.apply(&wanted(2, &[(81, &[1])], &[(1, 1)]));
    let position = |wanted: fn(&MapOp) -> bool| ops.iter().position(wanted).expect("the operation");
    assert!(
        position(|op| matches!(op, MapOp::RemoveService(_)))
            < position(|op| matches!(op, MapOp::SetService(..)))
    );
}

/// Random configurations, each plan cut off at a random point: after every
/// single operation each service reads a whole ring, and no ring leads to a
/// backend that its service never had under that id.
#[test]
fn every_step_of_a_broken_off_plan_forwards_correctly() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut kernel = Kernel::new(24);
    for generation in 1..2_000 {
        let mut ids: Vec<(u32, u8)> = (1..=6).map(|id| (id, random.u8(1..4))).collect();
        ids.retain(|_| random.u8(0..4) > 0);
        let mut rings: Vec<(u16, Vec<u32>)> = Vec::new();
        for port in 1..=5 {
            if !ids.is_empty() && random.bool() {
                let length = random.usize(0..40);
                let ring = (0..length).map(|_| ids[random.usize(0..ids.len())].0);
                rings.push((port, ring.collect()));
            }
        }
        let rings: Vec<(u16, &[u32])> = rings.iter().map(|(p, r)| (*p, r.as_slice())).collect();
        let tables = wanted(generation, &rings, &ids);
        let before: BTreeMap<u32, Backend> = kernel.state.backends.clone();
        let plan = plan(&mut kernel.state, &tables);
        let proxied: BTreeSet<Destination> = plan.proxied.iter().map(|p| p.destination).collect();
        let stop = if random.bool() {
            plan.ops.len()
        } else {
            random.usize(0..=plan.ops.len())
        };
        for (step, op) in plan.ops.iter().take(stop).enumerate() {
            kernel.run(op);
            for (destination, service) in &kernel.state.services {
                let ring = kernel.ring_in_memory(destination);
                assert_eq!(
                    ring, *service.ring,
                    "generation {generation} step {step} {op:?}"
                );
                let moved_on = tables
                    .services
                    .get(destination)
                    .is_some_and(|entry| entry.ring == service.ring);
                for id in ring {
                    let Some(now) = kernel.state.backends.get(&id) else {
                        continue;
                    };
                    let old = before.get(&id).is_some_and(|old| old.addr == now.addr);
                    let new = moved_on && tables.backends.get(&id) == Some(now);
                    assert!(
                        old || new,
                        "generation {generation} step {step} {op:?}: {id}"
                    );
                }
            }
        }
        if stop == plan.ops.len() {
            let installed: BTreeSet<Destination> = kernel.state.services.keys().copied().collect();
            let asked: BTreeSet<Destination> = tables.services.keys().copied().collect();
            assert_eq!(installed, &asked - &proxied);
            assert_eq!(kernel.state.backends, tables.backends);
            assert_eq!(kernel.state.steer, tables.steer);
        }
    }
}

/// A range is looked up by the index first: its entry is there before, and
/// gone only after.
#[test]
fn the_index_of_ranges_never_leads_nowhere() {
    let range = |first, last_port| Destination {
        last_port,
        ..destination(first)
    };
    let of = |ranges: &[Destination]| {
        let mut tables = wanted(1, &[(80, &[1])], &[(1, 1)]);
        let entry = tables.services[&destination(80)].clone();
        for destination in ranges {
            tables.services.insert(*destination, entry.clone());
            let key = ListenKey {
                last_port: destination.last_port,
                ..ListenKey::tcp(ListenAddress::Any, destination.address.port())
            };
            let value = SteerValue {
                socket_base: 0,
                socket_count: 2,
            };
            tables.steer.insert(key, value);
        }
        tables
    };
    let mut kernel = Kernel::new(8);
    for ranges in [
        &[range(100, 200)][..],
        &[range(100, 150), range(160, 200)],
        &[range(100, 200), range(300, 301)],
        &[],
    ] {
        let plan = plan(&mut kernel.state, &of(ranges));
        for op in &plan.ops {
            kernel.run(op);
            for (of, ranges) in &kernel.state.ranges {
                for (first, last) in ranges {
                    let found = match of.table {
                        RangeTable::Services => {
                            kernel.state.services.contains_key(&range(*first, *last))
                        }
                        RangeTable::Steered => kernel.state.steer.contains_key(&ListenKey {
                            last_port: *last,
                            ..ListenKey::tcp(of.address, *first)
                        }),
                    };
                    assert!(found, "{op:?}: {of} {first}-{last}");
                }
            }
        }
        assert_eq!(
            kernel.state.ranges.len(),
            if ranges.is_empty() { 0 } else { 2 }
        );
        assert!(
            kernel
                .state
                .ranges
                .values()
                .all(|all| all.len() == ranges.len())
        );
        assert_eq!(
            kernel.state.settings.port_ranges,
            u32::from(!ranges.is_empty())
        );
        assert_eq!(kernel.state.services.len(), 1 + ranges.len());
    }
}
