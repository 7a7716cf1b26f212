// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! How a packet's way through the programs ends.

use aya_ebpf::maps::PerCpuArray;
use gateway_common::{
    counters::{Count, VerdictCounter},
    drop_reason::{DROP_REASON_SLOTS, DropReason},
};

use crate::maps::{DROPS, INTERFACE_DROPS, VERDICTS};

/// The end of a packet's way.
#[must_use]
#[derive(Clone, Copy)]
pub enum Verdict {
    /// To the kernel's stack, counted under the name given.
    Pass(VerdictCounter),
    /// Out of an interface: the action a redirect returned.
    Sent(i32),
    /// The same, and somebody is to be told.
    SentWatched(i32),
    /// Gone, for the reason given.
    Drop(DropReason),
    /// Gone, for the reason given, and its sender told: the action a redirect of
    /// the answer returned, or none to leave it to the kernel's stack.
    Answered(DropReason, Option<i32>),
    /// Sent back as a challenge: the action that sends it.
    Challenged(i32),
    /// Taken note of, counted under the name given; nothing is sent.
    Noted(VerdictCounter),
}

/// Counts a verdict on `bytes` bytes; how many were dropped so far for this
/// reason on this CPU, 0 when it is no drop.
#[inline(always)]
pub fn count(verdict: Verdict, bytes: u32) -> u64 {
    let (counter, nth) = match verdict {
        Verdict::Pass(counter) | Verdict::Noted(counter) => (counter, 0),
        Verdict::Challenged(_) => (VerdictCounter::Challenged, 0),
        Verdict::Sent(_) | Verdict::SentWatched(_) => (VerdictCounter::Forwarded, 0),
        Verdict::Drop(reason) | Verdict::Answered(reason, _) => {
            (VerdictCounter::Dropped, add(&DROPS, reason as u32, bytes))
        }
    };
    let _ = add(&VERDICTS, counter as u32, bytes);
    nth
}

/// Counts a drop under the interface that the packet came in by. Interfaces are
/// added by the agent: adding one here would take of the stack.
#[inline(always)]
pub fn count_at_interface(reason: DropReason, ifindex: u32) {
    let Some(drops) = INTERFACE_DROPS.get_ptr_mut(ifindex) else {
        return;
    };
    // SAFETY: as in `add`; an entry that the agent removes now keeps its memory
    // until this run is over. Reasons are fewer than the slots.
    unsafe {
        let packets: *mut u64 = (&raw mut (*drops).packets).cast();
        *packets.add(reason as usize & (DROP_REASON_SLOTS as usize - 1)) += 1;
    }
}

/// Counts a packet of `bytes` bytes under a name that is no verdict.
#[inline(always)]
pub fn note(counter: VerdictCounter, bytes: u32) {
    let _ = add(&VERDICTS, counter as u32, bytes);
}

/// Adds a packet; the packets counted so far on this CPU.
#[inline(always)]
fn add(map: &PerCpuArray<Count>, index: u32, bytes: u32) -> u64 {
    let Some(count) = map.get_ptr_mut(index) else {
        return 0;
    };
    // SAFETY: the look-up returned it, not null, for this CPU alone; the
    // programs run with migration off and do not interrupt themselves.
    unsafe {
        (*count).packets += 1;
        (*count).bytes += u64::from(bytes);
        (*count).packets
    }
}
