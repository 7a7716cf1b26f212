// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The report in the OpenMetrics text format.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Metric, Registry},
};

use super::handoff_metrics;
use crate::{
    datapath::report::{CountReport, InterfaceReport, TrafficReport},
    health::Verdict,
    status::Report,
};

/// Labels of one sample: name and value.
type Labels = Vec<(&'static str, String)>;

/// Encodes `report`. Families are made anew for each scrape, because their
/// values are counted elsewhere: in the workers and in the kernel.
///
/// # Errors
/// When the text cannot be written, which a String does not refuse.
pub(super) fn encode(report: &Report) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("sluice");
    let mut out = Families {
        registry: &mut registry,
    };
    agent(&mut out, report);
    health(&mut out, report);
    kernel(&mut out, report);
    let mut body = String::new();
    text::encode(&mut body, &registry)?;
    Ok(body)
}

pub(super) struct Families<'a> {
    registry: &'a mut Registry,
}

impl Families<'_> {
    /// A counter; `_total` is added to its name.
    pub(super) fn counter(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in samples {
            family.get_or_create(&labels).inc_by(value);
        }
        self.registry.register(name, help, family);
    }

    pub(super) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, i64)>,
    ) {
        let family = Family::<Labels, Gauge>::default();
        for (labels, value) in samples {
            family.get_or_create(&labels).set(value);
        }
        self.registry.register(name, help, family);
    }

    /// One that encodes itself.
    pub(super) fn metric(&mut self, name: &str, help: &str, metric: impl Metric) {
        self.registry.register(name, help, metric);
    }
}

pub(super) fn one<T>(value: T) -> [(Labels, T); 1] {
    [(Vec::new(), value)]
}

fn agent(out: &mut Families<'_>, report: &Report) {
    out.gauge(
        "generation",
        "Snapshot in force",
        one(report.generation as i64),
    );
    out.gauge(
        "ready",
        "Whether a generation is in effect",
        one(i64::from(report.readiness == "ready")),
    );
    out.counter(
        "apply_failures",
        "Failed attempts to bring a snapshot into effect",
        one(report.apply_failures),
    );
    let connections = &report.connections;
    out.gauge(
        "connections_active",
        "Connections in the agent",
        one(connections.active as i64),
    );
    out.counter(
        "connections_opened",
        "Connections accepted by the agent",
        one(connections.opened),
    );
    out.counter(
        "connections_closed",
        "Connections ended, by how they were served and why they ended",
        connections.closed.iter().map(|closed| {
            let labels = vec![
                ("mode", closed.mode.to_owned()),
                ("reason", closed.reason.to_owned()),
            ];
            (labels, closed.count)
        }),
    );
    out.counter(
        "connection_bytes",
        "Bytes of connections in the agent, as seen by the client",
        [("in", connections.bytes_in), ("out", connections.bytes_out)]
            .map(|(direction, bytes)| (vec![("direction", direction.to_owned())], bytes)),
    );
    out.counter(
        "source_addresses",
        "Connections to clusters that want to see the client's address, by whose they saw",
        connections
            .sources
            .iter()
            .map(|(address, count)| (vec![("address", (*address).to_owned())], *count)),
    );
    handoff_metrics::agent(out, connections);
    out.counter(
        "http_responses",
        "Requests answered, by class of status",
        (1..=5)
            .zip(connections.responses)
            .map(|(class, count)| (vec![("class", format!("{class}xx"))], count)),
    );
    out.counter(
        "http_bad_requests",
        "Requests the validator refused",
        one(connections.bad_requests),
    );
    out.counter(
        "http_upstream_requests",
        "Requests by whether their upstream connection was new or reused",
        [
            ("new", connections.upstream_opened),
            ("reused", connections.upstream_reused),
        ]
        .map(|(connection, count)| (vec![("connection", connection.to_owned())], count)),
    );
    out.gauge(
        "certificate_not_after_seconds",
        "End of validity of a certificate, seconds since the Unix epoch",
        report.certificates.iter().map(|one| {
            (
                vec![("certificate", one.certificate.clone())],
                one.not_after_s,
            )
        }),
    );
    let mut findings = BTreeMap::new();
    for finding in &report.diagnostics {
        *findings
            .entry((finding.severity, finding.reason))
            .or_insert(0) += 1;
    }
    out.gauge(
        "diagnostics",
        "Findings of the last load, by severity and reason",
        findings.into_iter().map(|((severity, reason), count)| {
            let severity = match severity {
                crate::diagnostic::Severity::Warning => "warning",
                crate::diagnostic::Severity::Error => "error",
            };
            let labels = vec![
                ("severity", severity.to_owned()),
                ("reason", reason.as_str().to_owned()),
            ];
            (labels, count)
        }),
    );
}

fn health(out: &mut Families<'_>, report: &Report) {
    let health = &report.health;
    out.counter(
        "health_probes",
        "Probes of endpoints, by what was asked and what came of it",
        health.probes.iter().map(|one| {
            let labels = vec![
                ("protocol", one.protocol.to_owned()),
                ("outcome", one.outcome.to_owned()),
            ];
            (labels, one.count)
        }),
    );
    out.counter(
        "health_transitions",
        "Verdicts on endpoints that changed; the first one of each counts",
        [("up", health.went_up), ("down", health.went_down)]
            .map(|(to, count)| (vec![("to", to.to_owned())], count)),
    );
    out.counter(
        "health_probes_late",
        "Probes that began more than one interval late: raise health.max_concurrent",
        one(health.late),
    );
    out.gauge(
        "health_endpoint_up",
        "Whether a probed endpoint is up (1) or down (0); without a verdict it has none",
        health
            .targets
            .iter()
            .filter(|target| target.verdict != Verdict::Unknown)
            .map(|target| {
                let labels = vec![
                    ("endpoint", target.address.to_string()),
                    ("protocol", target.protocol.to_owned()),
                ];
                (labels, i64::from(target.verdict == Verdict::Up))
            }),
    );
    out.gauge(
        "health_panic",
        "Clusters so few of whose endpoints are up that all are used",
        one(report.impaired.iter().filter(|one| one.panic).count() as i64),
    );
}

