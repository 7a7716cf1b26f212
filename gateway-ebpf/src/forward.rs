// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! The way of a packet through the forwarding steps, at XDP and at tc alike.

use gateway_common::{
    counters::VerdictCounter,
    drop_reason::DropReason,
    flow::PROTOCOL_TCP,
    names::{CALL_ICMP, CALL_NEW_FLOW},
    tcp_state,
};

use crate::{
    context::Context,
    flow::{self, Flow},
    fragment::{self, Fragment},
    icmp, log,
    packet::Packet,
    parse::{self, PASS},
    rewrite, route, service,
    verdict::{self, Verdict},
};

/// Handles one frame.
///
/// What is rare and long goes on in a program of its own: it has a stack of its
/// own, is verified on its own, and costs the packets of known flows nothing.
#[inline(always)]
pub fn packet<C: Context>(ctx: &C) -> C::Action {
    handle(ctx, |packet| {
        if packet.is_icmp() {
            ctx.continue_with(CALL_ICMP);
            // It is not there.
            return Err(PASS);
        }
        if let Some(flow) = flow::find(packet) {
            forwardable(packet)?;
            if !flow.ended_before(packet) {
                return send(ctx, packet, flow);
            }
        }
        service::find(&packet.key).ok_or(PASS)?;
        ctx.continue_with(CALL_NEW_FLOW);
        // Nobody knows this service's rules.
        Err(Verdict::Drop(DropReason::HelperFailed))
    })
}

/// Handles a frame that [`packet`] found to be ICMP.
#[inline(always)]
pub fn icmp<C: Context>(ctx: &C) -> C::Action {
    handle(ctx, |packet| {
        if packet.is_icmp() {
            icmp::handle(ctx, packet)
        } else {
            Err(PASS)
        }
    })
}

/// Handles a frame to a service that [`packet`] found no flow for.
#[inline(always)]
pub fn new_flow<C: Context>(ctx: &C) -> C::Action {
    let (verdict, nth) = judge(ctx, |packet| {
        let flow = admit(packet)?;
        send(ctx, packet, flow)
    });
    // Here alone: a call takes of the stack even where it calls nothing.
    if let Verdict::Drop(reason) = verdict {
        log::exhausted(reason, nth);
    }
    ctx.action(verdict)
}

/// Parses a frame and takes it through `steps`; counts how its way ended.
#[inline(always)]
fn handle<C: Context>(
    ctx: &C,
    steps: impl FnOnce(&mut Packet) -> Result<Verdict, Verdict>,
) -> C::Action {
    ctx.action(judge(ctx, steps).0)
}

/// The same, as a verdict and what [`verdict::count`] said.
#[inline(always)]
fn judge<C: Context>(
    ctx: &C,
    steps: impl FnOnce(&mut Packet) -> Result<Verdict, Verdict>,
) -> (Verdict, u64) {
    let frame_len = ctx.frame_len();
    let mut packet = Packet::empty();
    let (Ok(verdict) | Err(verdict)) = match parse::frame(ctx, &mut packet) {
        Ok(()) => steps(&mut packet),
        Err(verdict) => Err(verdict),
    };
    let nth = verdict::count(verdict, frame_len);
    if let Verdict::Drop(reason) = verdict {
        verdict::count_at_interface(reason, ctx.ifindex());
    }
    (verdict, nth)
}

/// The flow that a first packet starts.
#[inline(always)]
fn admit(packet: &Packet) -> Result<Flow, Verdict> {
    // Found just before; gone since, if at all.
    let service = service::find(&packet.key).ok_or(PASS)?;
    if packet.fragment == Fragment::Later {
        // Its flow is over, or it was never that packet's.
        return Err(Verdict::Pass(VerdictCounter::NoFlow));
    }
    forwardable(packet)?;
    if packet.key.proto == PROTOCOL_TCP && !tcp_state::opens(packet.tcp_flags) {
        return Err(Verdict::Pass(VerdictCounter::NoFlow));
    }
    flow::create(packet, service).inspect_err(|_| service::count_refused(service))
}

/// Rewrites a packet of `flow` and sends it on.
#[inline(always)]
fn send<C: Context>(ctx: &C, packet: &Packet, flow: Flow) -> Result<Verdict, Verdict> {
    if packet.fragment == Fragment::First {
        fragment::remember(packet);
    }
    let now_ns = flow.track(packet);
    rewrite::apply(ctx, packet, flow.translation())?;
    route::send(ctx, packet, &flow, now_ns)
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
