// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Random map states: what an agent may have written, what earlier flows may
//! have left behind, and what nobody should have written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use fastrand::Rng;
use gateway_common::{
    addr::Addr16,
    backend::{Backend, FORWARD_DNAT, FORWARD_DSR, FORWARD_SNAT},
    flow::{PROTOCOL_TCP, PROTOCOL_UDP, SLOT_ACTIVE, SLOT_CLAIMED, SLOT_DEAD, SLOT_FREE},
    guard::{Guard, NodeLimits},
    limit::{MAX_BURST, SourceMask},
    names,
    service::{
        HASH_FIVE_TUPLE, HASH_SOURCE_ADDRESS, RING_CHUNK_IDS, RingChunk, ServiceKey, ServiceValue,
    },
    settings::Settings,
    source::NO_SOURCE_LIST,
};

use super::traffic::chance;
use crate::{
    maps::capacity,
    model::{flow, fragment, limits, parse::Tuple, source::Prefix},
};

/// Service addresses of each family, the node's own among them.
pub const VIPS: [[&str; 3]; 2] = [
    ["198.51.100.1", "198.51.100.2", "192.0.2.1"],
    ["fd97::1", "fd97::2", "2001:db8::1"],
];
/// Service ports.
pub const PORTS: [u16; 3] = [1_883, 53, 443];
/// Backends of each family: neighbours (more than once, as most are), a stranger,
/// the node itself, behind smaller MTUs, beside clients, nowhere, and forbidden.
pub const ENDPOINTS: [[&str; 24]; 2] = [
    [
        "10.1.0.11",
        "10.1.0.12",
        "10.1.0.13",
        "10.1.0.11",
        "10.1.0.12",
        "10.1.0.13",
        "10.2.0.21",
        "192.0.2.2",
        "10.1.0.11",
        "10.1.0.12",
        "10.1.0.13",
        "10.1.0.11",
        "10.1.0.12",
        "10.1.0.13",
        "10.1.0.50",
        "10.1.0.1",
        "10.2.0.21",
        "10.3.0.5",
        "192.0.2.2",
        "203.0.113.9",
        "10.8.0.1",
        "10.9.1.1",
        "10.9.2.1",
        "10.9.3.1",
    ],
    [
        "fd01::b",
        "fd01::c",
        "fd01::d",
        "fd01::b",
        "fd01::c",
        "fd01::d",
        "fd02::15",
        "2001:db8::2",
        "fd01::b",
        "fd01::c",
        "fd01::d",
        "fd01::b",
        "fd01::c",
        "fd01::d",
        "fd01::50",
        "fd01::1",
        "fd02::15",
        "fd03::5",
        "2001:db8::2",
        "2001:db8:9::9",
        "fd08::1",
        "fd09:1::1",
        "fd09:2::1",
        "fd09:3::1",
    ],
];
/// The gateway's own address towards them.
pub const SOURCES: [&str; 2] = ["10.1.0.1", "fd01::1"];
/// Slots of the table that are used.
pub const SLOTS: u32 = 24;

/// Source lists with prefixes.
const LISTS: u32 = 3;

/// Prefixes around the clients, of each family.
fn random_sources(random: &mut Rng) -> BTreeMap<(u32, Prefix), bool> {
    let mut sources = BTreeMap::new();
    for _ in 0..random.usize(..12) {
        let (list, family) = (random.u32(1..=LISTS), random.usize(..2));
        let client = super::traffic::client(random, family).ip();
        let bits = match client {
            IpAddr::V4(_) => random.u32(96..=128),
            IpAddr::V6(_) if chance(random, 4) => random.u32(..=128),
            IpAddr::V6(_) => random.u32(100..=128),
        };
        sources.insert((list, Prefix::of(client, bits)), random.bool());
    }
    sources
}

/// Limits of the node.
fn random_limits(random: &mut Rng) -> NodeLimits {
    NodeLimits {
        source_key: [random.u64(..), random.u64(..)],
        source_mask: SourceMask::new(
            *random.choice(&[0, 24, 31, 32]).unwrap(),
            *random.choice(&[0, 64, 127, 128]).unwrap(),
        ),
        source_buckets: capacity(names::MAP_SOURCE_FLOWS),
        max_half_open: if chance(random, 4) {
            random.u32(1..20)
        } else {
            0
        },
        new_flow_rate: 0,
        new_flow_burst: 0,
        _pad: 0,
    }
}

