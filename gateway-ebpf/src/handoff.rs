// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Handed-off connections: which packets are translated yet, and how.

use core::mem::offset_of;

use gateway_common::{
    checksum::{diff16, diff32},
    drop_reason::DropReason,
    flow::{SEEN_TIMESTAMP, SLOT_ACTIVE, SLOT_CLOSING, SLOT_HOLD, SLOT_OBSERVE},
    names::{CALL_AGAIN, CALL_HANDOFF},
    tcp_splice::{KEEP_TIMESTAMPS, Splice, add_be},
    tcp_state::FLAG_RST,
};

use crate::{
    context::Context,
    flow::{self, Flow, Timestamp},
    forward::{forwardable, or_answer},
    fragment::{self, Fragment},
    options::{self, header_end},
    packet::{Packet, TCP_LEN, Tcp},
    parse::PASS,
    reply,
    rewrite::{self, OUT_OF_REACH},
    route,
    verdict::Verdict,
    watch,
    word::{load_u16, load_u32, store_u16, store_u32},
};

/// Takes a packet of such a connection to its socket, or translates it and sends
/// it on.
#[inline(always)]
pub fn handle<C: Context>(
    ctx: &C,
    packet: &Packet,
    options_done: bool,
) -> Result<Verdict, Verdict> {
    let flow = flow::find(packet).ok_or(PASS)?;
    // A packet that is dropped ends nothing.
    if forwardable(packet).is_ok() && flow.ended_before(packet) {
        // For the first program it is one without a flow.
        ctx.continue_with(CALL_AGAIN);
        return Err(PASS);
    }
    admit(ctx, packet, &flow)?;
    forwardable(packet)?;
    if packet.fragment == Fragment::First {
        fragment::remember(packet);
    }
    // First, as another program may do it. Should the packet be too long, this part
    // of what is quoted of it is not as its sender knows it, and nobody looks.
    let options_diff = if options_done {
        0
    } else {
        options(ctx, packet, &flow.splice())?
    };
    let now_ns = flow.follow(ctx, packet);
    let to = flow.translation();
    let header = route::Header::of(packet, to);
    let hop = route::next_hop(ctx, packet, &flow, &header, now_ns);
    let hop = or_answer(ctx, packet, hop, true)?;
    let diff = numbers(ctx, packet, &flow.splice())? + options_diff;
    rewrite::apply(ctx, packet, to, diff)?;
    let hop = hop?;
    Ok(watch::sent(ctx.send(hop)?, packet, &flow, hop))
}

/// Whether the packet is to be translated. It is the agent's while the connection
/// is, and nobody's while that changes.
#[inline(always)]
fn admit<C: Context>(ctx: &C, packet: &Packet, flow: &Flow) -> Result<(), Verdict> {
    let mut state = flow.state();
    // What no socket takes says nothing.
    if state == SLOT_OBSERVE && packet.defect.is_none() {
        state = flow.note(ctx, packet, timestamp(ctx, packet));
    }
    if state == SLOT_HOLD {
        if flow.wait() == SLOT_HOLD {
            if packet.tcp_flags & FLAG_RST == 0 || packet.defect.is_some() {
                return Err(Verdict::Drop(DropReason::HandoffHold));
            }
            // Nobody sends a reset again: the socket has to see it.
            flow.end_hold();
        }
        flow::count_parked();
        // From the start: what follows would cost the verifier as much again for
        // each look at the clock. To be noted down twice changes nothing.
        ctx.continue_with(CALL_HANDOFF);
        return Err(Verdict::Drop(DropReason::HandoffHold));
    }
    match state {
        SLOT_ACTIVE | SLOT_CLOSING => Ok(()),
        _ => {
            reply::look(ctx, packet);
            Err(PASS)
        }
    }
}

