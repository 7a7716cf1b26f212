// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From what the kernel holds to what it should hold, in an order that never
//! shows a packet anything half done: pure.
//!
//! Backends and rings are written before a service points at them, and taken
//! away after none does any more; a ring's place is not written again while a
//! program could still be reading it. Every operation leaves a state that
//! forwards correctly, so a plan may fail anywhere and be continued by the
//! next one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
    sync::Arc,
};

use gateway_common::{
    backend::Backend, maglev::chunks_for, service::ServiceValue, settings::Settings,
    steer::SteerValue,
};

use crate::{
    datapath::{
        Destination,
        ranges::{self, Ranges, RangesOf},
        regions::FreeRegions,
        report::Proxied,
        serves::NotInKernel,
        tables::Tables,
    },
    model::SourcePrefix,
    snapshot::ListenKey,
};

mod sources;
#[cfg(test)]
mod tests;

use sources::Placement;
pub use sources::SourceLists;

/// One change of one map.
#[derive(Clone, Debug, PartialEq)]
pub enum MapOp {
    /// Zero the statistics of a service id given out anew.
    ClearServiceStats(u32),
    /// Zero the statistics of a backend id given out anew.
    ClearBackendStats(u32),
    /// Write a backend.
    SetBackend(u32, Backend),
    /// Make a backend refuse flows until it is written anew, in this plan.
    SuspendBackend(u32),
    /// Make a backend that nothing names refuse flows.
    ClearBackend(u32),
    /// Write a ring from this chunk on.
    WriteRing(u32, Arc<[u32]>),
    /// Add a prefix to a source list that no service names.
    SetSource(u32, SourcePrefix),
    /// Take a prefix out of a source list that no service names any more.
    RemoveSource(u32, SourcePrefix),
    /// Point a destination at a ring.
    SetService(Destination, ServiceValue, Arc<[u32]>),
    /// Stop forwarding a destination.
    RemoveService(Destination),
    /// Steer a destination to the agent.
    SetSteer(ListenKey, SteerValue),
    /// Stop steering it.
    RemoveSteer(ListenKey),
    /// Say which ranges of ports an address has; none removes the entry.
    SetRanges(RangesOf, Ranges),
    /// Write the settings.
    SetSettings(Settings),
}

/// What the kernel holds, as far as this agent knows: read from the maps at
/// start, then changed only by [`State::applied`].
#[derive(Clone, Debug)]
pub struct State {
    /// By destination.
    pub services: BTreeMap<Destination, Installed>,
    /// By id; unused ones are absent.
    pub backends: BTreeMap<u32, Backend>,
    /// Absent ones that rings in force may still name, meaning an address they
    /// do not stand for any more.
    pub suspended: BTreeSet<u32>,
    /// By listener.
    pub steer: BTreeMap<ListenKey, SteerValue>,
    /// The index of the ranges among both; without empty ones.
    pub ranges: BTreeMap<RangesOf, Ranges>,
    /// Source lists.
    pub sources: SourceLists,
    /// In force.
    pub settings: Settings,
    /// Chunks in the ring array.
    pub chunks: u32,
    /// Entries of the service map.
    pub max_services: usize,
    /// Regions that services stopped pointing at, with the number of the plan
    /// that did it.
    retired: Vec<(u64, Range<u32>)>,
    plans: u64,
}

/// A service in the kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Installed {
    /// The map's value.
    pub value: ServiceValue,
    /// The ring it points at.
    pub ring: Arc<[u32]>,
}

impl Installed {
    fn region(&self) -> Range<u32> {
        let start = self.value.ring_chunk;
        start..start.saturating_add(chunks_for(self.value.ring_size))
    }
}

impl State {
    /// An empty kernel.
    pub fn new(settings: Settings, chunks: u32, max_services: usize, max_sources: usize) -> Self {
        Self {
            services: BTreeMap::new(),
            backends: BTreeMap::new(),
            suspended: BTreeSet::new(),
            steer: BTreeMap::new(),
            ranges: BTreeMap::new(),
            sources: SourceLists::new(max_sources),
            settings,
            chunks,
            max_services,
            retired: Vec::new(),
            plans: 0,
        }
    }

