// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! The way of a packet through the forwarding steps, at XDP and at tc alike.

use core::mem::offset_of;

use aya_ebpf::programs::TcContext;
use gateway_common::{
    counters::VerdictCounter,
    drop_reason::DropReason,
    flow::{KIND_DSR, KIND_HANDOFF, PROTOCOL_TCP},
    names::{
        CALL_AGAIN, CALL_ANSWER, CALL_ENCAP, CALL_GUARD, CALL_HANDOFF, CALL_ICMP, CALL_NEW_FLOW,
    },
    next_hop::NextHop,
    tcp_state,
};

use crate::{
    acl, answer,
    context::Context,
    encap,
    flow::{self, Flow},
    fragment::{self, Fragment},
    guard, handoff, icmp, log,
    maps::SETTINGS,
    options,
    packet::{ETHERNET_LEN, Ipv4, Packet},
    parse::{self, PASS},
    reply, rewrite, route, service,
    verdict::{self, Verdict},
    watch,
    word::load_u16,
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
            if flow.kind() == KIND_HANDOFF {
                ctx.continue_with(CALL_HANDOFF);
                // Nobody knows the other connection's numbers.
                return Err(Verdict::Drop(DropReason::HelperFailed));
            }
            forwardable(packet)?;
            if !flow.ended_before(packet) {
                return send(ctx, packet, flow);
            }
        }
        let Some(service) = service::find(&packet.key) else {
            reply::look(ctx, packet);
            return Err(PASS);
        };
        ctx.continue_with(if guard::is_needed(service) {
            CALL_GUARD
        } else {
            CALL_NEW_FLOW
        });
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
        let admitted = admit(packet);
        flow::counted::give_back();
        admitted?;
        // There is no room here for what all packets go through. The first
        // program finds the flow now; should it be gone, the kernel bounds how
        // often this can go on.
        ctx.continue_with(CALL_AGAIN);
        Err(Verdict::Drop(DropReason::HelperFailed))
    });
    // Here alone: a call takes of the stack even where it calls nothing.
    if let Verdict::Drop(reason) = verdict {
        log::exhausted(reason, nth);
    }
    watch::end(ctx, verdict);
    ctx.action(verdict)
}

/// Handles a frame to a guarded service that [`packet`] found no flow for.
#[inline(always)]
pub fn guard<C: Context>(ctx: &C) -> C::Action {
    handle(ctx, |packet| {
        let service = service::find(&packet.key).ok_or(PASS)?;
        guard::check(ctx, packet, service)?;
        ctx.continue_with(CALL_NEW_FLOW);
        flow::counted::give_back();
        Err(Verdict::Drop(DropReason::HelperFailed))
    })
}

/// Handles a frame of a flow that is wrapped.
#[inline(always)]
pub fn encap<C: Context>(ctx: &C) -> C::Action {
    handle(ctx, |packet| encap::handle(ctx, packet))
}

/// Handles a frame of a connection that [`packet`] found to be handed off, or
/// about to be.
#[inline(always)]
pub fn handoff<C: Context>(ctx: &C) -> C::Action {
    let options_done = options::are_done();
    handle(ctx, |packet| handoff::handle(ctx, packet, options_done))
}

/// Handles a frame that may be a reply to a connection of the agent that has its
/// client's address.
#[inline(always)]
pub fn reply(ctx: &TcContext) -> i32 {
    handle(ctx, |packet| reply::handle(ctx, packet))
}

/// Translates the options of a packet of such a connection; [`handoff`] goes on.
#[inline(always)]
pub fn options<C: Context>(ctx: &C) -> C::Action {
    let (Ok(verdict) | Err(verdict)) = options::handle(ctx);
    verdict::count(verdict, ctx.frame_len());
    watch::end(ctx, verdict);
    ctx.action(verdict)
}

/// Parses a frame and takes it through `steps`; counts how its way ended.
#[inline(always)]
fn handle<C: Context>(
    ctx: &C,
    steps: impl FnOnce(&mut Packet) -> Result<Verdict, Verdict>,
) -> C::Action {
    let (verdict, _) = judge(ctx, steps);
    watch::end(ctx, verdict);
    ctx.action(verdict)
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
    if let Verdict::Drop(reason) | Verdict::Answered(reason, _) = verdict {
        verdict::count_at_interface(reason, ctx.ifindex());
    }
    (verdict, nth)
}

