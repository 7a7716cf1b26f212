// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the agent would write to the maps, and what the programs left there.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, PerCpuValues, Queue, lpm_trie::Key},
    util::nr_cpus,
};
use gateway_common::{
    addr::Addr16,
    backend::{Backend, FORWARD_DNAT, FORWARD_SNAT},
    counters::{Answers, Count, Stats, VerdictCounter},
    drop_reason::DropReason,
    flow::{FlowKey, FlowRef, FlowSlot, PROTOCOL_TCP},
    guard::{Guard, NodeLimits},
    limit::SourceId,
    limits::ANSWERS,
    names,
    port_range::{MAX_PORT_RANGES, PortRange, PortRanges, PortRangesKey, RANGES_OF_SERVICES},
    service::{RING_CHUNK_IDS, RingChunk, ServiceKey, ServiceValue},
    settings::Settings,
    source::{NO_SOURCE_LIST, SOURCE_LIST_BITS, SourceKey},
    source_flows::{self, SourceBucket, Spot},
};

use crate::lab::{Lab, interface_index};

/// Small maps: a lab is made for each case.
pub const CAPACITIES: [(&str, u32); 13] = [
    (names::MAP_FLOWS, 16_384),
    (names::MAP_FLOW_SLOTS, 8_192),
    (names::MAP_FREE_SLOTS, 8_192),
    (names::MAP_SERVICES, 64),
    (names::MAP_RINGS, 1_024),
    (names::MAP_BACKENDS, 64),
    (names::MAP_SERVICE_STATS, 64),
    (names::MAP_BACKEND_STATS, 64),
    (names::MAP_STEER, 64),
    (names::MAP_SOURCE_RATES, 1_024),
    (names::MAP_SOURCE_FLOWS, 32),
    (names::MAP_HALF_OPEN, 65),
    (names::MAP_VERIFIED, 64),
];

/// Entries of a map of [`CAPACITIES`].
pub fn capacity(name: &str) -> u32 {
    let entry = CAPACITIES.iter().find(|(map, _)| *map == name);
    entry.expect(name).1
}

/// Seed of the flow hash in every lab.
pub const SEED: u32 = 0x5eed;
/// The SNAT range of every lab.
pub const PORTS: RangeInclusive<u16> = 61_000..=61_015;
/// The gateway's own address towards the backends.
pub const SNAT_ADDR: [u8; 4] = [10, 1, 0, 1];
pub const SNAT_ADDR6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1);
/// Id of the first service and start of its ring.
pub const SERVICE_ID: u32 = 7;

pub fn addr(endpoint: SocketAddr) -> Addr16 {
    endpoint.ip().into()
}

/// The key of a TCP packet.
pub fn key(src: SocketAddr, dst: SocketAddr) -> FlowKey {
    key_of(PROTOCOL_TCP, src, dst)
}

pub fn key_of(proto: u8, src: SocketAddr, dst: SocketAddr) -> FlowKey {
    FlowKey {
        src: addr(src),
        dst: addr(dst),
        src_port_be: src.port().to_be(),
        dst_port_be: dst.port().to_be(),
        proto,
        _pad: [0; 3],
    }
}

pub fn set_settings(ebpf: &mut Ebpf) {
    set_ports(ebpf, &PORTS);
}

fn set_ports(ebpf: &mut Ebpf, ports: &RangeInclusive<u16>) {
    let mut map: Array<_, Settings> = array(ebpf, names::MAP_SETTINGS);
    let settings = Settings {
        hash_seed: SEED,
        flow_slots: 8_192,
        snat_port_min: u32::from(*ports.start()),
        snat_port_max: u32::from(*ports.end()),
        config_generation: 3,
        limits: NodeLimits {
            source_buckets: capacity(names::MAP_SOURCE_FLOWS),
            ..NodeLimits::NONE
        },
        ..Settings::NONE
    };
    map.set(0, settings, 0).unwrap();
}

fn array<'a, V: aya::Pod>(ebpf: &'a mut Ebpf, name: &str) -> Array<&'a mut MapData, V> {
    ebpf.map_mut(name).unwrap().try_into().unwrap()
}

fn stats(ebpf: &Ebpf, name: &str, id: u32) -> Stats {
    let map: PerCpuArray<_, Stats> = ebpf.map(name).unwrap().try_into().unwrap();
    map.get(&id, 0)
        .unwrap()
        .iter()
        .fold(Stats::default(), |sum, cpu| Stats {
            flows: sum.flows + cpu.flows,
            refused: sum.refused + cpu.refused,
            packets_in: sum.packets_in + cpu.packets_in,
            bytes_in: sum.bytes_in + cpu.bytes_in,
            packets_out: sum.packets_out + cpu.packets_out,
            bytes_out: sum.bytes_out + cpu.bytes_out,
        })
}