    /// Records an operation that the kernel has carried out.
    pub fn applied(&mut self, op: &MapOp) {
        match op {
            MapOp::ClearServiceStats(_) | MapOp::ClearBackendStats(_) | MapOp::WriteRing(..) => {}
            MapOp::SetBackend(id, backend) => {
                self.backends.insert(*id, *backend);
                self.suspended.remove(id);
            }
            MapOp::SuspendBackend(id) => {
                self.backends.remove(id);
                self.suspended.insert(*id);
            }
            MapOp::ClearBackend(id) => {
                self.backends.remove(id);
                self.suspended.remove(id);
            }
            MapOp::SetSource(list, prefix) => self.sources.add(*list, *prefix),
            MapOp::RemoveSource(list, prefix) => self.sources.remove(*list, *prefix),
            MapOp::SetService(destination, value, ring) => {
                let installed = Installed {
                    value: *value,
                    ring: Arc::clone(ring),
                };
                if let Some(old) = self.services.insert(*destination, installed) {
                    self.retired.push((self.plans, old.region()));
                }
            }
            MapOp::RemoveService(destination) => {
                if let Some(old) = self.services.remove(destination) {
                    self.retired.push((self.plans, old.region()));
                }
            }
            MapOp::SetSteer(key, value) => {
                self.steer.insert(*key, *value);
            }
            MapOp::RemoveSteer(key) => {
                self.steer.remove(key);
            }
            MapOp::SetRanges(of, ranges) if ranges.is_empty() => {
                self.ranges.remove(of);
            }
            MapOp::SetRanges(of, ranges) => {
                self.ranges.insert(*of, ranges.clone());
            }
            MapOp::SetSettings(settings) => self.settings = *settings,
        }
    }

    /// Chunks that must not be written: pointed at, or so until lately.
    fn occupied(&self) -> impl Iterator<Item = Range<u32>> {
        let retired = self.retired.iter().map(|(_, region)| region.clone());
        self.services.values().map(Installed::region).chain(retired)
    }
}

/// Operations in order, and what could not be placed.
#[derive(Debug, Default)]
pub struct Plan {
    /// To be run in this order.
    pub ops: Vec<MapOp>,
    /// Destinations whose ring found no room.
    pub proxied: Vec<Proxied>,
}

/// The way from `state` to `wanted`. `state` changes only in what the kernel
/// does not see: which equal ring is remembered, how old regions are, and which
/// ids were given out.
pub fn plan(state: &mut State, wanted: &Tables) -> Plan {
    state.plans += 1;
    // A region stays untouched for one whole plan after the one that retired
    // it.
    let plans = state.plans;
    state.retired.retain(|(retired, _)| retired + 1 >= plans);

    let mut plan = Plan::default();
    let lists = wanted.services.values();
    let mut lists = sources::place(state, lists.filter_map(|entry| entry.sources.as_ref()));
    let (rings, flips, kept) = services(state, wanted, &lists, &mut plan.proxied);
    plan.ops.append(&mut lists.before);

    let stale_services: Vec<Destination> = state
        .services
        .keys()
        .filter(|key| !kept.contains(key))
        .copied()
        .collect();
    let new_services = flips
        .iter()
        .filter(|(key, ..)| !state.services.contains_key(key))
        .count();
    // Normally make before break; a full map leaves no room for that.
    let crowded = state.services.len() + new_services > state.max_services;

    // An id that points elsewhere from now on (only after a failed plan, or an
    // adopted table): rings in force may still mean the old backend, so it
    // refuses flows until the services have moved on. A refused SYN is sent
    // again; one sent to the wrong service is not.
    let moved: BTreeSet<u32> = wanted
        .backends
        .iter()
        .filter(|(id, new)| match state.backends.get(id) {
            Some(old) => (old.addr, old.port_be) != (new.addr, new.port_be),
            None => state.suspended.contains(id),
        })
        .map(|(id, _)| *id)
        .collect();
    plan.ops.extend(
        moved
            .iter()
            .filter(|id| state.backends.contains_key(id))
            .map(|id| MapOp::SuspendBackend(*id)),
    );

    if crowded {
        plan.ops
            .extend(stale_services.iter().copied().map(MapOp::RemoveService));
    }
    for (id, backend) in &wanted.backends {
        match state.backends.get(id) {
            _ if moved.contains(id) => continue,
            Some(old) if old == backend => continue,
            Some(_) => {}
            None => plan.ops.push(MapOp::ClearBackendStats(*id)),
        }
        plan.ops.push(MapOp::SetBackend(*id, *backend));
    }
    plan.ops.extend(
        rings
            .into_iter()
            .map(|(chunk, ring)| MapOp::WriteRing(chunk, ring)),
    );

    let known: BTreeSet<u32> = state
        .services
        .values()
        .map(|s| s.value.service_id)
        .collect();
    let fresh: BTreeSet<u32> = flips
        .iter()
        .map(|(_, value, _)| value.service_id)
        .filter(|id| !known.contains(id))
        .collect();
    plan.ops
        .extend(fresh.into_iter().map(MapOp::ClearServiceStats));
    plan.ops.extend(
        flips
            .into_iter()
            .map(|(key, value, ring)| MapOp::SetService(key, value, ring)),
    );
    for (key, value) in &wanted.steer {
        if state.steer.get(key) != Some(value) {
            plan.ops.push(MapOp::SetSteer(*key, *value));
        }
    }
    let wanted_ranges = ranges::index(kept.iter(), wanted.steer.keys());
    for (of, ranges) in &wanted_ranges {
        if state.ranges.get(of) != Some(ranges) {
            plan.ops.push(MapOp::SetRanges(*of, ranges.clone()));
        }
    }
    let stale_ranges = state.ranges.keys();
    plan.ops.extend(
        stale_ranges
            .filter(|of| !wanted_ranges.contains_key(of))
            .map(|of| MapOp::SetRanges(*of, Ranges::new())),
    );
    if !crowded {
        plan.ops
            .extend(stale_services.into_iter().map(MapOp::RemoveService));
    }
    plan.ops.append(&mut lists.after);
    for id in &moved {
        plan.ops.push(MapOp::ClearBackendStats(*id));
        plan.ops.push(MapOp::SetBackend(*id, wanted.backends[id]));
    }
    for key in state
        .steer
        .keys()
        .filter(|key| !wanted.steer.contains_key(key))
    {
        plan.ops.push(MapOp::RemoveSteer(*key));
    }
    let known = state.backends.keys().chain(&state.suspended);
    for id in known.filter(|id| !wanted.backends.contains_key(id)) {
        plan.ops.push(MapOp::ClearBackend(*id));
    }
    let settings = Settings {
        config_generation: wanted.generation,
        port_ranges: u32::from(!wanted_ranges.is_empty()),
        ..state.settings
    };
    if settings != state.settings {
        plan.ops.push(MapOp::SetSettings(settings));
    }
    plan
}

