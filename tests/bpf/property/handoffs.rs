// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Handed-off connections, and such as are about to be, in random map states:
//! the agent puts them into the table, which no packet does.

use std::net::SocketAddr;

use fastrand::Rng;
use gateway_common::{
    flow::{
        FlowSlot, KIND_HANDOFF, PROTOCOL_TCP, SEEN_TIMESTAMP, SLOT_ACTIVE, SLOT_CLOSING, SLOT_FREE,
        SLOT_HOLD, SLOT_OBSERVE,
    },
    source_flows::NO_PLACE,
    tcp_splice::{KEEP_SACK, KEEP_TIMESTAMPS},
    tcp_state::{
        FLAG_ACK, FLAG_FIN, FLAG_RST, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT, TCP_RESET,
        TCP_RESET_UNCONFIRMED,
    },
};

use super::{
    traffic::{chance, client},
    world::{ENDPOINTS, PORTS, SOURCES, VIPS, World, address},
};
use crate::{
    handoff::direction,
    lab::Lab,
    model::{
        flow::{Direction, Reference, Slot, TO_BACKEND, TO_CLIENT},
        handoff::Splicing,
        parse::Tuple,
    },
};

impl World {
    /// Some connections of the agent, each in a slot that is free otherwise.
    pub fn add_handoffs(&mut self, random: &mut Rng) {
        for _ in 0..random.usize(1..=4) {
            let family = random.usize(..2);
            let client = client(random, family);
            let mut at = |list: &[&str], port: u16| {
                SocketAddr::new(address(random.choice(list).unwrap()), port)
            };
            let vip = at(&VIPS[family], 443);
            let backend = at(&ENDPOINTS[family], 11_883);
            let mut ours = at(&[SOURCES[family]], 63_000);
            let vip = SocketAddr::new(vip.ip(), *random.choice(&PORTS).unwrap());
            if chance(random, 4) {
                // Where new flows look for a port.
                ours.set_port(self.settings.snat_port_min as u16);
            } else {
                ours.set_port(63_000 + random.u16(..3));
            }
            let tuple = |src, dst| Tuple {
                protocol: PROTOCOL_TCP,
                src,
                dst,
            };
            let keys = [tuple(client, vip), tuple(backend, ours)];
            let is_taken = |key: &Tuple| self.keys.iter().any(|(other, _)| other == key);
            if keys[0] == keys[1] || keys.iter().any(is_taken) {
                continue;
            }
            let mut free: Vec<_> = self
                .slots
                .iter_mut()
                .filter(|it| it.1 == SLOT_FREE)
                .collect();
            let Some((index, state, generation)) = random.choice(free.iter_mut()) else {
                return;
            };
            let slot = random_slot(random, *generation, keys);
            *state = slot.state;
            for (key, way) in keys.into_iter().zip([TO_BACKEND, TO_CLIENT]) {
                let reference = Reference {
                    slot: *index,
                    generation: *generation,
                    way,
                };
                self.keys.push((key, reference));
            }
            let index = *index;
            self.handoffs.insert(index, slot);
            if !chance(random, 10) {
                self.free.retain(|free| *free != index);
            }
        }
    }

    /// Writes their slots; state and generation are there already.
    pub fn install_handoffs(&self, lab: &mut Lab) {
        for (&index, slot) in &self.handoffs {
            lab.set_slot(index, kernel_slot(slot));
        }
    }
}

fn random_slot(random: &mut Rng, generation: u32, keys: [Tuple; 2]) -> Slot {
    let (state, progress) = match random.u32(..10) {
        0 | 1 => (SLOT_OBSERVE, TCP_ESTABLISHED),
        2 => (SLOT_HOLD, TCP_ESTABLISHED),
        3 => (SLOT_CLOSING, TCP_CLOSING),
        4 => (SLOT_CLOSING, TCP_RESET),
        5 => (SLOT_ACTIVE, TCP_FIN_WAIT),
        6 => (SLOT_ACTIVE, TCP_RESET_UNCONFIRMED),
        _ => (SLOT_ACTIVE, TCP_ESTABLISHED),
    };
    let one = random.usize(..2);
    let flags = [TO_BACKEND, TO_CLIENT].map(|way| match progress {
        TCP_CLOSING => FLAG_FIN,
        TCP_FIN_WAIT if way == one => FLAG_FIN,
        TCP_RESET | TCP_RESET_UNCONFIRMED if way == one => FLAG_RST,
        _ => 0,
    });
    let of_sockets = [SLOT_OBSERVE, SLOT_HOLD].contains(&state);
    // Few, so that some resets have the number that is expected.
    let mut delta = || match random.u32(..4) {
        0 => random.u32(..),
        1 => u32::MAX - random.u32(..3),
        _ => random.u32(..3),
    };
    let (seq, timestamp) = ([delta(), delta()], [delta(), delta()]);
    let splicing = Splicing {
        seq,
        timestamp,
        window_shift: [(); 2].map(|()| random.i32(-14..=14)),
        timestamps: random.bool(),
        sack: random.bool(),
        is_over: random.bool(),
        seen: [(); 2].map(|()| random.bool().then(|| random.u32(..))),
    };
    let timeout_s = random.u32(..);
    let mut dir = |way: usize| {
        let acknowledges = !of_sockets || random.bool();
        let mut number = || if acknowledges { random.u32(..4) } else { 0 };
        Direction {
            key: keys[way],
            to: keys[way ^ 1].reversed(),
            flags: flags[way],
            seq_end: number(),
            ack: number(),
            acknowledges,
            packets: 0,
            bytes: 0,
        }
    };
    Slot {
        kind: KIND_HANDOFF,
        progress,
        timeout_s,
        splicing: Some(splicing),
        dir: vec![dir(TO_BACKEND), dir(TO_CLIENT)],
        ..Slot::unused(state, generation)
    }
}