fn count(ebpf: &Ebpf, name: &str, index: u32) -> u64 {
    let map: PerCpuArray<_, Count> = ebpf.map(name).unwrap().try_into().unwrap();
    map.get(&index, 0)
        .unwrap()
        .iter()
        .map(|cpu| cpu.packets)
        .sum()
}

impl Lab {
    /// Gives SNAT other ports than [`PORTS`].
    pub fn snat_ports(&mut self, ports: RangeInclusive<u16>) {
        set_ports(&mut self.ebpf, &ports);
    }

    /// Lists slots as free.
    pub fn free_slots(&mut self, slots: impl IntoIterator<Item = u32>) {
        let mut queue: Queue<_, u32> = self
            .ebpf
            .map_mut(names::MAP_FREE_SLOTS)
            .unwrap()
            .try_into()
            .unwrap();
        for slot in slots {
            queue.push(slot, 0).unwrap();
        }
    }

    /// Takes a slot off the free list.
    pub fn pop_free_slot(&mut self) -> Option<u32> {
        let mut queue: Queue<_, u32> = self
            .ebpf
            .map_mut(names::MAP_FREE_SLOTS)
            .unwrap()
            .try_into()
            .unwrap();
        queue.pop(0).ok()
    }

    /// Writes a backend without a source address of ours.
    pub fn dnat_backend(&mut self, id: u32, endpoint: SocketAddr) {
        self.backend(id, endpoint, FORWARD_DNAT, Addr16::ANY);
    }

    /// Writes a backend that is always reached from [`SNAT_ADDR`] or
    /// [`SNAT_ADDR6`].
    pub fn snat_backend(&mut self, id: u32, endpoint: SocketAddr) {
        let source = match endpoint {
            SocketAddr::V4(_) => Addr16::from_v4(SNAT_ADDR),
            SocketAddr::V6(_) => IpAddr::from(SNAT_ADDR6).into(),
        };
        self.backend(id, endpoint, FORWARD_SNAT, source);
    }

    pub fn backend(&mut self, id: u32, endpoint: SocketAddr, forwarding: u32, snat: Addr16) {
        let backend = Backend {
            addr: addr(endpoint),
            snat_addr: snat,
            port_be: endpoint.port().to_be(),
            _pad: 0,
            forwarding,
        };
        array(&mut self.ebpf, names::MAP_BACKENDS)
            .set(id, backend, 0)
            .unwrap();
    }

    /// Writes a TCP service and, from chunk 0 on, its ring.
    pub fn service(&mut self, vip: SocketAddr, ring: &[u32]) {
        self.service_with(vip, ring, |_| {});
    }

    /// As [`Self::service`], with changes to the service.
    pub fn service_with(
        &mut self,
        vip: SocketAddr,
        ring: &[u32],
        change: impl FnOnce(&mut ServiceValue),
    ) {
        self.service_of(PROTOCOL_TCP, vip, ring, change);
    }

    /// Writes a service of any protocol.
    pub fn service_of(
        &mut self,
        proto: u8,
        vip: SocketAddr,
        ring: &[u32],
        change: impl FnOnce(&mut ServiceValue),
    ) {
        let mut chunks: Array<_, RingChunk> = array(&mut self.ebpf, names::MAP_RINGS);
        for (index, ids) in ring.chunks(RING_CHUNK_IDS as usize).enumerate() {
            let mut chunk = RingChunk {
                backend_ids: [0; RING_CHUNK_IDS as usize],
            };
            chunk.backend_ids[..ids.len()].copy_from_slice(ids);
            chunks.set(index as u32, chunk, 0).unwrap();
        }
        let mut value = ServiceValue {
            service_id: SERVICE_ID,
            ring_chunk: 0,
            ring_size: ring.len() as u32,
            hash_policy: 0,
            config_generation: 3,
            established_timeout_s: 900,
            source_list: NO_SOURCE_LIST,
            guard: Guard::NONE,
        };
        change(&mut value);
        let mut services: HashMap<_, ServiceKey, ServiceValue> = self
            .ebpf
            .map_mut(names::MAP_SERVICES)
            .unwrap()
            .try_into()
            .unwrap();
        let key = ServiceKey {
            addr: addr(vip),
            port_be: vip.port().to_be(),
            last_port_be: vip.port().to_be(),
            proto,
            _pad: [0; 3],
        };
        services.insert(key, value, 0).unwrap();
    }

