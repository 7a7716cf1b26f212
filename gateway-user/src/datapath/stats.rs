// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads counters and flows out of the maps, for reports.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use gateway_common::{
    addr::Addr16,
    backend::{FORWARD_DNAT, FORWARD_DSR, FORWARD_SNAT},
    counters::{Count, Stats, VerdictCounter},
    drop_reason::DropReason,
    flow::{
        DIR_TO_BACKEND, DIR_TO_CLIENT, FlowSlot, KIND_DNAT, KIND_DSR, KIND_HANDOFF, KIND_SNAT,
        SLOT_ACTIVE, SLOT_CLOSING,
    },
    tcp_state, udp_state,
};

use crate::datapath::{
    DatapathError, FlowReport,
    flows::monotonic_ns,
    labels::Labels,
    maps::Maps,
    plan::State,
    report::{BackendReport, CountReport, ServiceReport, TrafficReport},
};

impl From<Count> for CountReport {
    fn from(count: Count) -> Self {
        let Count { packets, bytes } = count;
        Self { packets, bytes }
    }
}

impl From<Stats> for TrafficReport {
    fn from(stats: Stats) -> Self {
        let Stats {
            flows,
            refused,
            packets_in,
            bytes_in,
            packets_out,
            bytes_out,
        } = stats;
        Self {
            flows,
            refused,
            packets_in,
            bytes_in,
            packets_out,
            bytes_out,
        }
    }
}

/// Packets by verdict.
///
/// # Errors
/// When the map cannot be read.
pub fn verdicts(maps: &Maps) -> Result<BTreeMap<&'static str, CountReport>, DatapathError> {
    let all = VerdictCounter::ALL.into_iter();
    all.map(|(verdict, name)| Ok((name, maps.verdicts(verdict as u32)?.into())))
        .collect()
}

/// Dropped packets by reason.
///
/// # Errors
/// When the map cannot be read.
pub fn drops(maps: &Maps) -> Result<BTreeMap<&'static str, CountReport>, DatapathError> {
    let all = DropReason::ALL.into_iter();
    all.map(|reason| Ok((reason.name(), maps.drops(reason as u32)?.into())))
        .collect()
}

/// Forwarded destinations with their traffic.
///
/// # Errors
/// When the map cannot be read.
pub fn services(maps: &Maps, state: &State) -> Result<Vec<ServiceReport>, DatapathError> {
    let services = state.services.iter().map(|(destination, service)| {
        Ok(ServiceReport {
            destination: *destination,
            id: service.value.service_id,
            ring_size: service.value.ring_size,
            generation: service.value.config_generation,
            traffic: maps.service_stats(service.value.service_id)?.into(),
        })
    });
    services.collect()
}

/// Backends with their traffic.
///
/// # Errors
/// When the map cannot be read.
pub fn backends(maps: &Maps, state: &State) -> Result<Vec<BackendReport>, DatapathError> {
    let backends = state.backends.iter().map(|(id, backend)| {
        Ok(BackendReport {
            id: *id,
            address: socket_addr(backend.addr, backend.port_be),
            forwarding: match backend.forwarding {
                FORWARD_DNAT => "dnat",
                FORWARD_SNAT => "snat",
                FORWARD_DSR => "dsr",
                _ => "unreachable",
            },
            source: matches!(backend.forwarding, FORWARD_SNAT | FORWARD_DSR)
                .then(|| IpAddr::from(backend.snat_addr)),
            traffic: maps.backend_stats(*id)?.into(),
        })
    });
    backends.collect()
}

/// Every flow in use.
pub fn flows(maps: &Maps, labels: &Labels) -> impl Iterator<Item = FlowReport> {
    let now = monotonic_ns();
    (0..maps.slots.len()).filter_map(move |index| {
        let slot = maps.slots.slot(index)?;
        let state = match slot.state() {
            SLOT_ACTIVE => "active",
            SLOT_CLOSING => "closing",
            _ => return None,
        };
        let flow = slot.copy();
        let mut report = self::flow(index, state, &flow, now);
        if flow.kind == KIND_HANDOFF {
            (report.service_id, report.backend_id) = (0, 0);
            report.generation = 0;
            if let Some(names) = labels.names(flow.service_id) {
                report.sni.clone_from(&names.sni);
                report.alpn.clone_from(&names.alpn);
                report.rule.clone_from(&names.rule);
                report.cluster.clone_from(&names.cluster);
            }
        }
        Some(report)
    })
}

fn flow(slot: u32, state: &'static str, flow: &FlowSlot, now: u64) -> FlowReport {
    let to_backend = &flow.dir[DIR_TO_BACKEND as usize];
    let to_client = &flow.dir[DIR_TO_CLIENT as usize];
    let seconds = |since: u64| now.saturating_sub(since) / 1_000_000_000;
    FlowReport {
        slot,
        state,
        tcp_state: state_name(flow.tcp_state),
        protocol: if udp_state::is_udp(flow.tcp_state) {
            "udp"
        } else {
            "tcp"
        },
        kind: match flow.kind {
            KIND_DNAT => "dnat",
            KIND_SNAT => "snat",
            KIND_DSR => "dsr",
            KIND_HANDOFF => "handoff",
            _ => "unknown",
        },
        client: socket_addr(to_client.new_dst, to_client.new_dst_port_be),
        destination: socket_addr(to_client.new_src, to_client.new_src_port_be),
        backend: socket_addr(to_backend.new_dst, to_backend.new_dst_port_be),
        source: socket_addr(to_backend.new_src, to_backend.new_src_port_be),
        sni: None,
        alpn: None,
        rule: None,
        cluster: None,
        service_id: flow.service_id,
        backend_id: flow.backend_id,
        generation: flow.config_generation,
        age_s: seconds(flow.created_ns),
        idle_s: seconds(
            to_backend
                .last_seen_ns
                .max(to_client.last_seen_ns)
                .max(flow.created_ns),
        ),
        packets_in: to_backend.packets,
        bytes_in: to_backend.bytes,
        packets_out: to_client.packets,
        bytes_out: to_client.bytes,
    }
}

/// The word for a state of TCP or UDP.
pub fn state_name(state: u32) -> &'static str {
    match state {
        tcp_state::TCP_SYN_SENT => "syn-sent",
        tcp_state::TCP_SYN_RECEIVED => "syn-received",
        tcp_state::TCP_RESET_UNCONFIRMED => "reset-unconfirmed",
        tcp_state::TCP_ESTABLISHED => "established",
        tcp_state::TCP_FIN_WAIT => "fin-wait",
        tcp_state::TCP_CLOSING => "closing",
        udp_state::UDP_ONE_WAY => "one-way",
        udp_state::UDP_TWO_WAY => "two-way",
        _ => "reset",
    }
}

/// A shared address and port as the standard library has them.
pub fn socket_addr(addr: Addr16, port_be: u16) -> SocketAddr {
    SocketAddr::new(addr.into(), u16::from_be(port_be))
}