/// As the agent would have written it.
fn kernel_slot(slot: &Slot) -> FlowSlot {
    let splicing = slot.splicing.as_ref().unwrap();
    let keep = if splicing.timestamps {
        KEEP_TIMESTAMPS
    } else {
        0
    } | if splicing.sack { KEEP_SACK } else { 0 };
    let dir = [TO_BACKEND, TO_CLIENT].map(|way| {
        let of = &slot.dir[way];
        let shift = splicing.window_shift[way];
        let mut dir = direction(of.key.key(), of.to.src, of.to.dst, shift, keep);
        dir.tcp_flags_seen = of.flags;
        if of.acknowledges {
            dir.tcp_flags_seen |= FLAG_ACK;
        }
        if let Some(seen) = splicing.seen[way] {
            dir.tcp_flags_seen |= SEEN_TIMESTAMP;
            dir.ts_seen = seen;
        }
        (dir.seq_end, dir.ack) = (of.seq_end, of.ack);
        dir.ts_delta = splicing.timestamp[way];
        dir
    });
    FlowSlot {
        state: slot.state,
        generation: slot.generation,
        kind: slot.kind,
        tcp_state: slot.progress,
        service_id: slot.service_id,
        backend_id: slot.backend_id,
        config_generation: slot.config_generation,
        established_timeout_s: slot.timeout_s,
        created_ns: 1,
        source_place: NO_PLACE,
        half_open: 0,
        seq_delta: splicing.seq,
        hold_until_ns: if splicing.is_over { 0 } else { u64::MAX },
        dir,
    }
}

/// Compares what the programs have noted down of one.
pub fn compare(what: &str, expected: &Slot, actual: &FlowSlot) -> Result<(), String> {
    let Some(splicing) = &expected.splicing else {
        return Ok(());
    };
    for way in [TO_BACKEND, TO_CLIENT] {
        let dir = &actual.dir[way];
        let expected = (expected.dir[way].acknowledges, splicing.seen[way]);
        let seen = dir.tcp_flags_seen & SEEN_TIMESTAMP != 0;
        let actual = (
            dir.tcp_flags_seen & FLAG_ACK != 0,
            seen.then_some(dir.ts_seen),
        );
        if expected != actual {
            return Err(format!(
                "{what}, direction {way}: acknowledged, timestamp:\n\
                 expected {expected:?}\n  actual {actual:?}"
            ));
        }
    }
    Ok(())
}

/// TCP options: as stacks send them, in any order, or not to be read.
pub fn options(random: &mut Rng) -> Vec<u8> {
    let mut options = Vec::new();
    if random.bool() {
        options.extend([1, 1, 8, 10]);
        options.extend([random.u32(..).to_be_bytes(), random.u32(..).to_be_bytes()].concat());
    }
    while !chance(random, 3) {
        let (kind, len) = match random.u32(..8) {
            0..3 => {
                options.push(1);
                continue;
            }
            3 => (8, 10),
            4 => (5, 2 + 8 * random.usize(1..=4)),
            5 => (2, 4),
            6 => (random.u8(..40), random.usize(2..12)),
            _ if random.bool() => {
                options.push(0);
                continue;
            }
            // A length that leads nowhere.
            _ => {
                options.extend([random.u8(2..40), *random.choice(&[0, 1, 41, 255]).unwrap()]);
                continue;
            }
        };
        options.extend([kind, len as u8]);
        options.extend((2..len).map(|_| random.u8(..)));
    }
    options.truncate(40);
    while !options.len().is_multiple_of(4) {
        options.push(random.u8(..2));
    }
    options
}
