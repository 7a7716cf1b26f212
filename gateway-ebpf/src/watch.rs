// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Tells a watcher what becomes of packets, while there is one.
//!
//! A packet of a known flow does not ask whether somebody watches: the next hop
//! that it takes was marked when it was looked up, at most
//! [`gateway_common::next_hop::NEXT_HOP_NS`] ago. What is told is put together in
//! a program of its own, the last one of a packet's way.

use core::mem;

use aya_ebpf::{bindings::BPF_RB_NO_WAKEUP, helpers::bpf_ktime_get_coarse_ns};
use gateway_common::{
    addr::Addr16,
    counters::VerdictCounter,
    drop_reason::DropReason,
    flow::{FlowKey, FlowRef},
    names::CALL_WATCH,
    next_hop::NextHop,
    watch::{
        Decision, Ended, PACKET_KNOWN, PACKET_NEW, PACKET_NO_FLOW, WATCH_KNOWN, WATCH_NEW,
        WatchState,
    },
};

use crate::{
    context::Context,
    flow::{self, Flow},
    maps::{DECISIONS, WATCH, WATCH_STATE},
    packet::Packet,
    parse,
    verdict::Verdict,
};

/// The mark of a next hop that packets with `key` take: which of them somebody
/// asks for at `now_ns`, `WATCH_*`.
#[inline(always)]
pub fn mark(key: &FlowKey, now_ns: u64) -> u8 {
    match WATCH.get(0) {
        Some(watch) if watch.until_ns > now_ns && watch.matches(key) => {
            (watch.flags & (WATCH_NEW | WATCH_KNOWN)) as u8
        }
        _ => 0,
    }
}

/// What becomes of a packet of `flow` that took `hop`: `sent`, and whether that is
/// to be told.
#[inline(always)]
pub fn sent(sent: Verdict, packet: &Packet, flow: &Flow, hop: &NextHop) -> Verdict {
    if hop.watched == 0 {
        return sent;
    }
    let (wanted, packet_is) = if flow.is_first() {
        (WATCH_NEW, PACKET_NEW)
    } else {
        (WATCH_KNOWN, PACKET_KNOWN)
    };
    let (Verdict::Sent(action), Some(state)) = (sent, state()) else {
        return sent;
    };
    if u32::from(hop.watched) & wanted == 0 {
        return sent;
    }
    let (slot, generation) = flow.place();
    state.ended = Ended {
        action,
        verdict: VerdictCounter::Forwarded as u8,
        reason: 0,
        packet: packet_is,
        is_action: 1,
        slot,
        generation,
        direction: flow.direction(),
        ip_len: packet.ip_len,
    };
    Verdict::SentWatched(action)
}

/// Goes on in the program that tells, if the way of a packet ended in a way that
/// somebody may want to know; else comes back. It has been counted.
#[inline(always)]
pub fn end<C: Context>(ctx: &C, verdict: Verdict) {
    let (counter, reason, action) = match verdict {
        Verdict::SentWatched(_) => return ctx.continue_with(CALL_WATCH),
        Verdict::Sent(_) | Verdict::Pass(VerdictCounter::Passed) => return,
        Verdict::Challenged(action) => (VerdictCounter::Challenged, 0, Some(action)),
        Verdict::Pass(counter) | Verdict::Noted(counter) => (counter, 0, None),
        Verdict::Drop(reason) => (VerdictCounter::Dropped, reason as u8, None),
        Verdict::Answered(reason, action) => (VerdictCounter::Dropped, reason as u8, action),
    };
    // One who has died left something here: who tells compares the times.
    if WATCH.get(0).is_none_or(|watch| watch.until_ns == 0) {
        return;
    }
    let Some(state) = state() else {
        return;
    };
    state.ended.verdict = counter as u8;
    state.ended.reason = reason;
    state.ended.packet = PACKET_NO_FLOW;
    state.ended.is_action = u8::from(action.is_some());
    state.ended.action = action.unwrap_or(0);
    ctx.continue_with(CALL_WATCH);
}

