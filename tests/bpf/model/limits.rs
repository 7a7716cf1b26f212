// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Limits of new flows as far as they do not depend on time: how many are half-open,
//! of a service and of the node, how many one source has, and rates of sources that
//! are used up for long or never will be.

use std::{collections::HashMap, net::IpAddr};

use gateway_common::{
    drop_reason::DropReason,
    flow::PROTOCOL_TCP,
    service::ServiceValue,
    settings::Settings,
    tcp_state::{TCP_SYN_RECEIVED, TCP_SYN_SENT},
};

use super::{Model, flow::Slot, parse::Transport, source::Prefix};

/// Flows that are there, as far as anything limits them.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Half-open ones by service.
    pub half_open: HashMap<u32, u32>,
    /// By service and source.
    pub of_source: HashMap<(u32, Prefix), u32>,
}

impl Counts {
    /// Counts a flow that was made just now.
    fn add(&mut self, slot: &mut Slot, is_tcp: bool, source: Option<Prefix>) {
        if is_tcp {
            slot.half_open = true;
            *self.half_open.entry(slot.service_id).or_default() += 1;
        }
        if let Some(source) = source {
            slot.source = Some((slot.service_id, source));
            *self.of_source.entry((slot.service_id, source)).or_default() += 1;
        }
    }

    /// Follows a flow that has come on or has ended.
    pub fn follow(&mut self, slot: &mut Slot, ended: bool) {
        let is_opening = [TCP_SYN_SENT, TCP_SYN_RECEIVED].contains(&slot.progress);
        if slot.half_open && !is_opening {
            slot.half_open = false;
            *self.half_open.get_mut(&slot.service_id).unwrap() -= 1;
        }
        if ended && let Some(source) = slot.source.take() {
            *self.of_source.get_mut(&source).unwrap() -= 1;
        }
    }

    /// Half-open flows of all services.
    pub fn all_half_open(&self) -> u32 {
        self.half_open.values().sum()
    }
}

impl Model {
    /// Whether the service may take one more flow.
    pub fn admits(&self, service: &ServiceValue, transport: &Transport) -> Result<(), DropReason> {
        let source = transport.tuple.src.ip();
        if !self.takes(service, source) {
            return Err(DropReason::SourceDenied);
        }
        let guard = &service.guard;
        let counts = &self.flows.counts;
        let is_full = |limit: u32, count: u32| limit != 0 && count >= limit;
        let of_service = counts.half_open.get(&service.service_id).copied();
        if transport.tuple.protocol == PROTOCOL_TCP
            && (is_full(guard.half_open, of_service.unwrap_or(0))
                || is_full(self.settings.limits.max_half_open, counts.all_half_open()))
        {
            return Err(DropReason::HalfOpenFull);
        }
        let key = (service.service_id, network(&self.settings, source));
        let of_source = counts.of_source.get(&key).copied();
        if is_full(guard.source_flows, of_source.unwrap_or(0)) {
            return Err(DropReason::SourceFlows);
        }
        if guard.source_rate != 0 && self.spent.contains(&key) {
            return Err(DropReason::SourceRate);
        }
        Ok(())
    }

    /// Counts the flow that a packet has made in a slot.
    pub fn count(&mut self, slot: u32, service: &ServiceValue, transport: &Transport) {
        let source = network(&self.settings, transport.tuple.src.ip());
        let is_tcp = transport.tuple.protocol == PROTOCOL_TCP;
        let flows = &mut self.flows;
        flows.counts.add(
            flows.slots.get_mut(&slot).unwrap(),
            is_tcp,
            (service.guard.source_flows != 0).then_some(source),
        );
    }
}

/// What counts as the source of a packet: a prefix, as long as in the settings.
pub fn network(settings: &Settings, source: IpAddr) -> Prefix {
    let mask = &settings.limits.source_mask;
    let ones = |mask: &[u8]| mask.iter().map(|byte| byte.count_ones()).sum::<u32>();
    match source {
        IpAddr::V4(_) => Prefix::of(source, 96 + ones(&mask.v4)),
        IpAddr::V6(_) => Prefix::of(source, ones(&mask.v6)),
    }
}