/// Rings to write, services to flip, and the destinations that stay or come.
type Moves = (
    Vec<(u32, Arc<[u32]>)>,
    Vec<(Destination, ServiceValue, Arc<[u32]>)>,
    BTreeSet<Destination>,
);

fn services(
    state: &mut State,
    wanted: &Tables,
    lists: &Placement,
    proxied: &mut Vec<Proxied>,
) -> Moves {
    let mut rings = Vec::new();
    let mut flips = Vec::new();
    let mut kept = BTreeSet::new();
    // Built when the first ring needs a place.
    let mut space: Option<(FreeRegions, HashMap<*const u32, u32>)> = None;
    for (destination, entry) in &wanted.services {
        let Some(source_list) = lists.id(entry.sources.as_ref()) else {
            proxied.push(Proxied {
                destination: *destination,
                reason: NotInKernel::SourcesFull,
            });
            continue;
        };
        let ring = &entry.ring;
        let ring_size = ring.len() as u32;
        let same_ring = state.services.get_mut(destination).and_then(|old| {
            if Arc::ptr_eq(&old.ring, ring) {
                return Some(old.value.ring_chunk);
            }
            (old.ring == *ring).then(|| {
                // The next comparison is by pointer.
                old.ring = Arc::clone(ring);
                old.value.ring_chunk
            })
        });
        let chunk = same_ring.or_else(|| {
            let (free, placed) = space.get_or_insert_with(|| {
                let placed = state
                    .services
                    .values()
                    .map(|old| (old.ring.as_ptr(), old.value.ring_chunk))
                    .collect();
                (FreeRegions::outside(state.chunks, state.occupied()), placed)
            });
            if let Some(chunk) = placed.get(&ring.as_ptr()).filter(|_| ring_size > 0) {
                return Some(*chunk);
            }
            let chunk = free.take(chunks_for(ring_size))?;
            if ring_size > 0 {
                placed.insert(ring.as_ptr(), chunk);
                rings.push((chunk, Arc::clone(ring)));
            }
            Some(chunk)
        });
        let Some(ring_chunk) = chunk else {
            proxied.push(Proxied {
                destination: *destination,
                reason: NotInKernel::RingsFull,
            });
            continue;
        };
        kept.insert(*destination);
        let value = ServiceValue {
            service_id: entry.service_id,
            ring_chunk,
            ring_size,
            hash_policy: entry.hash_policy,
            config_generation: wanted.generation,
            established_timeout_s: entry.established_timeout_s,
            source_list,
            guard: entry.guard,
        };
        let unchanged = state.services.get(destination).is_some_and(|old| {
            ServiceValue {
                config_generation: value.config_generation,
                ..old.value
            } == value
        });
        if !unchanged {
            flips.push((*destination, value, Arc::clone(ring)));
        }
    }
    (rings, flips, kept)
}