/// Translates the numbers and the window of the TCP header; how its sum has
/// changed.
#[inline(always)]
fn numbers<C: Context>(ctx: &C, packet: &Packet, splice: &Splice) -> Result<u64, Verdict> {
    if packet.is_later() {
        return Ok(0);
    }
    let tcp = ctx.header::<Tcp>(packet.l4_offset).ok_or(OUT_OF_REACH)?;
    // SAFETY: `header` has compared its end with the end of the data, and
    // nothing in here moves it.
    unsafe {
        let seq = load_u32::<{ offset_of!(Tcp, seq_be) }>(tcp);
        let new_seq = add_be(seq, splice.seq);
        store_u32::<{ offset_of!(Tcp, seq_be) }>(tcp, new_seq);
        let ack = load_u32::<{ offset_of!(Tcp, ack_be) }>(tcp);
        let new_ack = add_be(ack, splice.ack);
        store_u32::<{ offset_of!(Tcp, ack_be) }>(tcp, new_ack);
        let window = load_u16::<{ offset_of!(Tcp, window_be) }>(tcp);
        let new_window = splice.window(window);
        store_u16::<{ offset_of!(Tcp, window_be) }>(tcp, new_window);
        Ok(diff32(seq, new_seq) + diff32(ack, new_ack) + diff16(window, new_window))
    }
}

/// The first word of the options that nearly every segment has: two NOP, then a
/// timestamp option that ends with the header (RFC 7323 appendix A).
const TIMESTAMPS_ALONE: u32 = 0x0101_080a_u32.to_be();
/// Length of a header with these.
const TIMESTAMPS_ALONE_LEN: usize = TCP_LEN + 12;

/// Translates the options of the TCP header; how its sum has changed.
#[inline(always)]
fn options<C: Context>(ctx: &C, packet: &Packet, splice: &Splice) -> Result<u64, Verdict> {
    let end = header_end(packet).wrapping_sub(packet.l4_offset);
    if packet.is_later() || end <= TCP_LEN {
        return Ok(0);
    }
    ctx.make_linear(header_end(packet));
    if end == TIMESTAMPS_ALONE_LEN && splice.keep & KEEP_TIMESTAMPS != 0 {
        let tcp = ctx
            .header::<[u8; TIMESTAMPS_ALONE_LEN]>(packet.l4_offset)
            .ok_or(OUT_OF_REACH)?;
        // SAFETY: `header` has compared its end with the end of the data.
        unsafe {
            if load_u32::<TCP_LEN>(tcp) == TIMESTAMPS_ALONE {
                let value = load_u32::<{ TCP_LEN + 4 }>(tcp);
                let new_value = add_be(value, splice.ts_value);
                store_u32::<{ TCP_LEN + 4 }>(tcp, new_value);
                let echo = load_u32::<{ TCP_LEN + 8 }>(tcp);
                let new_echo = add_be(echo, splice.ts_echo);
                store_u32::<{ TCP_LEN + 8 }>(tcp, new_echo);
                return Ok(diff32(value, new_value) + diff32(echo, new_echo));
            }
        }
    }
    options::walk(ctx, packet, splice)
}

/// The timestamp of a packet for the agent, where nearly every segment has it.
#[inline(always)]
fn timestamp<C: Context>(ctx: &C, packet: &Packet) -> Timestamp {
    // Longer than one without options; what it has behind does not matter.
    if header_end(packet).wrapping_sub(packet.l4_offset) < TIMESTAMPS_ALONE_LEN {
        return Timestamp::NONE;
    }
    ctx.make_linear(header_end(packet));
    let Some(tcp) = ctx.header::<[u8; TIMESTAMPS_ALONE_LEN]>(packet.l4_offset) else {
        return Timestamp::NONE;
    };
    // SAFETY: `header` has compared its end with the end of the data.
    let (first, value) = unsafe { (load_u32::<TCP_LEN>(tcp), load_u32::<{ TCP_LEN + 4 }>(tcp)) };
    if first != TIMESTAMPS_ALONE {
        return Timestamp::NONE;
    }
    Timestamp {
        flag: SEEN_TIMESTAMP,
        value: u32::from_be(value),
    }
}
