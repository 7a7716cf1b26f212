// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! The flow table: finding a packet's flow and following its state.
//!
//! A slot may be used by several CPUs at once (the two directions of a flow
//! rarely share one), so what both write is changed by atomic operations. The
//! identity of a flow, its keys and its translation are written only between
//! the claim of the slot and its activation.

pub mod counted;
mod create;
mod observe;
mod ports;

use core::{mem::offset_of, ptr};

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
pub use create::create;
use gateway_common::{
    flow::{
        DIR_TO_BACKEND, DIR_TO_CLIENT, FlowDirection, FlowKey, FlowRef, FlowSlot, SLOT_ACTIVE,
        SLOT_CLOSING, SLOT_DEAD, is_live,
    },
    tcp_state::{self, FLAG_ACK, FLAG_FIN, FLAG_RST, FLAG_SYN},
    udp_state::{UDP_ONE_WAY, UDP_TWO_WAY},
};
pub use observe::{Timestamp, count_parked};

use crate::{
    atomic,
    context::Context,
    maps::{BACKEND_STATS, FLOW_SLOTS, FLOWS, SERVICE_STATS},
    mask::masked,
    packet::{Packet, Tcp},
    service,
    word::load_u32,
};

/// A live flow, seen from one of its directions.
#[derive(Clone, Copy)]
pub struct Flow {
    /// An element of the slot array: valid while the program runs.
    slot: *mut FlowSlot,
    /// Where that is, and the packet's direction.
    reference: FlowRef,
}

/// The live flow of a packet.
#[inline(always)]
pub fn find(packet: &Packet) -> Option<Flow> {
    let mut reference = reference(&packet.key)?;
    reference.direction = masked::<1>(reference.direction as usize) as u32;
    let slot = referenced_slot(&reference)?;
    let state = load_state(slot);
    is_live(state).then_some(Flow { slot, reference })
}

/// The flow that `reference` is of, if its slot has not been taken by another
/// one.
#[inline(always)]
pub fn referenced(mut reference: FlowRef) -> Option<Flow> {
    reference.direction = masked::<1>(reference.direction as usize) as u32;
    let slot = referenced_slot(&reference)?;
    Some(Flow { slot, reference })
}

#[inline(always)]
fn reference(key: &FlowKey) -> Option<FlowRef> {
    // SAFETY: copied at once. A preallocated element that is reused meanwhile
    // yields another flow's reference; the slot's own key would tell, but the
    // window is that of one look-up and the key had to be deleted in it.
    unsafe { FLOWS.get(key) }.copied()
}

/// The slot of `reference`, unless it has since been taken by another flow.
#[inline(always)]
fn referenced_slot(reference: &FlowRef) -> Option<*mut FlowSlot> {
    let slot = FLOW_SLOTS.get_ptr_mut(reference.slot)?;
    // SAFETY: the look-up returned it, not null, and elements of an array stay.
    let generation = unsafe { ptr::read_volatile(&raw const (*slot).generation) };
    (generation == reference.generation).then_some(slot)
}

#[inline(always)]
fn load_state(slot: *mut FlowSlot) -> u32 {
    // SAFETY: `slot` is an element of the slot array.
    unsafe { ptr::read_volatile(&raw const (*slot).state) }
}

/// Moves the slot from one state to another; false when it was in a third.
#[inline(always)]
fn change_state(slot: *mut FlowSlot, from: u32, to: u32) -> bool {
    // SAFETY: `slot` is an element of the slot array; the word is aligned and
    // changed by atomic operations only.
    unsafe { atomic::compare_exchange(&raw mut (*slot).state, from, to) }.is_ok()
}

/// Where the sender of a segment stands, host order.
struct Numbers {
    seq: u32,
    ack: u32,
}

impl Numbers {
    /// Read here and not by the parser: only what follows a connection needs
    /// them, and the parsed packet has no room left on the programs' stacks.
    #[inline(always)]
    fn of<C: Context>(ctx: &C, packet: &Packet) -> Option<Self> {
        if packet.tcp_flags == 0 {
            return None;
        }
        let tcp = ctx.header::<Tcp>(packet.l4_offset)?;
        // SAFETY: `header` has compared its end with the end of the data.
        let (seq_be, ack_be) = unsafe {
            (
                load_u32::<{ offset_of!(Tcp, seq_be) }>(tcp),
                load_u32::<{ offset_of!(Tcp, ack_be) }>(tcp),
            )
        };
        Some(Self {
            seq: u32::from_be(seq_be),
            ack: u32::from_be(ack_be),
        })
    }
}

impl Flow {
    /// `DIR_*` of the packet at hand.
    #[inline(always)]
    pub fn direction(&self) -> u32 {
        self.reference.direction & 1
    }

