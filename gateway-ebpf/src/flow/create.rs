// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! A new flow: a slot, two keys, or nothing at all.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::bpf_ktime_get_coarse_ns,
};
use gateway_common::{
    addr::Addr16,
    backend::{Backend, FORWARD_DSR, FORWARD_SNAT},
    checksum::{diff_address, diff16, fold},
    counters::VerdictCounter,
    drop_reason::DropReason,
    flow::{
        DIR_TO_BACKEND, DIR_TO_CLIENT, FlowDirection, FlowKey, FlowRef, FlowSlot, KIND_DNAT,
        KIND_DSR, KIND_SNAT, PROTOCOL_TCP, SLOT_ACTIVE, SLOT_CLAIMED, SLOT_CLOSING, SLOT_DEAD,
        SLOT_FREE,
    },
    service::ServiceValue,
    settings::Settings,
    tcp_state::{TCP_ESTABLISHED, TCP_SYN_SENT},
    udp_state::UDP_ONE_WAY,
};

use super::{change_state, counted, load_state, ports::Ports, reference, referenced_slot};
use crate::{
    aligned::Aligned,
    atomic,
    maps::{BACKEND_STATS, FLOW_SLOTS, FLOWS, FREE_SLOTS, SERVICE_STATS, SETTINGS},
    packet::Packet,
    select, service,
    verdict::Verdict,
};

/// `-EEXIST` of a map update.
const EEXIST: i32 = -17;

/// A slot that this program has taken and nobody else uses.
struct Claim {
    index: u32,
    generation: u32,
    slot: *mut FlowSlot,
}

/// Why a key was not inserted.
enum Refusal {
    /// A live flow has it.
    Taken,
    /// The map has no room.
    Full,
}

/// Creates the flow of a first packet to `service` and activates it. The packet
/// of an `adopted` one is not the first of its connection, only the first here.
#[inline(always)]
pub fn create(packet: &Packet, service: &ServiceValue, adopted: bool) -> Result<(), Verdict> {
    let settings = SETTINGS
        .get(0)
        .ok_or(Verdict::Drop(DropReason::BadMapEntry))?;
    let (backend_id, backend) = select::backend(packet, service, settings.hash_seed)?;
    let is_own_client = backend.addr == packet.key.src;
    if adopted && (backend.forwarding == FORWARD_SNAT || is_own_client) {
        // Only the other node knows by which port.
        return Err(Verdict::Pass(VerdictCounter::NoFlow));
    }
    let claim = claim().ok_or(Verdict::Drop(DropReason::FlowTableFull))?;

    let is_direct = backend.forwarding == FORWARD_DSR && !is_own_client;
    let inserted = if is_direct {
        insert_direct(&packet.key, backend, &claim)
    } else {
        insert_keys(packet, backend, settings, &claim, adopted)
    };
    if let Err(reason) = inserted {
        claim.give_back();
        service::update(&BACKEND_STATS, backend_id, |stats| stats.refused += 1);
        return Err(Verdict::Drop(reason));
    }

    let is_half_open = packet.key.proto == PROTOCOL_TCP && !adopted;
    counted::begin(claim.slot, service.service_id, is_half_open);
    // SAFETY: the slot is claimed: no other program and not the agent uses it.
    unsafe {
        let slot = claim.slot;
        (*slot).tcp_state = if packet.key.proto != PROTOCOL_TCP {
            UDP_ONE_WAY
        } else if adopted {
            TCP_ESTABLISHED
        } else {
            TCP_SYN_SENT
        };
        (*slot).service_id = service.service_id;
        (*slot).backend_id = backend_id;
        (*slot).config_generation = service.config_generation;
        (*slot).established_timeout_s = service.established_timeout_s;
        (*slot).created_ns = bpf_ktime_get_coarse_ns();
        (*slot).seq_delta = [0; 2];
        (*slot).hold_until_ns = 0;
        // A full barrier: whoever sees the state sees all that is above.
        atomic::swap(&raw mut (*slot).state, SLOT_ACTIVE);
    }
    service::update(&SERVICE_STATS, service.service_id, |stats| stats.flows += 1);
    service::update(&BACKEND_STATS, backend_id, |stats| stats.flows += 1);
    Ok(())
}

