// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The flow table: which flow a packet belongs to, how far its connection has
//! come, and how a new one gets its slot, its two keys and its translation.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
};

use gateway_common::{
    addr::Addr16,
    backend::{Backend, FORWARD_DSR, FORWARD_SNAT},
    drop_reason::DropReason,
    flow::{
        KIND_DNAT, KIND_DSR, KIND_SNAT, PROTOCOL_TCP, SLOT_ACTIVE, SLOT_CLAIMED, SLOT_CLOSING,
        SLOT_DEAD, SLOT_FREE, SLOT_HOLD, SLOT_OBSERVE,
    },
    limits::SNAT_PORT_TRIES,
    maglev,
    service::ServiceValue,
    settings::Settings,
    tcp_state::{
        FLAG_ACK, FLAG_FIN, FLAG_RST, FLAG_SYN, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT,
        TCP_RESET, TCP_RESET_UNCONFIRMED, TCP_SYN_RECEIVED, TCP_SYN_SENT,
    },
    udp_state::{UDP_ONE_WAY, UDP_TWO_WAY},
};

use super::{
    encap,
    handoff::Splicing,
    limits::Counts,
    parse::{Transport, Tuple},
    source::Prefix,
};

/// Index of a direction in [`Slot::dir`].
pub const TO_BACKEND: usize = 0;
pub const TO_CLIENT: usize = 1;

/// A slot of the table and the flow in it.
#[derive(Clone, Debug)]
pub struct Slot {
    /// `SLOT_*`.
    pub state: u32,
    pub generation: u32,
    /// `KIND_*`.
    pub kind: u32,
    /// `TCP_*` or `UDP_*`.
    pub progress: u32,
    pub service_id: u32,
    pub backend_id: u32,
    pub config_generation: u32,
    pub timeout_s: u32,
    /// Whether it counts as half-open, and the source whose it counts as.
    pub half_open: bool,
    pub source: Option<(u32, Prefix)>,
    /// What a handed-off connection has besides.
    pub splicing: Option<Splicing>,
    /// Nothing in a slot that no flow of ours was in.
    pub dir: Vec<Direction>,
}

impl Slot {
    /// One that no flow was in yet.
    pub fn unused(state: u32, generation: u32) -> Self {
        Self {
            state,
            generation,
            kind: 0,
            progress: 0,
            service_id: 0,
            backend_id: 0,
            config_generation: 0,
            timeout_s: 0,
            half_open: false,
            source: None,
            splicing: None,
            dir: Vec::new(),
        }
    }

    /// A flow whose connection has ended is about to go, and counts no more.
    fn close(&mut self, counts: &mut Counts) {
        let ended = [TCP_CLOSING, TCP_RESET].contains(&self.progress);
        if ended && self.state == SLOT_ACTIVE {
            self.state = SLOT_CLOSING;
        }
        counts.follow(self, ended);
    }
}

/// One direction of a flow.
#[derive(Clone, Debug)]
pub struct Direction {
    /// Its packets as they come in,
    pub key: Tuple,
    /// and as they go out.
    pub to: Tuple,
    /// FIN, SYN and RST, if seen.
    pub flags: u32,
    /// The number that follows what it sent last, 0 before.
    pub seq_end: u32,
    /// What its sender expects next, as it said last, 0 before;
    pub ack: u32,
    /// and whether it had said so before the connection was open.
    pub acknowledges: bool,
    pub packets: u64,
    pub bytes: u64,
}

/// What a key in the map says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    pub slot: u32,
    pub generation: u32,
    pub way: usize,
}

/// A live flow, and the direction of the packet at hand.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub slot: u32,
    pub way: usize,
}

/// The table.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub slots: HashMap<u32, Slot>,
    pub keys: HashMap<Tuple, Reference>,
    /// Indices of free slots, the next one first; the list may be wrong.
    pub free: VecDeque<u32>,
    pub counts: Counts,
}

impl Table {
    /// The slot that a key points to, if it is still of that flow.
    fn referenced(&self, tuple: &Tuple) -> Option<(&Reference, &Slot)> {
        let reference = self.keys.get(tuple)?;
        let slot = self.slots.get(&reference.slot)?;
        (slot.generation == reference.generation).then_some((reference, slot))
    }

    /// The flow of a packet, if it still rewrites, or is about to.
    pub fn live(&self, tuple: &Tuple) -> Option<Found> {
        let (reference, slot) = self.referenced(tuple)?;
        [SLOT_ACTIVE, SLOT_CLOSING, SLOT_OBSERVE, SLOT_HOLD]
            .contains(&slot.state)
            .then_some(Found {
                slot: reference.slot,
                way: reference.way,
            })
    }

    /// The flow in a slot.
    pub fn slot(&self, found: Found) -> &Slot {
        &self.slots[&found.slot]
    }