/// Limits of a service, mostly none. Rates depend on time, but for those that are
/// used up or far from it; challenges on a secret of the kernel: `syn_cookies` has
/// them.
fn random_guard(random: &mut Rng) -> Guard {
    let mut limit = |odds: u32, most: u32| {
        if chance(random, odds) {
            random.u32(1..most)
        } else {
            0
        }
    };
    let mut guard = Guard {
        source_flows: limit(5, 5),
        half_open: limit(5, 8),
        ..Guard::NONE
    };
    if chance(random, 5) {
        (guard.source_rate, guard.source_burst) = (1, MAX_BURST);
    }
    guard.is_on = u32::from(guard != Guard::NONE);
    guard
}

/// A map state.
#[derive(Clone, Debug)]
pub struct World {
    pub settings: Settings,
    /// Whether the slow interface sends what XDP redirects to it.
    pub slow_sends: bool,
    pub services: Vec<(ServiceKey, ServiceValue)>,
    pub rings: BTreeMap<u32, RingChunk>,
    pub backends: BTreeMap<u32, Backend>,
    pub port_ranges: BTreeMap<(Addr16, u8), Vec<(u16, u16)>>,
    /// Sources that have no token left, by service.
    pub spent: BTreeSet<(u32, Prefix)>,
    /// Source lists: by id and prefix, whether it is allowed.
    pub sources: BTreeMap<(u32, Prefix), bool>,
    /// Slots with state and generation.
    pub slots: Vec<(u32, u32, u32)>,
    pub free: Vec<u32>,
    /// Connections of the agent that are handed off, or about to be, by slot.
    pub handoffs: BTreeMap<u32, flow::Slot>,
    pub keys: Vec<(Tuple, flow::Reference)>,
    pub fragments: Vec<(fragment::Packet, fragment::First)>,
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}, slow sends: {}", self.settings, self.slow_sends)?;
        for (key, value) in &self.services {
            let at = SocketAddr::new(key.addr.into(), u16::from_be(key.port_be));
            let last = u16::from_be(key.last_port_be);
            writeln!(
                f,
                "service {at} to {last} of protocol {}: {value:?}",
                key.proto
            )?;
        }
        writeln!(f, "ranges of ports: {:?}", self.port_ranges)?;
        writeln!(f, "sources: {:?}, spent: {:?}", self.sources, self.spent)?;
        for (index, chunk) in &self.rings {
            writeln!(f, "ring chunk {index}: {:?}", chunk.backend_ids)?;
        }
        for (id, it) in &self.backends {
            let [addr, source] = [it.addr, it.snat_addr].map(IpAddr::from);
            let port = u16::from_be(it.port_be);
            let at = SocketAddr::new(addr, port);
            writeln!(
                f,
                "backend {id}: {at}, forwarding {}, from {source}",
                it.forwarding
            )?;
        }
        writeln!(f, "free slots: {:?}", self.free)?;
        let used = self
            .slots
            .iter()
            .filter(|(_, state, _)| *state != SLOT_FREE);
        for (index, state, generation) in used {
            writeln!(f, "slot {index}: state {state}, generation {generation}")?;
        }
        for (index, slot) in &self.handoffs {
            writeln!(f, "handoff in slot {index}: {slot:?}")?;
        }
        for (tuple, reference) in &self.keys {
            writeln!(f, "left behind: {tuple:?} to {reference:?}")?;
        }
        for (packet, first) in &self.fragments {
            writeln!(f, "left behind: {packet:?}, {first:?}")?;
        }
        Ok(())
    }
}