/// Takes a slot off the free list. An index that is listed twice, or whose slot
/// is in use, is skipped once.
#[inline(always)]
fn claim() -> Option<Claim> {
    for _ in 0..2 {
        let index = FREE_SLOTS.pop().ok()??;
        let slot = FLOW_SLOTS.get_ptr_mut(index)?;
        if change_state(slot, SLOT_FREE, SLOT_CLAIMED) {
            // SAFETY: `slot` is an element of the slot array, and claimed.
            let generation = unsafe {
                (*slot).generation = (*slot).generation.wrapping_add(1);
                (*slot).generation
            };
            return Some(Claim {
                index,
                generation,
                slot,
            });
        }
    }
    None
}

impl Claim {
    #[inline(always)]
    fn give_back(&self) {
        if change_state(self.slot, SLOT_CLAIMED, SLOT_FREE) {
            // The list has a place for every slot; should it refuse, the agent
            // finds the slot when it rebuilds the list.
            let _ = FREE_SLOTS.push(self.index, 0);
        }
    }

    #[inline(always)]
    fn reference(&self, direction: u32) -> Aligned<FlowRef> {
        Aligned(FlowRef {
            slot: self.index,
            generation: self.generation,
            direction,
        })
    }
}

/// Chooses the translation, writes it to the slot and inserts both keys, the
/// reply's first: a flow whose replies would be somebody else's never starts.
#[inline(always)]
fn insert_keys(
    packet: &Packet,
    backend: &Backend,
    settings: &Settings,
    claim: &Claim,
    adopted: bool,
) -> Result<(), DropReason> {
    let original = &packet.key;
    let mut reply = Aligned(FlowKey {
        src: backend.addr,
        dst: original.src,
        src_port_be: if backend.port_be == 0 {
            original.dst_port_be
        } else {
            backend.port_be
        },
        dst_port_be: original.src_port_be,
        proto: original.proto,
        _pad: [0; 3],
    });
    let reply = &mut reply.0;
    let reply_ref = claim.reference(DIR_TO_CLIENT);

    // A backend that is its own client would answer itself past this node, and
    // takes no packet that says to come from it.
    let mut kind = if backend.forwarding == FORWARD_SNAT || backend.addr == original.src {
        KIND_SNAT
    } else {
        KIND_DNAT
    };
    if kind == KIND_DNAT {
        match insert(reply, &reply_ref.0) {
            Ok(()) => {}
            Err(Refusal::Full) => return Err(DropReason::FlowTableFull),
            // Another source port than before would be another connection.
            Err(Refusal::Taken) if adopted => return Err(DropReason::ReplyTupleTaken),
            // The client uses this port towards the same backend already, by
            // another address of ours.
            Err(Refusal::Taken) => kind = KIND_SNAT,
        }
    }
    if kind == KIND_SNAT {
        if backend.snat_addr == Addr16::ANY {
            return Err(if backend.forwarding == FORWARD_SNAT {
                DropReason::BadMapEntry
            } else {
                DropReason::ReplyTupleTaken
            });
        }
        reply.dst = backend.snat_addr;
        insert_with_free_port(reply, &reply_ref.0, original, settings)?;
    }

    // SAFETY: the slot is claimed: no other program and not the agent uses it.
    unsafe {
        (*claim.slot).kind = kind;
        let to_backend = &raw mut (*claim.slot).dir[DIR_TO_BACKEND as usize];
        (*to_backend).new_src = reply.dst;
        (*to_backend).new_dst = reply.src;
        (*to_backend).new_src_port_be = reply.dst_port_be;
        (*to_backend).new_dst_port_be = reply.src_port_be;
        complete(to_backend, original);
        let to_client = &raw mut (*claim.slot).dir[DIR_TO_CLIENT as usize];
        (*to_client).new_src = original.dst;
        (*to_client).new_dst = original.src;
        (*to_client).new_src_port_be = original.dst_port_be;
        (*to_client).new_dst_port_be = original.src_port_be;
        complete(to_client, reply);
    }

    insert(original, &claim.reference(DIR_TO_BACKEND).0).map_err(|refusal| {
        let _ = FLOWS.remove(&*reply);
        match refusal {
            Refusal::Full => DropReason::FlowTableFull,
            // The same SYN on another CPU; the client sends it again if need be.
            Refusal::Taken => DropReason::ReplyTupleTaken,
        }
    })
}