/// Creates the flow that a first packet starts.
#[inline(always)]
fn admit(packet: &Packet) -> Result<(), Verdict> {
    // Found just before; gone since, if at all.
    let service = service::find(&packet.key).ok_or(PASS)?;
    if packet.fragment == Fragment::Later {
        // Its flow is over, or it was never that packet's.
        return Err(Verdict::Pass(VerdictCounter::NoFlow));
    }
    forwardable(packet)?;
    let adopted = packet.key.proto == PROTOCOL_TCP && !tcp_state::opens(packet.tcp_flags);
    if adopted && !may_adopt(packet) {
        return Err(Verdict::Pass(VerdictCounter::NoFlow));
    }
    // Also of one that another node let in: its tuple would be open to anything.
    let created = acl::check(packet, service).and_then(|()| flow::create(packet, service, adopted));
    match created {
        // Its backend does not tell from what the packet says.
        Err(Verdict::Pass(_)) => {}
        Err(_) => service::count_refused(service),
        Ok(()) if adopted => verdict::note(VerdictCounter::FlowAdopted, packet.ip_len),
        Ok(()) => {}
    }
    created
}

/// Whether a packet without a flow may be one of a connection that came by
/// another node so far. The ring is the same there.
#[inline(always)]
fn may_adopt(packet: &Packet) -> bool {
    packet.tcp_flags & (tcp_state::FLAG_SYN | tcp_state::FLAG_RST) == 0
        && SETTINGS
            .get(0)
            .is_some_and(|settings| settings.adopts_flows != 0)
}

/// Rewrites a packet of `flow` and sends it on.
#[inline(always)]
fn send<C: Context>(ctx: &C, packet: &Packet, flow: Flow) -> Result<Verdict, Verdict> {
    if flow.kind() == KIND_DSR {
        ctx.continue_with(CALL_ENCAP);
        return Err(Verdict::Drop(DropReason::HelperFailed));
    }
    if packet.fragment == Fragment::First {
        fragment::remember(packet);
    }
    let now_ns = flow.track(ctx, packet);
    let to = flow.translation();
    let header = route::Header::of(packet, to);
    let hop = route::next_hop(ctx, packet, &flow, &header, now_ns);
    let hop = or_answer(ctx, packet, hop, true)?;
    rewrite::apply(ctx, packet, to, 0)?;
    let hop = hop?;
    Ok(watch::sent(ctx.send(hop)?, packet, &flow, hop))
}

/// What of `hop` concerns the packet once it is rewritten: the next hop, or why
/// the stack gets it. One that is too long is fragmented by the stack if its
/// sender allows it, else answered; the answer quotes it as it still is. An error
/// is not `may_be_answered` (RFC 1122 section 3.2.2).
#[inline(always)]
pub fn or_answer<'a, C: Context>(
    ctx: &C,
    packet: &Packet,
    hop: Result<&'a NextHop, Verdict>,
    may_be_answered: bool,
) -> Result<Result<&'a NextHop, Verdict>, Verdict> {
    match hop {
        Err(Verdict::Drop(DropReason::PacketTooBig)) => {
            if may_be_fragmented(ctx, packet) {
                return Ok(Err(Verdict::Pass(VerdictCounter::Fragmented)));
            }
            if may_be_answered {
                ctx.continue_with(CALL_ANSWER);
            }
            Err(Verdict::Drop(DropReason::PacketTooBig))
        }
        Err(verdict @ Verdict::Drop(_)) => Err(verdict),
        other => Ok(other),
    }
}

/// Whether its sender lets routers fragment the packet: IPv4 without "do not
/// fragment".
#[inline(always)]
fn may_be_fragmented<C: Context>(ctx: &C, packet: &Packet) -> bool {
    const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();
    if packet.is_v6 {
        return false;
    }
    ctx.header::<Ipv4>(ETHERNET_LEN).is_some_and(|ip| {
        // SAFETY: `header` has compared its end with the end of the data.
        let flags = unsafe { load_u16::<{ offset_of!(Ipv4, fragment_be) }>(ip) };
        flags & DONT_FRAGMENT == 0
    })
}

/// Answers a packet with an error, or passes one on that answers one of ours.
#[inline(always)]
pub fn answer<C: Context>(ctx: &C) -> C::Action {
    handle(ctx, |packet| answer::handle(ctx, packet))
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