    /// Gives the service at `vip` all ports up to `last`, and writes these
    /// ranges as those of its address, which holds for any other services too.
    pub fn widen_service(&mut self, proto: u8, vip: SocketAddr, last: u16, all: &[(u16, u16)]) {
        let mut services: HashMap<_, ServiceKey, ServiceValue> = self
            .ebpf
            .map_mut(names::MAP_SERVICES)
            .unwrap()
            .try_into()
            .unwrap();
        let mut key = ServiceKey {
            addr: addr(vip),
            port_be: vip.port().to_be(),
            last_port_be: vip.port().to_be(),
            proto,
            _pad: [0; 3],
        };
        let value = services.get(&key, 0).unwrap();
        services.remove(&key).unwrap();
        key.last_port_be = last.to_be();
        services.insert(key, value, 0).unwrap();
        self.port_ranges(RANGES_OF_SERVICES, addr(vip), proto, all);
    }

    /// Writes the ranges of an address, and that there are some.
    pub fn port_ranges(&mut self, table: u8, addr: Addr16, proto: u8, all: &[(u16, u16)]) {
        let mut ranges = [PortRange::UNUSED; MAX_PORT_RANGES];
        for (range, (first, last)) in ranges.iter_mut().zip(all) {
            *range = PortRange {
                first: u32::from(*first),
                last: u32::from(*last),
            };
        }
        let key = PortRangesKey {
            addr,
            proto,
            table,
            _pad: [0; 2],
        };
        let value = PortRanges {
            count: all.len() as u32,
            ranges,
        };
        let map = self.ebpf.map_mut(names::MAP_PORT_RANGES).unwrap();
        let mut map: HashMap<_, PortRangesKey, PortRanges> = map.try_into().unwrap();
        map.insert(key, value, 0).unwrap();
        self.set(|settings| settings.port_ranges = 1);
    }

    /// Uses up what may be answered, for an hour.
    pub fn exhaust_answers(&mut self) {
        let mut now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the pointer is that of a live timespec, which the call fills.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        let answers = Answers {
            since_ns: (now.tv_sec as u64 + 3_600) * 1_000_000_000,
            count: ANSWERS,
        };
        let map = self.ebpf.map_mut(names::MAP_ANSWERS).unwrap();
        let mut map: PerCpuArray<_, Answers> = map.try_into().unwrap();
        let cpus = nr_cpus().unwrap();
        let values = PerCpuValues::try_from(vec![answers; cpus]).unwrap();
        map.set(0, values, 0).unwrap();
    }

    /// Changes the settings.
    pub fn set(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings: Array<_, Settings> = array(&mut self.ebpf, names::MAP_SETTINGS);
        let mut value = settings.get(&0, 0).unwrap();
        change(&mut value);
        settings.set(0, value, 0).unwrap();
    }

    /// Adds a prefix to a source list.
    pub fn source(&mut self, list: u32, prefix: &str, allowed: bool) {
        let (address, bits) = prefix.split_once('/').unwrap();
        let address: IpAddr = address.parse().unwrap();
        let mapped = if address.is_ipv4() { 96 } else { 0 };
        let bits = SOURCE_LIST_BITS + mapped + bits.parse::<u32>().unwrap();
        let addr = address.into();
        let mut sources: LpmTrie<_, SourceKey, u32> = self
            .ebpf
            .map_mut(names::MAP_SOURCES)
            .unwrap()
            .try_into()
            .unwrap();
        let key = Key::new(bits, SourceKey { list, addr });
        sources.insert(&key, u32::from(allowed), 0).unwrap();
    }

    /// Empties the source lists.
    pub fn clear_sources(&mut self) {
        let mut sources: LpmTrie<_, SourceKey, u32> = self
            .ebpf
            .map_mut(names::MAP_SOURCES)
            .unwrap()
            .try_into()
            .unwrap();
        for key in sources.keys().map(Result::unwrap).collect::<Vec<_>>() {
            sources.remove(&key).unwrap();
        }
    }

    /// Changes the settings.
    pub fn change_settings(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut map: Array<_, Settings> = array(&mut self.ebpf, names::MAP_SETTINGS);
        let mut settings = map.get(&0, 0).unwrap();
        change(&mut settings);
        map.set(0, settings, 0).unwrap();
    }

