// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! A connection of the agent's sockets that is about to become a flow.
//!
//! The agent holds it, then compares what its sockets have received with what
//! was let through to them. A program lets a packet through in the opposite
//! order: it writes down what the packet is, then looks whether the connection
//! is held. With a full barrier between the two on both sides (Dekker's
//! algorithm), the agent knows of the packet or the program knows of the hold.

use core::ptr;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use gateway_common::{
    flow::{FlowSlot, SLOT_HOLD, SLOT_OBSERVE},
    tcp_splice::Splice,
    tcp_state::{FLAG_ACK, FLAG_FIN, FLAG_RST, FLAG_SYN, TCP_ESTABLISHED},
};

use super::{Flow, Numbers, change_state, load_state};
use crate::{atomic, context::Context, maps::PARKED, packet::Packet};

/// Looks at the clock while a hold lasts, 20 to 50 ns each: a hold takes ten
/// microseconds as a rule, and a packet that is dropped costs its sender up to
/// 200 ms. Measured on three runs of 600 busy connections, of which some 1,100
/// were handed off: 3 packets dropped, and 20 with a single look.
const LOOKS: u32 = 512;

/// A segment's timestamp. Not an option: the compiler leaves the value of none
/// undefined, and moves it about, which the verifier refuses.
#[derive(Clone, Copy)]
pub struct Timestamp {
    /// [`gateway_common::flow::SEEN_TIMESTAMP`], or 0 without.
    pub flag: u32,
    /// Host order.
    pub value: u32,
}

impl Timestamp {
    /// None.
    pub const NONE: Self = Self { flag: 0, value: 0 };
}

impl Flow {
    /// `SLOT_*`.
    #[inline(always)]
    pub fn state(&self) -> u32 {
        load_state(self.slot)
    }

    /// Notes down a packet for the agent's sockets and its timestamp, if it has
    /// one. The state after that.
    #[inline(always)]
    pub fn note<C: Context>(&self, ctx: &C, packet: &Packet, timestamp: Timestamp) -> u32 {
        let Some(numbers) = Numbers::of(ctx, packet) else {
            // A later fragment; the first one's length does not agree with what
            // the socket has received, so that nothing is handed off on it.
            return load_state(self.slot);
        };
        let flags = packet.tcp_flags;
        let payload = packet.ip_len.wrapping_sub(packet.header_len);
        let len = payload + ((flags & FLAG_SYN) >> 1) + (flags & FLAG_FIN);
        // SAFETY: `slot` is an element of the slot array; all words here are
        // aligned, those that two CPUs can raise are changed by atomic
        // operations, of the others any store may win.
        unsafe {
            let dir = &raw mut (*self.slot).dir[self.direction() as usize];
            let seen = ptr::read_volatile(&raw const (*dir).tcp_flags_seen);
            raise(
                &raw mut (*dir).seq_end,
                numbers.seq.wrapping_add(len),
                seen & FLAG_ACK != 0,
            );
            if flags & FLAG_ACK != 0 {
                ptr::write_volatile(&raw mut (*dir).ack, numbers.ack);
            }
            if timestamp.flag != 0 {
                ptr::write_volatile(&raw mut (*dir).ts_seen, timestamp.value);
            }
            // A full barrier.
            atomic::fetch_or(&raw mut (*dir).tcp_flags_seen, flags | timestamp.flag);
        }
        load_state(self.slot)
    }

    /// Waits for the end of a hold, for a moment at most; the state then. Ends
    /// it itself when its time is over: its agent may be gone.
    #[inline(always)]
    pub fn wait(&self) -> u32 {
        for _ in 0..LOOKS {
            let state = load_state(self.slot);
            if state != SLOT_HOLD {
                return state;
            }
            // SAFETY: `slot` is an element of the slot array; the word was
            // written before the state was.
            let until = unsafe { ptr::read_volatile(&raw const (*self.slot).hold_until_ns) };
            // SAFETY: a helper without arguments.
            if unsafe { bpf_ktime_get_ns() } >= until {
                change_state(self.slot, SLOT_HOLD, SLOT_OBSERVE);
                return load_state(self.slot);
            }
        }
        SLOT_HOLD
    }

    /// Ends a hold before its time: its agent finds the connection to be its own.
    #[inline(always)]
    pub fn end_hold(&self) {
        change_state(self.slot, SLOT_HOLD, SLOT_OBSERVE);
    }

    /// Whether its packets go to sockets of the agent: it is not handed off yet.
    #[inline(always)]
    pub fn is_of_sockets(&self) -> bool {
        let state = self.state();
        state == SLOT_OBSERVE || state == SLOT_HOLD
    }

    /// As [`Self::track`], for a flow of no service, which has two number spaces.
    #[inline(always)]
    pub fn follow<C: Context>(&self, ctx: &C, packet: &Packet) -> u64 {
        let (now_ns, tcp_state) = self.touch(packet);
        // Not here with fragments that have no header.
        let numbers = Numbers::of(ctx, packet).unwrap_or(Numbers { seq: 0, ack: 0 });
        self.remember(packet, &numbers);
        if tcp_state < TCP_ESTABLISHED || packet.tcp_flags & (FLAG_SYN | FLAG_FIN | FLAG_RST) != 0 {
            // SAFETY: `slot` is an element of the slot array, and this part of it
            // does not change while the flow is active.
            let seq_delta = unsafe { (*self.slot).seq_delta[self.direction() as usize] };
            self.advance(packet.tcp_flags, &numbers, seq_delta);
        }
        now_ns
    }

    /// How headers of this direction are translated.
    #[inline(always)]
    pub fn splice(&self) -> Splice {
        let slot: *const FlowSlot = self.slot;
        let own = self.direction() as usize;
        // SAFETY: as above.
        unsafe {
            let dir = &raw const (*slot).dir[own];
            Splice::new(
                [(*slot).seq_delta[own], (*slot).seq_delta[own ^ 1]],
                [(*dir).ts_delta, (*slot).dir[own ^ 1].ts_delta],
                i32::from((*dir).window_shift),
                u32::from((*dir).keep),
            )
        }
    }
}

/// Counts a packet that has waited for the end of a hold.
#[inline(always)]
pub fn count_parked() {
    if let Some(count) = PARKED.get_ptr_mut(0) {
        // SAFETY: the look-up returned it, not null, for this CPU alone; the
        // programs run with migration off and do not interrupt themselves.
        unsafe { *count += 1 };
    }
}

/// Raises the sequence number at `word` to `seq`, if it is higher or the first.
///
/// # Safety
///
/// `word` is an aligned word of a map value, written by atomic operations only.
#[inline(always)]
unsafe fn raise(word: *mut u32, seq: u32, any_before: bool) {
    // SAFETY: by the caller's promise.
    let mut current = unsafe { ptr::read_volatile(word) };
    // Whoever is overtaken by that many other CPUs finds it raised.
    for _ in 0..4 {
        if any_before && seq.wrapping_sub(current) as i32 <= 0 {
            return;
        }
        // SAFETY: as above.
        match unsafe { atomic::compare_exchange(word, current, seq) } {
            Ok(()) => return,
            Err(found) => current = found,
        }
    }
}
