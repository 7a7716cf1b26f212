// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! What a new flow of a guarded service has to pass. Known flows never come here.

use gateway_common::{
    drop_reason::DropReason,
    flow::PROTOCOL_TCP,
    guard::{HALF_OPEN_NODE, half_open_index},
    service::ServiceValue,
    settings::Settings,
    tcp_state,
};

use crate::{
    acl, flow::counted, forward::forwardable, limit, maps::SETTINGS, packet::Packet, service,
    verdict::Verdict,
};

/// Judges a packet without a flow. What opens none is left to the next program.
#[inline(always)]
pub fn check(packet: &Packet, service: &ServiceValue) -> Result<(), Verdict> {
    let is_tcp = packet.key.proto == PROTOCOL_TCP;
    if packet.is_later() || is_tcp && !tcp_state::opens(packet.tcp_flags) {
        return Ok(());
    }
    forwardable(packet)?;
    let settings = SETTINGS
        .get(0)
        .ok_or(Verdict::Drop(DropReason::BadMapEntry))?;
    // A token is taken last: what is refused for another reason costs none.
    let judged = acl::check(packet, service)
        .and_then(|()| half_open(is_tcp, service, settings))
        .and_then(|()| limit::flows(packet, service, settings))
        .and_then(|()| limit::rate(packet, service, settings))
        .and_then(|()| limit::count(packet, service, settings));
    if judged.is_err() {
        service::count_refused(service);
    }
    judged
}

/// Refuses a connection while the service or the node has as many half-open ones
/// as it may.
#[inline(always)]
fn half_open(is_tcp: bool, service: &ServiceValue, settings: &Settings) -> Result<(), Verdict> {
    let reached = |limit: u32, index: u32| limit != 0 && counted::half_open(index) >= limit;
    if is_tcp
        && (reached(service.guard.half_open, half_open_index(service.service_id))
            || reached(settings.limits.max_half_open, HALF_OPEN_NODE))
    {
        return Err(Verdict::Drop(DropReason::HalfOpenFull));
    }
    Ok(())
}