    /// Leaves the node's bucket of new flows without a token for years.
    pub fn empty_new_flow_bucket(&mut self) {
        let mut map: Array<_, u64> = array(&mut self.ebpf, names::MAP_NEW_FLOWS);
        map.set(0, u64::MAX / 2, 0).unwrap();
    }

    /// Half-open flows at an index.
    pub fn half_open(&mut self, index: u32) -> i64 {
        array(&mut self.ebpf, names::MAP_HALF_OPEN)
            .get(&index, 0)
            .unwrap()
    }

    /// Says whether an interface sends what XDP redirects to it.
    pub fn sends_redirected(&mut self, interface: &str, sends: bool) {
        let map = self.ebpf.map_mut(names::MAP_XDP_EGRESS).unwrap();
        let mut map: HashMap<_, u32, u32> = map.try_into().unwrap();
        let index = interface_index(interface);
        if sends {
            map.insert(index, 1, 0).unwrap();
        } else {
            // It may not be there.
            let _ = map.remove(&index);
        }
    }

    /// Flows of a source.
    pub fn source_flows(&mut self, source: &SourceId, limits: &NodeLimits) -> u32 {
        let spot = Spot::of(source, limits.source_key, limits.source_buckets);
        let map: Array<_, SourceBucket> = array(&mut self.ebpf, names::MAP_SOURCE_FLOWS);
        spot.flows(&map.get(&spot.bucket, 0).unwrap())
    }

    /// Gives every place of sources to others.
    pub fn fill_source_flows(&mut self) {
        let mut map: Array<_, SourceBucket> = array(&mut self.ebpf, names::MAP_SOURCE_FLOWS);
        for index in 0..map.len() {
            let words = std::array::from_fn(|at| (at as u64 + 1) << 32 | 1);
            map.set(index, SourceBucket { words }, 0).unwrap();
        }
    }

    /// Flows of all sources.
    pub fn all_source_flows(&mut self) -> u32 {
        let map: Array<_, SourceBucket> = array(&mut self.ebpf, names::MAP_SOURCE_FLOWS);
        let words = map.iter().flat_map(|bucket| bucket.unwrap().words);
        words.map(source_flows::flows).sum()
    }

    pub fn slot(&mut self, index: u32) -> FlowSlot {
        array(&mut self.ebpf, names::MAP_FLOW_SLOTS)
            .get(&index, 0)
            .unwrap()
    }

    pub fn set_slot(&mut self, index: u32, slot: FlowSlot) {
        array(&mut self.ebpf, names::MAP_FLOW_SLOTS)
            .set(index, slot, 0)
            .unwrap();
    }

    pub fn flow(&self, key: &FlowKey) -> Option<FlowRef> {
        let flows: HashMap<_, FlowKey, FlowRef> =
            self.ebpf.map(names::MAP_FLOWS).unwrap().try_into().unwrap();
        flows.get(key, 0).ok()
    }

    pub fn set_flow(&mut self, key: &FlowKey, value: FlowRef) {
        let mut flows: HashMap<_, FlowKey, FlowRef> = self
            .ebpf
            .map_mut(names::MAP_FLOWS)
            .unwrap()
            .try_into()
            .unwrap();
        flows.insert(key, value, 0).unwrap();
    }

    /// Keys in the flow map.
    pub fn flow_keys(&self) -> usize {
        let flows: HashMap<_, FlowKey, FlowRef> =
            self.ebpf.map(names::MAP_FLOWS).unwrap().try_into().unwrap();
        flows.keys().count()
    }

    pub fn service_stats(&self) -> Stats {
        stats(&self.ebpf, names::MAP_SERVICE_STATS, SERVICE_ID)
    }

    pub fn backend_stats(&self, id: u32) -> Stats {
        stats(&self.ebpf, names::MAP_BACKEND_STATS, id)
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        count(&self.ebpf, names::MAP_DROPS, reason as u32)
    }

    /// Drops for any reason.
    pub fn all_drops(&self) -> u64 {
        DropReason::ALL
            .iter()
            .map(|&reason| self.drops(reason))
            .sum()
    }

    /// Packets that waited for the end of a hold.
    pub fn parked(&self) -> u64 {
        let map: PerCpuArray<_, u64> = self
            .ebpf
            .map(names::MAP_PARKED)
            .unwrap()
            .try_into()
            .unwrap();
        map.get(&0, 0).unwrap().iter().sum()
    }

    pub fn verdicts(&self, counter: VerdictCounter) -> u64 {
        count(&self.ebpf, names::MAP_VERDICTS, counter as u32)
    }
}