    /// Whether a packet opens a connection on the tuple of one that has ended,
    /// which gives the old one up.
    pub fn is_restart(&mut self, found: Found, transport: &Transport) -> bool {
        let slot = self.slots.get_mut(&found.slot).unwrap();
        let restarts = slot.state == SLOT_CLOSING
            && found.way == TO_BACKEND
            && transport.tuple.protocol == PROTOCOL_TCP
            && transport.opens();
        if restarts {
            slot.state = SLOT_DEAD;
        }
        restarts
    }

    /// Counts a packet and follows the connection.
    pub fn track(&mut self, found: Found, transport: &Transport, len: usize) -> &Slot {
        let slot = self.slots.get_mut(&found.slot).unwrap();
        let dir = &mut slot.dir[found.way];
        dir.packets += 1;
        dir.bytes += len as u64;
        if transport.tuple.protocol != PROTOCOL_TCP {
            if found.way == TO_CLIENT {
                slot.progress = UDP_TWO_WAY;
            }
            return slot;
        }
        if slot.kind == KIND_DSR {
            encap::track(slot, transport);
            slot.close(&mut self.counts);
            return slot;
        }
        let has = |flag: u32| transport.flags & flag != 0;
        if has(FLAG_RST) {
            dir.flags |= FLAG_RST;
        } else {
            dir.flags |= transport.flags & (FLAG_FIN | FLAG_SYN);
            if has(FLAG_SYN | FLAG_ACK) {
                let numbers = transport.payload_len as u32
                    + u32::from(has(FLAG_SYN))
                    + u32::from(has(FLAG_FIN));
                dir.seq_end = transport.seq.wrapping_add(numbers);
            }
            if has(FLAG_ACK) {
                dir.ack = transport.ack;
                dir.acknowledges |= slot.progress < TCP_ESTABLISHED || has(FLAG_SYN | FLAG_FIN);
            }
        }
        // Who knows the number is at one of the ends, or between them.
        let peer = &slot.dir[found.way ^ 1];
        let delta = slot.splicing.as_ref().map_or(0, |it| it.seq[found.way]);
        let is_taken = if peer.acknowledges {
            transport.seq.wrapping_add(delta) == peer.ack
        } else {
            slot.progress == TCP_SYN_SENT && has(FLAG_ACK) && transport.ack == peer.seq_end
        };
        let closed = [found.way, found.way ^ 1].map(|way| slot.dir[way].flags & FLAG_FIN != 0);
        slot.progress = tcp(slot.progress, transport.flags, found.way, closed, is_taken);
        slot.close(&mut self.counts);
        slot
    }

    /// Takes a slot off the free list; one entry that is wrong is skipped.
    pub fn claim(&mut self) -> Option<u32> {
        for _ in 0..2 {
            let index = self.free.pop_front()?;
            // Outside the array: the list is not to be trusted any further.
            let slot = self.slots.get_mut(&index)?;
            if slot.state == SLOT_FREE {
                slot.state = SLOT_CLAIMED;
                slot.generation = slot.generation.wrapping_add(1);
                return Some(index);
            }
        }
        None
    }

    /// Makes the flow of a first packet in a claimed slot, or gives that back.
    pub fn create(
        &mut self,
        index: u32,
        transport: &Transport,
        service: &ServiceValue,
        (backend_id, backend): (u32, &Backend),
        settings: &Settings,
    ) -> Result<Found, DropReason> {
        let original = transport.tuple;
        match self.translation(index, &original, backend, settings) {
            Err(reason) => {
                self.slots.get_mut(&index).unwrap().state = SLOT_FREE;
                self.free.push_back(index);
                Err(reason)
            }
            Ok((kind, to, reply)) => {
                let direction = |key: Tuple, to: Tuple| Direction {
                    key,
                    to,
                    flags: 0,
                    seq_end: 0,
                    ack: 0,
                    acknowledges: false,
                    packets: 0,
                    bytes: 0,
                };
                let slot = self.slots.get_mut(&index).unwrap();
                *slot = Slot {
                    state: SLOT_ACTIVE,
                    generation: slot.generation,
                    kind,
                    progress: if original.protocol == PROTOCOL_TCP {
                        TCP_SYN_SENT
                    } else {
                        UDP_ONE_WAY
                    },
                    service_id: service.service_id,
                    backend_id,
                    config_generation: service.config_generation,
                    timeout_s: service.established_timeout_s,
                    half_open: false,
                    source: None,
                    splicing: None,
                    dir: vec![
                        direction(original, to),
                        direction(reply, original.reversed()),
                    ],
                };
                Ok(Found {
                    slot: index,
                    way: TO_BACKEND,
                })
            }
        }
    }