    /// The slot's index and generation.
    #[inline(always)]
    pub fn place(&self) -> (u32, u32) {
        (self.reference.slot, self.reference.generation)
    }

    /// `KIND_*`.
    #[inline(always)]
    pub fn kind(&self) -> u32 {
        // SAFETY: `slot` is an element of the slot array, and this part of it
        // does not change while the flow lives.
        unsafe { (*self.slot).kind }
    }

    /// Whether the packet, which has been counted, is the first one of all.
    #[inline(always)]
    pub fn is_first(&self) -> bool {
        // SAFETY: `slot` is an element of the slot array; the word is aligned.
        let packets = unsafe {
            ptr::read_volatile(&raw const (*self.slot).dir[DIR_TO_BACKEND as usize].packets)
        };
        self.direction() == DIR_TO_BACKEND && packets == 1
    }

    /// How packets of this direction are rewritten.
    #[inline(always)]
    pub fn translation(&self) -> &'static FlowDirection {
        // SAFETY: `slot` is an element of the slot array, and this part of it
        // does not change while the flow lives.
        unsafe { &(*self.slot).dir[self.direction() as usize] }
    }

    /// Under which packets of this direction are found.
    #[inline(always)]
    pub fn key(&self) -> FlowKey {
        // SAFETY: `slot` is an element of the slot array. What is read does not
        // change while the flow lives, but for the state, an aligned word of which
        // only the protocol is taken, and that stays.
        unsafe { (*self.slot).key(self.direction()) }
    }

    /// Whether the packet opens a new connection on the tuple of this one,
    /// which has ended. Gives the old flow up: its slot is dead and the agent
    /// collects it, its keys are overwritten by the new flow's.
    #[inline(always)]
    pub fn ended_before(&self, packet: &Packet) -> bool {
        if !tcp_state::opens(packet.tcp_flags)
            || self.direction() != DIR_TO_BACKEND
            || load_state(self.slot) != SLOT_CLOSING
        {
            return false;
        }
        change_state(self.slot, SLOT_CLOSING, SLOT_DEAD);
        true
    }

    /// As [`Self::track`], for a flow whose backend answers past this node.
    #[inline(always)]
    pub fn track_one_sided(&self, packet: &Packet) -> u64 {
        let (now_ns, tcp_state) = self.count(packet);
        if tcp_state < tcp_state::TCP_ESTABLISHED
            || packet.tcp_flags & (FLAG_SYN | FLAG_FIN | FLAG_RST) != 0
        {
            let flags = packet.tcp_flags;
            // SAFETY: `slot` is an element of the slot array; the word is aligned
            // and written by atomic operations only.
            unsafe {
                atomic::fetch_or(
                    &raw mut (*self.slot).dir[self.direction() as usize].tcp_flags_seen,
                    flags,
                );
            }
            self.reach(tcp_state, |state| tcp_state::next_one_sided(state, flags));
        }
        now_ns
    }

    /// Counts the packet and follows the connection's state. The time, in
    /// nanoseconds of the coarse monotonic clock.
    #[inline(always)]
    pub fn track<C: Context>(&self, ctx: &C, packet: &Packet) -> u64 {
        let (now_ns, tcp_state) = self.count(packet);
        // Not here with UDP, and with fragments that have no header.
        let numbers = Numbers::of(ctx, packet).unwrap_or(Numbers { seq: 0, ack: 0 });
        self.remember(packet, &numbers);
        if tcp_state < tcp_state::TCP_ESTABLISHED
            || packet.tcp_flags & (FLAG_SYN | FLAG_FIN | FLAG_RST) != 0
        {
            self.advance(packet.tcp_flags, &numbers, 0);
        } else if tcp_state == UDP_ONE_WAY && self.direction() == DIR_TO_CLIENT {
            // SAFETY: `slot` is an element of the slot array. Whoever comes
            // second writes the same.
            unsafe { ptr::write_volatile(&raw mut (*self.slot).tcp_state, UDP_TWO_WAY) };
        }
        now_ns
    }

    /// Counts the packet; the time, and the connection's state.
    #[inline(always)]
    fn count(&self, packet: &Packet) -> (u64, u32) {
        // SAFETY: `slot` is an element of the slot array, and this part of it
        // does not change while the flow lives.
        let (service_id, backend_id) =
            unsafe { ((*self.slot).service_id, (*self.slot).backend_id) };
        service::count_packet(&SERVICE_STATS, service_id, self.direction(), packet.ip_len);
        service::count_packet(&BACKEND_STATS, backend_id, self.direction(), packet.ip_len);
        self.touch(packet)
    }

    /// The same for a flow of no service.
    #[inline(always)]
    fn touch(&self, packet: &Packet) -> (u64, u32) {
        let slot = self.slot;
        // SAFETY: a helper without arguments.
        let now_ns = unsafe { bpf_ktime_get_coarse_ns() };
        // SAFETY: `slot` is an element of the slot array; counters are aligned
        // and changed by atomic operations, `last_seen_ns` by plain stores of
        // which any may win.
        let tcp_state = unsafe {
            let dir = &raw mut (*slot).dir[self.direction() as usize];
            atomic::add(&raw mut (*dir).packets, 1);
            atomic::add(&raw mut (*dir).bytes, u64::from(packet.ip_len));
            (*dir).last_seen_ns = now_ns;
            ptr::read_volatile(&raw const (*slot).tcp_state)
        };
        (now_ns, tcp_state)
    }

    /// Writes down where the sender of the packet stands. The latest segment
    /// wins, not the highest: a forged number is gone with the next real one.
    #[inline(always)]
    fn remember(&self, packet: &Packet, numbers: &Numbers) {
        let flags = packet.tcp_flags;
        if flags & FLAG_RST != 0 || flags & (FLAG_SYN | FLAG_ACK) == 0 {
            return;
        }
        // SYN and FIN take a number each (RFC 9293 section 3.4).
        let payload = packet.ip_len.wrapping_sub(packet.header_len);
        let len = payload + ((flags & FLAG_SYN) >> 1) + (flags & FLAG_FIN);
        // SAFETY: `slot` is an element of the slot array; these are plain stores
        // of aligned words, of which any may win.
        unsafe {
            let dir = &raw mut (*self.slot).dir[self.direction() as usize];
            (*dir).seq_end = numbers.seq.wrapping_add(len);
            if flags & FLAG_ACK != 0 {
                (*dir).ack = numbers.ack;
            }
        }
    }

    /// Takes a segment's flags into the connection's state.
    ///
    /// Two CPUs that see the two FINs at the same time both publish their own
    /// flag before they read the other's, so at least one of them sees both;
    /// and whoever comes second starts from what the first one has reached.
    ///
    /// Its receiver counts `seq_delta` further than the segment's sender.
    #[inline(always)]
    fn advance(&self, tcp_flags: u32, numbers: &Numbers, seq_delta: u32) {
        let slot = self.slot;
        let own = self.direction() as usize;
        // The acknowledgement of a RST is not written down either.
        let flags = if tcp_flags & FLAG_RST == 0 {
            tcp_flags
        } else {
            FLAG_RST
        };
        // SAFETY: `slot` is an element of the slot array; all words here are
        // aligned, those of the state and of the flags are written by atomic
        // operations only.
        let (own_flags, other_flags, peer_ack, peer_seq_end, current) = unsafe {
            let seen = atomic::fetch_or(&raw mut (*slot).dir[own].tcp_flags_seen, flags);
            let other = &raw const (*slot).dir[own ^ 1];
            (
                seen | flags,
                ptr::read_volatile(&raw const (*other).tcp_flags_seen),
                ptr::read_volatile(&raw const (*other).ack),
                ptr::read_volatile(&raw const (*other).seq_end),
                ptr::read_volatile(&raw const (*slot).tcp_state),
            )
        };
        let segment = tcp_state::Segment {
            flags,
            direction: self.direction(),
            own_flags,
            other_flags,
            is_taken: flags == FLAG_RST
                && tcp_state::takes_reset(
                    current,
                    numbers.seq.wrapping_add(seq_delta),
                    (tcp_flags & FLAG_ACK != 0).then_some(numbers.ack),
                    (other_flags & FLAG_ACK != 0).then_some(peer_ack),
                    peer_seq_end,
                ),
        };
        self.reach(current, |current| tcp_state::next(current, &segment));
    }

    /// Takes the connection from the state it was found in to the one that `next`
    /// says follows.
    #[inline(always)]
    fn reach(&self, mut current: u32, next: impl Fn(u32) -> u32) {
        let slot = self.slot;
        let mut reached = current;
        // A lost race means that the other direction has changed the state at
        // this moment; that it does so again in the next one takes more.
        for _ in 0..2 {
            reached = next(current);
            if reached == current {
                break;
            }
            // SAFETY: as above.
            let changed =
                unsafe { atomic::compare_exchange(&raw mut (*slot).tcp_state, current, reached) };
            match changed {
                Ok(()) => break,
                Err(found) => current = found,
            }
        }
        if reached == current {
            return;
        }
        if reached >= tcp_state::TCP_RESET_UNCONFIRMED {
            counted::opened(slot);
        }
        if reached == tcp_state::TCP_CLOSING || reached == tcp_state::TCP_RESET {
            change_state(slot, SLOT_ACTIVE, SLOT_CLOSING);
            counted::ended(slot);
        }
    }
}