/// Tells how the way of the packet at hand has ended, and ends it so.
#[inline(always)]
pub fn tell<C: Context>(ctx: &C) -> C::Action {
    let Some(state) = state() else {
        // It has no other element than the first.
        return ctx.action(Verdict::Drop(DropReason::BadMapEntry));
    };
    let is_drop = state.ended.verdict == VerdictCounter::Dropped as u8;
    let is_noted = state.ended.verdict == VerdictCounter::Verified as u8;
    let verdict = if state.ended.is_action != 0 {
        Verdict::Sent(state.ended.action)
    } else if is_drop || is_noted {
        Verdict::Drop(DropReason::HelperFailed)
    } else {
        Verdict::Pass(VerdictCounter::Passed)
    };
    if state.ended.packet == PACKET_NO_FLOW {
        ended(ctx, state, is_drop);
    } else {
        forwarded(ctx, state);
    }
    ctx.action(verdict)
}

/// A packet of a flow that was sent on: as it is now, it is another one.
#[inline(always)]
fn forwarded<C: Context>(ctx: &C, state: &mut WatchState) {
    let reference = FlowRef {
        slot: state.ended.slot,
        generation: state.ended.generation,
        direction: state.ended.direction,
    };
    let Some(flow) = flow::referenced(reference) else {
        return;
    };
    let to = flow.translation();
    let decision = &mut state.decision;
    decision.key = flow.key();
    decision.new_src = to.new_src;
    decision.new_dst = to.new_dst;
    decision.new_src_port_be = to.new_src_port_be;
    decision.new_dst_port_be = to.new_dst_port_be;
    decision.ip_len = state.ended.ip_len;
    put(ctx, state);
}

/// A packet that was ours and was not sent on: dropped, or left to the stack for
/// a reason.
#[inline(always)]
fn ended<C: Context>(ctx: &C, state: &mut WatchState, is_drop: bool) {
    if !is_drop
        && WATCH
            .get(0)
            .is_none_or(|watch| watch.flags & WATCH_NEW == 0)
    {
        return;
    }
    let mut packet = Packet::empty();
    // What cannot be parsed is told as far as it can.
    let _ = parse::frame(ctx, &mut packet);
    if state.ended.verdict == VerdictCounter::Challenged as u8 {
        // On its way back by now.
        let key = &mut packet.key;
        mem::swap(&mut key.src, &mut key.dst);
        mem::swap(&mut key.src_port_be, &mut key.dst_port_be);
    }
    let decision = &mut state.decision;
    decision.key = packet.key;
    decision.new_src = Addr16::ANY;
    decision.new_dst = Addr16::ANY;
    decision.new_src_port_be = 0;
    decision.new_dst_port_be = 0;
    decision.ip_len = packet.ip_len;
    put(ctx, state);
}

/// Completes the decision at hand and puts it into the ring, if the packet is
/// meant and the rate allows it.
#[inline(always)]
fn put<C: Context>(ctx: &C, state: &mut WatchState) {
    let Some(watch) = WATCH.get(0) else {
        return;
    };
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_coarse_ns() };
    if watch.until_ns <= now_ns
        || !watch.matches(&state.decision.key)
        || !state.admits(now_ns, watch.interval_ns)
    {
        return;
    }
    state.decision.time_ns = now_ns;
    state.decision.ifindex = ctx.ifindex();
    state.decision.verdict = state.ended.verdict;
    state.decision.reason = state.ended.reason;
    state.decision.packet = state.ended.packet;
    state.decision.direction = state.ended.direction as u8;
    // The watcher looks by itself, many times a second.
    let told = DECISIONS.output::<Decision>(&state.decision, u64::from(BPF_RB_NO_WAKEUP));
    if told.is_err() {
        state.left_out += 1;
    }
}

/// What this processor has told.
#[inline(always)]
fn state() -> Option<&'static mut WatchState> {
    let state = WATCH_STATE.get_ptr_mut(0)?;
    // SAFETY: the look-up returned it, not null, for this CPU alone; the
    // programs run with migration off and do not interrupt themselves, and each
    // holds one reference at a time.
    Some(unsafe { &mut *state })
}
