// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Map states written to the model and to the kernel, and taken out again.

use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues};
use gateway_common::{
    addr::Addr16,
    backend::Backend,
    counters::Stats,
    flow::{FlowKey, FlowRef},
    fragment::{FragmentKey, FragmentValue},
    limit::{MAX_BURST, SourceId},
    names,
    next_hop::NextHop,
    port_range::{PortRanges, PortRangesKey, RANGES_OF_SERVICES},
    service::{RING_CHUNK_IDS, RingChunk, ServiceKey, ServiceValue},
    source_flows::SourceBucket,
};

use super::world::{SLOTS, World};
use crate::{
    lab::{Hook, Lab},
    maps::capacity,
    model::{Model, flow, fragment, limits::Counts, route::SLOW},
};

impl World {
    /// As the model has it.
    pub fn model(&self, hook: Hook) -> Model {
        let slots = self.slots.iter();
        Model {
            hook,
            settings: self.settings,
            slow_sends: self.slow_sends,
            services: self.services.iter().copied().collect(),
            port_ranges: self
                .port_ranges
                .iter()
                .map(|(&key, ranges)| (key, ranges.clone()))
                .collect(),
            spent: self.spent.iter().copied().collect(),
            sources: self.sources.iter().map(|(&at, &it)| (at, it)).collect(),
            rings: self
                .rings
                .iter()
                .map(|(&index, &chunk)| (index, chunk))
                .collect(),
            backends: self.backends.iter().map(|(&id, &it)| (id, it)).collect(),
            flows: flow::Table {
                slots: slots
                    .map(|&(index, state, generation)| {
                        (index, flow::Slot::unused(state, generation))
                    })
                    .chain(self.handoffs.iter().map(|(&at, slot)| (at, slot.clone())))
                    .collect(),
                keys: self.keys.iter().copied().collect(),
                free: self.free.iter().copied().collect(),
                counts: Counts::default(),
            },
            fragments: fragment::Seen {
                packets: self.fragments.iter().copied().collect(),
            },
            service_stats: self
                .services
                .iter()
                .map(|(_, it)| (it.service_id, Stats::default()))
                .collect(),
            backend_stats: self
                .backends
                .keys()
                .map(|&id| (id, Stats::default()))
                .collect(),
        }
    }

    /// Writes it to the maps. Slots keep what is in them but for state and
    /// generation: a new flow starts from anything.
    pub fn install(&self, lab: &mut Lab) {
        lab.sends_redirected(SLOW, self.slow_sends);
        for ((addr, proto), ranges) in &self.port_ranges {
            lab.port_ranges(RANGES_OF_SERVICES, *addr, *proto, ranges);
        }
        for ((list, prefix), allowed) in &self.sources {
            lab.source(*list, &prefix.to_string(), *allowed);
        }
        let full_at = monotonic_ns() + 2 * u64::from(MAX_BURST) * 1_000_000_000;
        for &(service_id, prefix) in &self.spent {
            let source = SourceId {
                addr: prefix.into(),
                service_id,
            };
            rates(lab).insert(source, full_at, 0).unwrap();
        }
        array(lab, names::MAP_SETTINGS, [(0, self.settings)]);
        array(
            lab,
            names::MAP_RINGS,
            self.rings.iter().map(|(&at, &it)| (at, it)),
        );
        array(
            lab,
            names::MAP_BACKENDS,
            self.backends.iter().map(|(&at, &it)| (at, it)),
        );
        for (key, value) in &self.services {
            services(lab).insert(key, value, 0).unwrap();
        }
        for &(index, state, generation) in &self.slots {
            let mut slot = lab.slot(index);
            (slot.state, slot.generation) = (state, generation);
            lab.set_slot(index, slot);
        }
        self.install_handoffs(lab);
        lab.free_slots(self.free.iter().copied());
        for (tuple, reference) in &self.keys {
            let reference = FlowRef {
                slot: reference.slot,
                generation: reference.generation,
                direction: reference.way as u32,
            };
            lab.set_flow(&tuple.key(), reference);
        }
        let now = monotonic_ns();
        for (packet, first) in &self.fragments {
            let key = first.tuple.key();
            let value = FragmentValue {
                seen_ns: if first.is_old {
                    now - 61_000_000_000
                } else {
                    now
                },
                src_port_be: key.src_port_be,
                dst_port_be: key.dst_port_be,
                proto: key.proto,
                _pad: [0; 3],
            };
            fragments(lab).insert(packet.key(), value, 0).unwrap();
        }
        let model = self.model(lab.hook);
        zero::<Stats>(lab, names::MAP_SERVICE_STATS, model.service_stats.keys());
        zero::<Stats>(lab, names::MAP_BACKEND_STATS, model.backend_stats.keys());
        // Kept for a moment by slot and generation, which may be as before.
        let hops: Vec<u32> = (0..2 * SLOTS).collect();
        zero::<NextHop>(lab, names::MAP_NEXT_HOPS, hops.iter());
    }