/// An address of a list.
pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl World {
    pub fn random(random: &mut Rng) -> Self {
        let first = random.u32(1_024..=65_535);
        let range = *random.choice(&[1, 3, 16, 300]).unwrap();
        let mut world = Self {
            settings: Settings {
                hash_seed: random.u32(..),
                flow_slots: capacity(names::MAP_FLOW_SLOTS),
                snat_port_min: first,
                snat_port_max: (first + range - 1).min(65_535),
                config_generation: random.u32(..9),
                client_mark: random.u32(..2),
                handoff_port_max: random.u32(..65_536),
                limits: random_limits(random),
                ..Settings::NONE
            },
            slow_sends: random.bool(),
            services: Vec::new(),
            rings: BTreeMap::new(),
            backends: BTreeMap::new(),
            port_ranges: BTreeMap::new(),
            spent: BTreeSet::new(),
            sources: random_sources(random),
            slots: Vec::new(),
            free: Vec::new(),
            handoffs: BTreeMap::new(),
            keys: Vec::new(),
            fragments: Vec::new(),
        };
        let ids = [world.add_backends(random, 0), world.add_backends(random, 1)];
        for _ in 0..random.usize(1..=6) {
            world.add_service(random, &ids);
        }
        world.add_ranges(random);
        world.add_slots(random);
        if random.bool() {
            world.add_handoffs(random);
        }
        if chance(random, 3) {
            world.add_leftovers(random);
        }
        world
    }

    /// Some backends of a family; their ids.
    fn add_backends(&mut self, random: &mut Rng, family: usize) -> Vec<u32> {
        let mut ids = Vec::new();
        for _ in 0..random.usize(1..=4) {
            let id = random.u32(1..capacity(names::MAP_BACKENDS));
            let family = if chance(random, 100) {
                1 - family
            } else {
                family
            };
            let address = |text: &str| Addr16::from(address(text));
            let source = address(SOURCES[family]);
            let (forwarding, snat_addr) = match random.u32(..20) {
                0 if random.bool() => (0, source),
                1 if random.bool() => (FORWARD_SNAT, Addr16::ANY),
                2 if chance(random, 4) => (FORWARD_SNAT, address(SOURCES[1 - family])),
                3 if random.bool() => (FORWARD_DSR, Addr16::ANY),
                ..7 => (FORWARD_SNAT, source),
                7..12 => (FORWARD_DSR, source),
                12..16 => (FORWARD_DNAT, source),
                _ => (FORWARD_DNAT, Addr16::ANY),
            };
            let endpoints = ENDPOINTS[family];
            // Two ids of one endpoint happen: their reply tuples clash.
            let backend = Backend {
                addr: address(endpoints[random.usize(..endpoints.len())]),
                snat_addr,
                port_be: random.choice(&[11_883_u16, 53, 40_000, 0]).unwrap().to_be(),
                _pad: 0,
                forwarding,
            };
            self.backends.insert(id, backend);
            ids.push(id);
        }
        ids
    }

    fn add_service(&mut self, random: &mut Rng, ids: &[Vec<u32>; 2]) {
        let family = random.usize(..2);
        let key = ServiceKey {
            addr: address(random.choice(&VIPS[family]).unwrap()).into(),
            port_be: random.choice(&PORTS).unwrap().to_be(),
            last_port_be: 0,
            proto: *random.choice(&[PROTOCOL_TCP, PROTOCOL_UDP]).unwrap(),
            _pad: [0; 3],
        };
        let first = u16::from_be(key.port_be);
        let more = if chance(random, 4) {
            random.u16(..900)
        } else {
            0
        };
        let key = ServiceKey {
            last_port_be: (first + more).to_be(),
            ..key
        };
        if self.services.iter().any(|(other, _)| *other == key) {
            return;
        }
        let ring_size = *random.choice(&[1, 2, 3, 7, 16, 17, 40]).unwrap();
        let mut ring_chunk = self.rings.keys().last().map_or(0, |last| last + 1);
        if chance(random, 20) {
            let capacity = capacity(names::MAP_RINGS);
            ring_chunk = *random.choice(&[capacity - 1, capacity, u32::MAX]).unwrap();
        }
        for start in (0..ring_size).step_by(RING_CHUNK_IDS as usize) {
            let mut chunk = RingChunk {
                backend_ids: [0; RING_CHUNK_IDS as usize],
            };
            for id in &mut chunk.backend_ids {
                *id = match random.u32(..150) {
                    0 => 0,
                    1 => *random
                        .choice(&[capacity(names::MAP_BACKENDS), u32::MAX])
                        .unwrap(),
                    2 => *random.choice(&ids[1 - family]).unwrap(),
                    _ => *random.choice(&ids[family]).unwrap(),
                };
            }
            let index = ring_chunk.wrapping_add(start / RING_CHUNK_IDS);
            if index < capacity(names::MAP_RINGS) {
                self.rings.entry(index).or_insert(chunk);
            }
        }
        let value = ServiceValue {
            service_id: random.u32(..capacity(names::MAP_SERVICE_STATS)),
            ring_chunk,
            ring_size: if chance(random, 20) { 0 } else { ring_size },
            hash_policy: *random
                .choice(&[HASH_FIVE_TUPLE, HASH_SOURCE_ADDRESS])
                .unwrap(),
            config_generation: random.u32(..),
            established_timeout_s: random.u32(..),
            // The last one has no prefix.
            source_list: if chance(random, 4) {
                random.u32(1..=LISTS + 1)
            } else {
                NO_SOURCE_LIST
            },
            guard: random_guard(random),
        };
        if value.guard.source_rate != 0 {
            for _ in 0..4 {
                let client = super::traffic::client(random, family).ip();
                let source = limits::network(&self.settings, client);
                self.spent.insert((value.service_id, source));
            }
        }
        self.services.push((key, value));
    }

    /// The index of ranges: what the services say, in order and apart, with one
    /// more that leads nowhere; or what nobody reads.
    fn add_ranges(&mut self, random: &mut Rng) {
        for (key, _) in &self.services {
            let first = u16::from_be(key.port_be);
            let last = u16::from_be(key.last_port_be);
            let ranges = self.port_ranges.entry((key.addr, key.proto)).or_default();
            let apart = ranges.iter().all(|it| it.1 < first || last < it.0);
            if first < last && apart {
                ranges.push((first, last));
            }
        }
        for ranges in self.port_ranges.values_mut() {
            if chance(random, 4) {
                ranges.push((30_000, 30_005));
            }
            ranges.sort_unstable();
        }
        self.port_ranges.retain(|_, ranges| !ranges.is_empty());
        let in_use = !self.port_ranges.is_empty() && !chance(random, 10);
        self.settings.port_ranges = u32::from(in_use);
    }

    fn add_slots(&mut self, random: &mut Rng) {
        for index in 0..SLOTS {
            let state = match random.u32(..40) {
                0 => SLOT_ACTIVE,
                1 => SLOT_CLAIMED,
                2 => SLOT_DEAD,
                3 => 77,
                _ => SLOT_FREE,
            };
            let generation = if chance(random, 10) {
                u32::MAX
            } else {
                random.u32(..9)
            };
            self.slots.push((index, state, generation));
            self.free.push(index);
        }
        random.shuffle(&mut self.free);
        if chance(random, 4) {
            self.free.truncate(random.usize(..5));
        }
        if chance(random, 10) {
            // Listed twice, and outside the array.
            self.free.insert(0, random.u32(..SLOTS));
            self.free.push(capacity(names::MAP_FLOW_SLOTS));
        }
    }

    /// Keys of flows that are gone, and fragments nobody waits for.
    fn add_leftovers(&mut self, random: &mut Rng) {
        for _ in 0..8 {
            let Some((key, _)) = random.choice(&self.services).copied() else {
                return;
            };
            let family = usize::from(!key.addr.is_v4());
            let client = super::traffic::client(random, family);
            let vip = SocketAddr::new(key.addr.into(), u16::from_be(key.port_be));
            let backend = random.choice(self.backends.values()).copied().unwrap();
            let endpoint = SocketAddr::new(backend.addr.into(), u16::from_be(backend.port_be));
            let mut tuple = Tuple {
                protocol: key.proto,
                src: client,
                dst: vip,
            };
            if random.bool() && backend.addr.is_v4() == client.is_ipv4() {
                (tuple.src, tuple.dst) = (endpoint, client);
            }
            let (slot, state, generation) = *random.choice(&self.slots).unwrap();
            let is_live = state == SLOT_ACTIVE || self.handoffs.contains_key(&slot);
            let reference = match random.u32(..3) {
                0 if !is_live => flow::Reference {
                    slot,
                    generation,
                    way: random.usize(..2),
                },
                1 => flow::Reference {
                    slot: 4_000_000_000,
                    generation,
                    way: 0,
                },
                _ => flow::Reference {
                    slot,
                    generation: generation ^ 0x8000_0000,
                    way: 0,
                },
            };
            if self.keys.iter().all(|(other, _)| *other != tuple) {
                self.keys.push((tuple, reference));
            }
            let packet = fragment::Packet {
                src: tuple.src.ip(),
                dst: tuple.dst.ip(),
                id: random.u32(..4),
                protocol: tuple.src.is_ipv4().then_some(tuple.protocol),
            };
            if self.fragments.iter().all(|(other, _)| *other != packet) {
                let first = fragment::First {
                    tuple,
                    is_old: random.bool(),
                };
                self.fragments.push((packet, first));
            }
        }
    }
}
