// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! The flow table: finding a packet's flow and following its state.
//!
//! A slot may be used by several CPUs at once (the two directions of a flow
//! rarely share one), so what both write is changed by atomic operations. The
//! identity of a flow, its keys and its translation are written only between
//! the claim of the slot and its activation.

mod create;

use core::ptr;

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
pub use create::create;
use gateway_common::{
    flow::{
        DIR_TO_BACKEND, DIR_TO_CLIENT, FlowDirection, FlowKey, FlowRef, FlowSlot, SLOT_ACTIVE,
        SLOT_CLOSING, SLOT_DEAD,
    },
    tcp_state::{self, FLAG_FIN, FLAG_RST, FLAG_SYN},
    udp_state::{UDP_ONE_WAY, UDP_TWO_WAY},
};

use crate::{
    atomic,
    maps::{BACKEND_STATS, FLOW_SLOTS, FLOWS, SERVICE_STATS},
    mask::masked,
    packet::Packet,
    service,
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
    (state == SLOT_ACTIVE || state == SLOT_CLOSING).then_some(Flow { slot, reference })
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

    /// How packets of this direction are rewritten.
    #[inline(always)]
    pub fn translation(&self) -> &'static FlowDirection {
        // SAFETY: `slot` is an element of the slot array, and this part of it
        // does not change while the flow lives.
        unsafe { &(*self.slot).dir[self.direction() as usize] }
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
            self.advance(packet.tcp_flags, |state, flags, _, _| {
                tcp_state::next_one_sided(state, flags)
            });
        }
        now_ns
    }

    /// Counts the packet and follows the connection's state. The time, in
    /// nanoseconds of the coarse monotonic clock.
    #[inline(always)]
    pub fn track(&self, packet: &Packet) -> u64 {
        let (now_ns, tcp_state) = self.count(packet);
        if tcp_state < tcp_state::TCP_ESTABLISHED
            || packet.tcp_flags & (FLAG_SYN | FLAG_FIN | FLAG_RST) != 0
        {
            self.advance(packet.tcp_flags, tcp_state::next);
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
        let slot = self.slot;
        let direction = self.direction();
        // SAFETY: a helper without arguments.
        let now_ns = unsafe { bpf_ktime_get_coarse_ns() };
        // SAFETY: `slot` is an element of the slot array; counters are aligned
        // and changed by atomic operations, `last_seen_ns` by plain stores of
        // which any may win.
        let (service_id, backend_id, tcp_state) = unsafe {
            let dir = &raw mut (*slot).dir[direction as usize];
            atomic::add(&raw mut (*dir).packets, 1);
            atomic::add(&raw mut (*dir).bytes, u64::from(packet.ip_len));
            (*dir).last_seen_ns = now_ns;
            (
                (*slot).service_id,
                (*slot).backend_id,
                ptr::read_volatile(&raw const (*slot).tcp_state),
            )
        };
        service::count_packet(&SERVICE_STATS, service_id, direction, packet.ip_len);
        service::count_packet(&BACKEND_STATS, backend_id, direction, packet.ip_len);
        (now_ns, tcp_state)
    }

    /// Takes `flags` into the connection's state, of which `next` says what
    /// follows: from the state, the flags, the direction, and the flags seen in
    /// the other one.
    ///
    /// The state only ever rises. Two CPUs that see the two FINs at the same
    /// time both publish their own flag before they read the other's, so at
    /// least one of them sees both; and the lower of two states never
    /// overwrites the higher.
    #[inline(always)]
    fn advance(&self, flags: u32, next: impl Fn(u32, u32, u32, u32) -> u32) {
        let slot = self.slot;
        let own = self.direction() as usize;
        // SAFETY: `slot` is an element of the slot array; all words here are
        // aligned and written by atomic operations only.
        let (other_flags, mut current) = unsafe {
            atomic::fetch_or(&raw mut (*slot).dir[own].tcp_flags_seen, flags);
            (
                ptr::read_volatile(&raw const (*slot).dir[own ^ 1].tcp_flags_seen),
                ptr::read_volatile(&raw const (*slot).tcp_state),
            )
        };
        let mut reached = current;
        // A lost race means that the state has risen, which it can do five
        // times at most.
        for _ in 0..5 {
            reached = next(current, flags, self.direction(), other_flags);
            if reached <= current {
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
        if reached >= tcp_state::TCP_CLOSING {
            change_state(slot, SLOT_ACTIVE, SLOT_CLOSING);
        }
    }
}