    /// Inserts both keys of a flow, or none: what kind it is, how its packets go out,
    /// and its reply.
    fn translation(
        &mut self,
        index: u32,
        original: &Tuple,
        backend: &Backend,
        settings: &Settings,
    ) -> Result<(u32, Tuple, Tuple), DropReason> {
        let must_snat = backend.forwarding == FORWARD_SNAT;
        let port = match u16::from_be(backend.port_be) {
            // Whichever the client used.
            0 => original.dst.port(),
            port => port,
        };
        let dst = SocketAddr::new(backend.addr.into(), port);
        // A backend takes no packet that says to come from itself.
        if backend.forwarding == FORWARD_DSR && dst.ip() != original.src.ip() {
            return self.direct(index, original, backend);
        }
        let mut reply = Tuple {
            protocol: original.protocol,
            src: dst,
            dst: original.src,
        };
        let mut kind = KIND_DNAT;
        // A backend that calls itself would answer past this node, and a reply
        // that looks like another flow's would be given to that one.
        if must_snat || dst.ip() == original.src.ip() || self.is_taken(&reply) {
            kind = KIND_SNAT;
            if backend.snat_addr == Addr16::ANY {
                return Err(if must_snat {
                    DropReason::BadMapEntry
                } else {
                    DropReason::ReplyTupleTaken
                });
            }
            let src = IpAddr::from(backend.snat_addr);
            let ports = self.ports(original, settings);
            let tuples = ports.map(|port| Tuple {
                dst: SocketAddr::new(src, port),
                ..reply
            });
            let (mut free, mut ended) = (None, None);
            for tuple in tuples {
                if !self.is_taken(&tuple) {
                    free = Some(tuple);
                    break;
                }
                if self.is_ended(&tuple) {
                    ended = Some(tuple);
                }
            }
            reply = free.or(ended).ok_or(DropReason::SnatPortsExhausted)?;
            // One that has ended makes room.
            if free.is_none() {
                let slot = self.keys[&reply].slot;
                self.slots.get_mut(&slot).unwrap().state = SLOT_DEAD;
            }
        }
        // The two would be one key.
        if self.is_taken(original) || *original == reply {
            self.keys.remove(&reply);
            return Err(DropReason::ReplyTupleTaken);
        }
        let generation = self.slots[&index].generation;
        for (tuple, way) in [(reply, TO_CLIENT), (*original, TO_BACKEND)] {
            let reference = Reference {
                slot: index,
                generation,
                way,
            };
            self.keys.insert(tuple, reference);
        }
        Ok((kind, reply.reversed(), reply))
    }

    /// Source ports that are tried for a flow, in order: few of them one after
    /// the other, of many some at random.
    fn ports(&self, original: &Tuple, settings: &Settings) -> impl Iterator<Item = u16> + use<> {
        let first = settings.snat_port_min;
        let range = settings.snat_port_max - first + 1;
        let hash = maglev::hash(&original.key(), settings.hash_seed);
        let start = maglev::scale(hash, range);
        std::iter::successors(Some(hash), |&hash| Some(maglev::rehash(hash)))
            .zip(0..SNAT_PORT_TRIES)
            .map(move |(hash, round)| {
                let place = if range <= SNAT_PORT_TRIES {
                    (start + round) % range
                } else {
                    maglev::scale(hash, range)
                };
                (first + place) as u16
            })
    }

    /// Whether the flow that has this key has ended.
    fn is_ended(&self, tuple: &Tuple) -> bool {
        self.referenced(tuple)
            .is_some_and(|(_, slot)| slot.state == SLOT_CLOSING)
    }

    /// Whether a flow has this key. Keys of dead flows and of former ones are
    /// left behind, and may be taken over.
    pub fn is_taken(&self, tuple: &Tuple) -> bool {
        self.referenced(tuple)
            .is_some_and(|(_, slot)| ![SLOT_DEAD, SLOT_FREE].contains(&slot.state))
    }
}

/// How far a TCP connection has come with a segment, as seen in the middle
/// (RFC 6146 section 3.5.2, RFC 7857 section 2); `closed` says whether this side
/// and the other one have sent a FIN, `is_taken` whether a RST is believed.
fn tcp(progress: u32, flags: u32, way: usize, closed: [bool; 2], is_taken: bool) -> u32 {
    let has = |flag: u32| flags & flag != 0;
    let is_opening = [TCP_SYN_SENT, TCP_SYN_RECEIVED].contains(&progress);
    match progress {
        TCP_CLOSING | TCP_RESET => progress,
        _ if has(FLAG_RST) && is_taken => TCP_RESET,
        _ if has(FLAG_RST) && is_opening => progress,
        _ if has(FLAG_RST) => TCP_RESET_UNCONFIRMED,
        TCP_SYN_SENT if way == TO_CLIENT && has(FLAG_SYN) => TCP_SYN_RECEIVED,
        TCP_SYN_SENT => progress,
        _ if has(FLAG_FIN) && closed[1] => TCP_CLOSING,
        _ if has(FLAG_FIN) => TCP_FIN_WAIT,
        TCP_SYN_RECEIVED if way == TO_CLIENT || !has(FLAG_ACK) => progress,
        TCP_RESET_UNCONFIRMED if has(FLAG_SYN) => progress,
        _ if closed.contains(&true) => TCP_FIN_WAIT,
        _ => TCP_ESTABLISHED,
    }
}
