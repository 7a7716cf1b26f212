// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! The way of a packet through the forwarding steps, at XDP and at tc alike.

use gateway_common::{
    counters::VerdictCounter, drop_reason::DropReason, flow::PROTOCOL_TCP, tcp_state,
};

use crate::{
    context::Context,
    flow::{self, Flow},
    packet::Packet,
    parse, rewrite, route, service,
    verdict::{self, Verdict},
};

/// Handles one frame; the one place where its end is counted.
#[inline(always)]
pub fn packet<C: Context>(ctx: &C) -> C::Action {
    let frame_len = ctx.frame_len();
    let (Ok(verdict) | Err(verdict)) = steps(ctx);
    verdict::count(verdict, frame_len);
    ctx.action(verdict)
}

#[inline(always)]
fn steps<C: Context>(ctx: &C) -> Result<Verdict, Verdict> {
    let mut packet = Packet::empty();
    parse::frame(ctx, &mut packet)?;
    let flow = match flow::find(&packet) {
        Some(flow) if !flow.ended_before(&packet) => {
            forwardable(&packet)?;
            flow
        }
        _ => new_flow(&packet)?,
    };
    flow.track(&packet);
    let translation = flow.translation();
    rewrite::apply(ctx, &packet, translation)?;
    route::send(ctx, &packet, translation)
}

#[inline(always)]
fn new_flow(packet: &Packet) -> Result<Flow, Verdict> {
    let service = service::find(&packet.key).ok_or(Verdict::Pass(VerdictCounter::Passed))?;
    forwardable(packet)?;
    let handshake = packet.tcp_flags & (tcp_state::FLAG_SYN | tcp_state::FLAG_ACK);
    if packet.key.proto == PROTOCOL_TCP && handshake != tcp_state::FLAG_SYN {
        return Err(Verdict::Pass(VerdictCounter::NoFlow));
    }
    flow::create(packet, service).inspect_err(|_| service::count_refused(service))
}

/// Refuses a packet that is ours but cannot be sent on as it is.
#[inline(always)]
fn forwardable(packet: &Packet) -> Result<(), Verdict> {
    if let Some(reason) = packet.defect {
        return Err(Verdict::Drop(reason));
    }
    if packet.ttl <= 1 {
        return Err(Verdict::Drop(DropReason::TtlExceeded));
    }
    Ok(())
}
