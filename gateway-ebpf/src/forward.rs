// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! The way of a packet through the forwarding steps, at XDP and at tc alike.

use gateway_common::{
    counters::VerdictCounter, drop_reason::DropReason, flow::PROTOCOL_TCP, tcp_state,
};

use crate::{
    context::Context,
    flow::{self, Flow},
    fragment::{self, Fragment},
    icmp,
    packet::Packet,
    parse::{self, PASS},
    rewrite, route, service,
    verdict::{self, Verdict},
};

/// Handles one frame.
#[inline(always)]
pub fn packet<C: Context>(ctx: &C) -> C::Action {
    let frame_len = ctx.frame_len();
    let mut packet = Packet::empty();
    let (Ok(verdict) | Err(verdict)) = match parse::frame(ctx, &mut packet) {
        Ok(()) if packet.is_icmp() => {
            // ICMP is rare and its way is long: a program of its own has a stack
            // of its own, and is verified on its own.
            ctx.continue_with_icmp();
            // It is not there.
            Err(PASS)
        }
        Ok(()) => steps(ctx, &packet),
        Err(verdict) => Err(verdict),
    };
    end(ctx, verdict, frame_len)
}

/// Handles a frame that [`packet`] found to be ICMP.
#[inline(always)]
pub fn icmp<C: Context>(ctx: &C) -> C::Action {
    let frame_len = ctx.frame_len();
    let mut packet = Packet::empty();
    let (Ok(verdict) | Err(verdict)) = match parse::frame(ctx, &mut packet) {
        Ok(()) if packet.is_icmp() => icmp::handle(ctx, &mut packet),
        Ok(()) => Err(PASS),
        Err(verdict) => Err(verdict),
    };
    end(ctx, verdict, frame_len)
}

/// Where the way of every packet ends, counted.
#[inline(always)]
fn end<C: Context>(ctx: &C, verdict: Verdict, frame_len: u32) -> C::Action {
    verdict::count(verdict, frame_len);
    ctx.action(verdict)
}

#[inline(always)]
fn steps<C: Context>(ctx: &C, packet: &Packet) -> Result<Verdict, Verdict> {
    let flow = match flow::find(packet) {
        Some(flow) if !flow.ended_before(packet) => {
            forwardable(packet)?;
            flow
        }
        _ => new_flow(packet)?,
    };
    if packet.fragment == Fragment::First {
        fragment::remember(packet);
    }
    flow.track(packet);
    let translation = flow.translation();
    rewrite::apply(ctx, packet, translation)?;
    route::send(ctx, packet, translation)
}

#[inline(always)]
fn new_flow(packet: &Packet) -> Result<Flow, Verdict> {
    let service = service::find(&packet.key).ok_or(Verdict::Pass(VerdictCounter::Passed))?;
    if packet.fragment == Fragment::Later {
        // Its flow is over, or it was never that packet's.
        return Err(Verdict::Pass(VerdictCounter::NoFlow));
    }
    forwardable(packet)?;
    let handshake = packet.tcp_flags & (tcp_state::FLAG_SYN | tcp_state::FLAG_ACK);
    if packet.key.proto == PROTOCOL_TCP && handshake != tcp_state::FLAG_SYN {
        return Err(Verdict::Pass(VerdictCounter::NoFlow));
    }
    flow::create(packet, service).inspect_err(|_| service::count_refused(service))
}

/// Refuses a packet that is ours but cannot be sent on as it is.
#[inline(always)]
pub fn forwardable(packet: &Packet) -> Result<(), Verdict> {
    if let Some(reason) = packet.defect {
        return Err(Verdict::Drop(reason));
    }
    if packet.ttl <= 1 {
        return Err(Verdict::Drop(DropReason::TtlExceeded));
    }
    Ok(())
}
