// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! What a new flow of a guarded service, or under pressure, has to pass. Known
//! flows never come here.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use gateway_common::{
    counters::VerdictCounter,
    drop_reason::DropReason,
    flow::PROTOCOL_TCP,
    guard::{HALF_OPEN_NODE, SYN_COOKIES_ALWAYS, SYN_COOKIES_OFF, VERIFIED_NS, half_open_index},
    service::ServiceValue,
    settings::Settings,
    tcp_state::{self, FLAG_RST, FLAG_SYN},
};

use crate::{
    acl,
    context::Context,
    flow::counted,
    forward::forwardable,
    limit,
    maps::{NEW_FLOWS, SETTINGS, VERIFIED},
    packet::Packet,
    service, syn_cookie,
    verdict::Verdict,
};

/// Whether a packet without a flow has anything to pass here.
#[inline(always)]
pub fn is_needed(service: &ServiceValue) -> bool {
    service.guard.is_on != 0
        || SETTINGS.get(0).is_some_and(|settings| {
            let limits = &settings.limits;
            limits.new_flow_rate != 0
                || limits.max_half_open != 0
                    && counted::half_open(HALF_OPEN_NODE) >= limits.max_half_open
        })
}

/// Judges a packet without a flow. What opens none is left to the next program,
/// but for resets that answer a challenge.
#[inline(always)]
pub fn check<C: Context>(ctx: &C, packet: &Packet, service: &ServiceValue) -> Result<(), Verdict> {
    let is_tcp = packet.key.proto == PROTOCOL_TCP;
    if packet.is_later() {
        return Ok(());
    }
    if is_tcp && !tcp_state::opens(packet.tcp_flags) {
        return answered(ctx, packet, service);
    }
    forwardable(packet)?;
    let settings = SETTINGS
        .get(0)
        .ok_or(Verdict::Drop(DropReason::BadMapEntry))?;
    // A token is taken last: what is refused for another reason costs none.
    let judged = acl::check(packet, service)
        .and_then(|()| pressure(ctx, packet, service, settings))
        .and_then(|()| limit::flows(packet, service, settings))
        .and_then(|()| limit::rate(packet, service, settings))
        .and_then(|()| limit::count(packet, service, settings));
    if let Err(Verdict::Drop(_)) = judged {
        service::count_refused(service);
    }
    judged
}

/// A reset that has the number of a challenge tells that its source is there.
#[inline(always)]
fn answered<C: Context>(ctx: &C, packet: &Packet, service: &ServiceValue) -> Result<(), Verdict> {
    if packet.tcp_flags & (FLAG_SYN | FLAG_RST) != FLAG_RST
        || packet.defect.is_some()
        || service.guard.syn_cookies == SYN_COOKIES_OFF
        || !syn_cookie::is_answer(ctx, packet)
    {
        return Ok(());
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // Should the map refuse, the source is challenged again.
    let _ = VERIFIED.insert(&packet.key.src, now, 0);
    Err(Verdict::Noted(VerdictCounter::Verified))
}

/// Under pressure a source has to show that it is there; where it cannot, as with
/// UDP, the flow is refused. Nobody is let in beyond twice the half-open flows
/// that make the pressure: there are real sources that attack.
#[inline(always)]
fn pressure<C: Context>(
    ctx: &C,
    packet: &Packet,
    service: &ServiceValue,
    settings: &Settings,
) -> Result<(), Verdict> {
    let is_tcp = packet.key.proto == PROTOCOL_TCP;
    let syn_cookies = service.guard.syn_cookies;
    let full = if is_tcp {
        fullness(service, settings)
    } else {
        Fullness::Below
    };
    let reason = if full != Fullness::Below {
        DropReason::HalfOpenFull
    } else if is_flood(settings) {
        DropReason::NewFlowFlood
    } else if is_tcp && syn_cookies == SYN_COOKIES_ALWAYS {
        // In case there are no cookies.
        DropReason::HalfOpenFull
    } else {
        return Ok(());
    };
    if !is_tcp || syn_cookies == SYN_COOKIES_OFF || full == Fullness::Twice {
        return Err(Verdict::Drop(reason));
    }
    if is_verified(packet) {
        return Ok(());
    }
    Err(syn_cookie::challenge(ctx, packet, reason)?)
}

/// Half-open flows, beside their limit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fullness {
    Below,
    Reached,
    Twice,
}

/// Those of the service and of the node, whichever are more.
#[inline(always)]
fn fullness(service: &ServiceValue, settings: &Settings) -> Fullness {
    let mut worst = Fullness::Below;
    for (limit, index) in [
        (service.guard.half_open, half_open_index(service.service_id)),
        (settings.limits.max_half_open, HALF_OPEN_NODE),
    ] {
        if limit == 0 {
            continue;
        }
        let count = u64::from(counted::half_open(index));
        if count >= 2 * u64::from(limit) {
            return Fullness::Twice;
        }
        if count >= u64::from(limit) {
            worst = Fullness::Reached;
        }
    }
    worst
}

/// Whether the source has answered a challenge lately.
#[inline(always)]
fn is_verified(packet: &Packet) -> bool {
    // SAFETY: copied at once. An element that is reused meanwhile says when
    // another source answered: this one is then let in without an answer, once.
    let since = unsafe { VERIFIED.get(&packet.key.src) }.copied();
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    since.is_some_and(|since| now.wrapping_sub(since) < VERIFIED_NS)
}

/// Takes a token of the node; whether there was none.
#[inline(always)]
fn is_flood(settings: &Settings) -> bool {
    let limits = &settings.limits;
    if limits.new_flow_rate == 0 {
        return false;
    }
    NEW_FLOWS
        .get_ptr_mut(0)
        .is_some_and(|bucket| !limit::take(bucket, limits.new_flow_rate, limits.new_flow_burst))
}