fn kernel(out: &mut Families<'_>, report: &Report) {
    let Some(kernel) = &report.datapath.report else {
        return;
    };
    let packets = |label: &'static str, counts: &BTreeMap<&'static str, CountReport>| {
        let sample = |(name, count): (&&str, &CountReport)| {
            (vec![(label, (*name).to_owned())], count.packets)
        };
        counts.iter().map(sample).collect::<Vec<_>>()
    };
    out.counter(
        "kernel_packets",
        "Packets the kernel programs saw, by verdict",
        packets("verdict", &kernel.verdicts),
    );
    out.counter(
        "kernel_drops",
        "Packets the kernel programs dropped, by reason",
        packets("reason", &kernel.drops),
    );
    interfaces(out, &kernel.interfaces);
    let services: Vec<_> = kernel
        .services
        .iter()
        .map(|service| {
            (
                vec![("service", service.destination.to_string())],
                service.traffic,
            )
        })
        .collect();
    traffic(out, "service", &services);
    let backends: Vec<_> = kernel
        .backends
        .iter()
        .map(|backend| {
            (
                vec![("backend", backend.address.to_string())],
                backend.traffic,
            )
        })
        .collect();
    traffic(out, "backend", &backends);
    let flows = &kernel.flows;
    handoff_metrics::kernel(out, &flows.handoff);
    out.gauge(
        "flows",
        "Flows the kernel tracks, as the last sweep saw them",
        [
            ("active", flows.last_sweep.active),
            ("closing", flows.last_sweep.closing),
        ]
        .map(|(state, count)| (vec![("state", state.to_owned())], i64::from(count))),
    );
    out.gauge(
        "flows_half_open",
        "Connections in the kernel whose handshake is not over",
        one(i64::from(flows.half_open)),
    );
    out.gauge(
        "flows_endpoint_removed",
        "Flows whose endpoint was removed, and which go on as long as it answers",
        one(i64::from(flows.endpoint_removed)),
    );
    out.counter(
        "flows_reset",
        "Connections the agent has reset on both sides",
        [
            ("endpoint_gone", flows.reset_endpoint_gone),
            ("peer_silent", flows.reset_peer_silent),
        ]
        .map(|(reason, count)| (vec![("reason", reason.to_owned())], count)),
    );
    out.counter(
        "flows_released",
        "Flows given up so that the client's next packet chooses another endpoint",
        [(
            vec![("reason", "endpoint_gone".to_owned())],
            flows.released_endpoint_gone,
        )],
    );
    out.counter(
        "flows_removed",
        "Flows removed from the table, for whatever cause",
        one(flows.removed),
    );
    out.gauge(
        "flow_slots",
        "Flows the kernel can track",
        one(i64::from(flows.capacity)),
    );
}

fn interfaces(out: &mut Families<'_>, interfaces: &[InterfaceReport]) {
    let name = |interface: &InterfaceReport| ("interface", interface.name.clone());
    out.gauge(
        "interface_program_id",
        "The kernel's id of the program on an interface, by how it is attached",
        interfaces.iter().map(|interface| {
            let labels = vec![
                name(interface),
                ("role", interface.role.to_owned()),
                ("mode", interface.mode.to_owned()),
                ("driver", interface.driver.clone().unwrap_or_default()),
            ];
            (labels, i64::from(interface.program_id))
        }),
    );
    out.gauge(
        "interface_other_programs",
        "XDP and tc programs of others on an interface",
        interfaces
            .iter()
            .map(|interface| (vec![name(interface)], interface.others.len() as i64)),
    );
    out.counter(
        "interface_drops",
        "Packets that came in by an interface and were dropped, by reason",
        interfaces.iter().flat_map(|interface| {
            interface.drops.iter().map(|(reason, packets)| {
                let labels = vec![name(interface), ("reason", (*reason).to_owned())];
                (labels, *packets)
            })
        }),
    );
}

/// Name, help and value of one family of traffic.
type TrafficFamily = (&'static str, &'static str, fn(&TrafficReport) -> u64);

/// The families of services and of backends.
fn traffic(out: &mut Families<'_>, what: &str, samples: &[(Labels, TrafficReport)]) {
    let families: [TrafficFamily; 6] = [
        ("flows", "Flows created", |traffic| traffic.flows),
        ("refused", "New flows refused", |traffic| traffic.refused),
        ("packets_in", "Packets towards backends", |traffic| {
            traffic.packets_in
        }),
        ("bytes_in", "Bytes towards backends", |traffic| {
            traffic.bytes_in
        }),
        ("packets_out", "Packets towards clients", |traffic| {
            traffic.packets_out
        }),
        ("bytes_out", "Bytes towards clients", |traffic| {
            traffic.bytes_out
        }),
    ];
    for (name, help, value) in families {
        let samples = samples
            .iter()
            .map(|(labels, traffic)| (labels.clone(), value(traffic)));
        out.counter(&format!("{what}_{name}"), help, samples);
    }
}