    /// Takes it out of the maps, with what `model` says came of it.
    pub fn remove(&self, lab: &mut Lab, model: &Model) {
        let empty = RingChunk {
            backend_ids: [0; RING_CHUNK_IDS as usize],
        };
        array(
            lab,
            names::MAP_RINGS,
            self.rings.keys().map(|&at| (at, empty)),
        );
        let unused = Backend {
            addr: Addr16::ANY,
            snat_addr: Addr16::ANY,
            port_be: 0,
            _pad: 0,
            forwarding: 0,
        };
        array(
            lab,
            names::MAP_BACKENDS,
            self.backends.keys().map(|&at| (at, unused)),
        );
        for (key, _) in &self.services {
            services(lab).remove(key).unwrap();
        }
        let ranges = lab.ebpf.map_mut(names::MAP_PORT_RANGES).unwrap();
        let mut ranges: HashMap<_, PortRangesKey, PortRanges> = ranges.try_into().unwrap();
        for &(addr, proto) in self.port_ranges.keys() {
            let key = PortRangesKey {
                addr,
                proto,
                table: RANGES_OF_SERVICES,
                _pad: [0; 2],
            };
            ranges.remove(&key).unwrap();
        }
        lab.clear_sources();
        let mut rates = rates(lab);
        for source in rates.keys().map(Result::unwrap).collect::<Vec<_>>() {
            rates.remove(&source).unwrap();
        }
        array(
            lab,
            names::MAP_HALF_OPEN,
            (0..capacity(names::MAP_HALF_OPEN)).map(|index| (index, 0_i64)),
        );
        array(
            lab,
            names::MAP_SOURCE_FLOWS,
            (0..capacity(names::MAP_SOURCE_FLOWS)).map(|index| (index, SourceBucket::default())),
        );
        while lab.pop_free_slot().is_some() {}
        // Whatever is there: the two may have disagreed.
        let _ = model;
        let mut flows: HashMap<_, FlowKey, FlowRef> = lab
            .ebpf
            .map_mut(names::MAP_FLOWS)
            .unwrap()
            .try_into()
            .unwrap();
        for key in flows.keys().map(Result::unwrap).collect::<Vec<_>>() {
            flows.remove(&key).unwrap();
        }
        let mut fragments = fragments(lab);
        for key in fragments.keys().map(Result::unwrap).collect::<Vec<_>>() {
            fragments.remove(&key).unwrap();
        }
    }
}

fn array<V: aya::Pod>(lab: &mut Lab, name: &str, entries: impl IntoIterator<Item = (u32, V)>) {
    let mut map: Array<_, V> = lab.ebpf.map_mut(name).unwrap().try_into().unwrap();
    for (index, value) in entries {
        map.set(index, value, 0).unwrap();
    }
}

fn services(lab: &mut Lab) -> HashMap<&mut MapData, ServiceKey, ServiceValue> {
    lab.ebpf
        .map_mut(names::MAP_SERVICES)
        .unwrap()
        .try_into()
        .unwrap()
}

fn rates(lab: &mut Lab) -> HashMap<&mut MapData, SourceId, u64> {
    lab.ebpf
        .map_mut(names::MAP_SOURCE_RATES)
        .unwrap()
        .try_into()
        .unwrap()
}

fn fragments(lab: &mut Lab) -> HashMap<&mut MapData, FragmentKey, FragmentValue> {
    lab.ebpf
        .map_mut(names::MAP_FRAGMENTS)
        .unwrap()
        .try_into()
        .unwrap()
}

fn zero<'a, V: aya::Pod>(lab: &mut Lab, name: &str, ids: impl Iterator<Item = &'a u32>) {
    let cpus = aya::util::nr_cpus().unwrap();
    // SAFETY: any bytes are a value of a `Pod`.
    let nothing: V = unsafe { std::mem::zeroed() };
    let mut map: PerCpuArray<_, V> = lab.ebpf.map_mut(name).unwrap().try_into().unwrap();
    for &id in ids {
        let values = PerCpuValues::try_from(vec![nothing; cpus]).unwrap();
        map.set(id, values, 0).unwrap();
    }
}

/// The clock that the programs read.
fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a local that outlives the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut now) };
    assert_eq!(result, 0);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