/// Writes the outer addresses to the slot and inserts the only key: no reply
/// comes by.
#[inline(always)]
fn insert_direct(original: &FlowKey, backend: &Backend, claim: &Claim) -> Result<(), DropReason> {
    if backend.snat_addr == Addr16::ANY {
        return Err(DropReason::BadMapEntry);
    }
    // SAFETY: the slot is claimed: no other program and not the agent uses it.
    unsafe {
        (*claim.slot).kind = KIND_DSR;
        let to_backend = &raw mut (*claim.slot).dir[DIR_TO_BACKEND as usize];
        (*to_backend).new_src = backend.snat_addr;
        (*to_backend).new_dst = backend.addr;
        (*to_backend).new_src_port_be = original.src_port_be;
        (*to_backend).new_dst_port_be = original.dst_port_be;
        complete(to_backend, original);
        // As the replies would be.
        let to_client = &raw mut (*claim.slot).dir[DIR_TO_CLIENT as usize];
        (*to_client).new_src = original.dst;
        (*to_client).new_dst = original.src;
        (*to_client).new_src_port_be = original.dst_port_be;
        (*to_client).new_dst_port_be = original.src_port_be;
        complete(to_client, original);
    }
    insert(original, &claim.reference(DIR_TO_BACKEND).0).map_err(|refusal| match refusal {
        Refusal::Full => DropReason::FlowTableFull,
        // The same packet on another CPU.
        Refusal::Taken => DropReason::ReplyTupleTaken,
    })
}

/// Sums up what its translation changes in packets found under `key`, and starts
/// its counters.
///
/// # Safety
///
/// `dir` is a direction of a claimed slot, its translation written.
#[inline(always)]
unsafe fn complete(dir: *mut FlowDirection, key: &FlowKey) {
    // SAFETY: by the caller's promise.
    unsafe {
        let addresses =
            diff_address(&key.src, &(*dir).new_src) + diff_address(&key.dst, &(*dir).new_dst);
        let ports = diff16(key.src_port_be, (*dir).new_src_port_be)
            + diff16(key.dst_port_be, (*dir).new_dst_port_be);
        (*dir).addresses_diff = fold(addresses);
        (*dir).ports_diff = fold(ports);
        (*dir).tcp_flags_seen = 0;
        (*dir).packets = 0;
        (*dir).bytes = 0;
        (*dir).last_seen_ns = 0;
        (*dir).seq_end = 0;
        (*dir).ack = 0;
        (*dir).ts_seen = 0;
        (*dir).ts_delta = 0;
        (*dir).window_shift = 0;
        (*dir).keep = 0;
        (*dir)._pad = [0; 2];
    }
}

/// Finds a source port that makes the reply's tuple unique, and inserts it.
/// When all that were looked at are taken, a flow that has ended makes room.
#[inline(always)]
fn insert_with_free_port(
    reply: &mut FlowKey,
    reply_ref: &FlowRef,
    original: &FlowKey,
    settings: &Settings,
) -> Result<(), DropReason> {
    let mut ports = Ports::new(reply, original, settings);
    if ports.find() {
        return insert(reply, reply_ref).map_err(|refusal| match refusal {
            Refusal::Full => DropReason::FlowTableFull,
            // By another CPU, just now.
            Refusal::Taken => DropReason::ReplyTupleTaken,
        });
    }
    reply.dst_port_be = ports.ended_be;
    if let Some(ended) = occupant(reply)
        && change_state(ended.slot, SLOT_CLOSING, SLOT_DEAD)
        && insert(reply, reply_ref).is_ok()
    {
        return Ok(());
    }
    Err(DropReason::SnatPortsExhausted)
}

/// The flow that has a key.
pub(super) struct Occupant {
    slot: *mut FlowSlot,
    /// Nothing is expected of it but late segments.
    pub(super) is_over: bool,
}

/// Which flow has `key`, unless it is dead and has only left it behind.
#[inline(always)]
pub(super) fn occupant(key: &FlowKey) -> Option<Occupant> {
    let slot = reference(key).and_then(|reference| referenced_slot(&reference))?;
    let state = load_state(slot);
    (state != SLOT_DEAD && state != SLOT_FREE).then_some(Occupant {
        slot,
        is_over: state == SLOT_CLOSING,
    })
}

/// Inserts a key, also over one that a dead flow has left behind.
#[inline(always)]
fn insert(key: &FlowKey, value: &FlowRef) -> Result<(), Refusal> {
    match FLOWS.insert(key, value, u64::from(BPF_NOEXIST)) {
        Ok(()) => Ok(()),
        Err(EEXIST) if occupant(key).is_none() => FLOWS
            .insert(key, value, u64::from(BPF_ANY))
            .map_err(|_| Refusal::Full),
        Err(EEXIST) => Err(Refusal::Taken),
        Err(_) => Err(Refusal::Full),
    }
}
