// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Flows of the kernel, filtered and summed up: pure.

use std::{collections::BTreeMap, fmt, fmt::Write};

use serde::Serialize;
use serde_json::Value;

use crate::{
    datapath::FlowReport,
    status::matching::{AddressMatch, NameMatch},
};

/// Which flows are wanted; what is absent matches all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowFilter {
    /// Of what the client connects to.
    pub service: Option<AddressMatch>,
    /// Of the client.
    pub client: Option<AddressMatch>,
    /// Of where it was sent.
    pub backend: Option<AddressMatch>,
    /// State of the slot or of the protocol, such as `closing` or
    /// `established`.
    pub state: Option<String>,
    /// Of the client's ClientHello; known of handed-off connections.
    pub sni: Option<NameMatch>,
    /// `dnat`, `snat`, `dsr` or `handoff`.
    pub kind: Option<String>,
    /// Flows listed at most; all that match are counted.
    pub limit: usize,
}

/// Flows listed unless a limit is given.
pub const DEFAULT_LIMIT: usize = 100;

/// The body of `/flows`.
#[derive(Debug, Default, Serialize)]
pub struct FlowList {
    /// As many as the limit allows, by slot.
    pub flows: Vec<FlowReport>,
    /// Of all that match, listed or not.
    pub summary: FlowSummary,
}

/// Flows in sum.
#[derive(Debug, Default, Serialize)]
pub struct FlowSummary {
    /// In the table.
    pub tracked: u64,
    /// Of them match the filter.
    pub matching: u64,
    /// Of them are listed.
    pub listed: u64,
    /// Matching ones by their protocol's state.
    pub states: BTreeMap<&'static str, u64>,
    /// Packets from clients, of matching ones.
    pub packets_in: u64,
    /// Bytes from clients, of matching ones.
    pub bytes_in: u64,
    /// Packets to clients, of matching ones.
    pub packets_out: u64,
    /// Bytes to clients, of matching ones.
    pub bytes_out: u64,
}

impl Default for FlowFilter {
    fn default() -> Self {
        Self {
            service: None,
            client: None,
            backend: None,
            state: None,
            sni: None,
            kind: None,
            limit: DEFAULT_LIMIT,
        }
    }
}

impl FlowFilter {
    /// Whether a flow is wanted.
    pub fn matches(&self, flow: &FlowReport) -> bool {
        let Self {
            service,
            client,
            backend,
            state,
            sni,
            kind,
            limit: _,
        } = self;
        let fits = |wanted: &Option<AddressMatch>, address| {
            wanted.is_none_or(|wanted| wanted.matches(address))
        };
        fits(service, flow.destination)
            && fits(client, flow.client)
            && fits(backend, flow.backend)
            && state
                .as_ref()
                .is_none_or(|state| state == flow.state || state == flow.tcp_state)
            && kind.as_ref().is_none_or(|kind| kind == flow.kind)
            && sni
                .as_ref()
                .is_none_or(|wanted| flow.sni.as_ref().is_some_and(|name| wanted.matches(name)))
    }
}

/// Counts all flows that match, and keeps as many as the limit allows.
pub fn list(flows: impl Iterator<Item = FlowReport>, filter: &FlowFilter) -> FlowList {
    let mut found = FlowList::default();
    for flow in flows {
        let summary = &mut found.summary;
        summary.tracked += 1;
        if !filter.matches(&flow) {
            continue;
        }
        summary.matching += 1;
        *summary.states.entry(flow.tcp_state).or_default() += 1;
        summary.packets_in += flow.packets_in;
        summary.bytes_in += flow.bytes_in;
        summary.packets_out += flow.packets_out;
        summary.bytes_out += flow.bytes_out;
        if found.flows.len() < filter.limit {
            summary.listed += 1;
            found.flows.push(flow);
        }
    }
    found
}

/// Renders the JSON of a [`FlowList`] as `sluice flows` prints it.
pub fn flows_text(list: &Value) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_text(&mut out, list);
    out
}

fn write_text(out: &mut String, list: &Value) -> fmt::Result {
    let word = super::text::word;
    let flows = list["flows"].as_array().map_or(&[][..], Vec::as_slice);
    let named = flows
        .iter()
        .any(|flow| !flow["sni"].is_null() || !flow["rule"].is_null());
    if !flows.is_empty() {
        write!(
            out,
            "{:<21}  {:<21}  {:<21}  {:<5}  {:<12}  {:<7}  {:>7}  {:>6}  {:>12}  {:>12}",
            "client",
            "service",
            "backend",
            "proto",
            "state",
            "kind",
            "age s",
            "idle s",
            "bytes in",
            "bytes out"
        )?;
        if named {
            write!(out, "  {:<32}  route", "sni")?;
        }
        writeln!(out)?;
    }
    for flow in flows {
        write!(
            out,
            "{:<21}  {:<21}  {:<21}  {:<5}  {:<12}  {:<7}  {:>7}  {:>6}  {:>12}  {:>12}",
            word(&flow["client"]),
            word(&flow["destination"]),
            word(&flow["backend"]),
            word(&flow["protocol"]),
            word(&flow["tcp_state"]),
            word(&flow["kind"]),
            word(&flow["age_s"]),
            word(&flow["idle_s"]),
            word(&flow["bytes_in"]),
            word(&flow["bytes_out"])
        )?;
        if named {
            write!(out, "  {:<32}  {}", word(&flow["sni"]), word(&flow["rule"]))?;
        }
        writeln!(out)?;
    }
    let summary = &list["summary"];
    write!(
        out,
        "{} of {} flows match, {} listed",
        word(&summary["matching"]),
        word(&summary["tracked"]),
        word(&summary["listed"])
    )?;
    let states: Vec<String> = summary["states"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(state, count)| format!("{state} {}", word(count)))
        .collect();
    if !states.is_empty() {
        write!(out, "; {}", states.join(", "))?;
    }
    writeln!(
        out,
        "; in {} packets {} bytes, out {} packets {} bytes",
        word(&summary["packets_in"]),
        word(&summary["bytes_in"]),
        word(&summary["packets_out"]),
        word(&summary["bytes_out"])
    )
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{FlowFilter, flows_text, list};
    use crate::datapath::FlowReport;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn flow(client: &str, destination: &str, backend: &str, tcp_state: &'static str) -> FlowReport {
        FlowReport {
            slot: 0,
            state: if tcp_state == "closing" {
                "closing"
            } else {
                "active"
            },
            tcp_state,
            protocol: "tcp",
            kind: "dnat",
            client: address(client),
            destination: address(destination),
            backend: address(backend),
            source: address(client),
            sni: None,
            alpn: None,
            rule: None,
            cluster: None,
            service_id: 0,
            backend_id: 1,
            generation: 1,
            age_s: 5,
            idle_s: 1,
            packets_in: 1,
            bytes_in: 10,
            packets_out: 2,
            bytes_out: 20,
        }
    }

    #[test]
    fn all_that_match_are_counted_and_as_many_as_wanted_listed() {
        let flows = || {
            [
                flow(
                    "192.0.2.1:5000",
                    "10.0.0.1:80",
                    "10.1.0.1:8080",
                    "established",
                ),
                flow("192.0.2.1:5001", "10.0.0.1:80", "10.1.0.2:8080", "closing"),
                FlowReport {
                    kind: "handoff",
                    sni: Some("a.example.com".into()),
                    rule: Some("a.yaml:7".into()),
                    ..flow(
                        "192.0.2.2:5000",
                        "10.0.0.1:443",
                        "10.1.0.1:8443",
                        "established",
                    )
                },
            ]
            .into_iter()
        };
        let counted = |filter: FlowFilter| {
            let found = list(flows(), &filter);
            assert_eq!(found.summary.tracked, 3);
            assert_eq!(found.summary.bytes_out, 20 * found.summary.matching);
            (found.summary.matching, found.flows.len())
        };
        let all = FlowFilter::default();
        let only = |text: &str| Some(text.parse().expect(text));
        assert_eq!(counted(all.clone()), (3, 3));
        let limit = |limit| FlowFilter {
            limit,
            ..FlowFilter::default()
        };
        assert_eq!(counted(limit(1)), (3, 1));
        assert_eq!(counted(limit(0)), (3, 0));
        for (filter, matching) in [
            (
                FlowFilter {
                    service: only("10.0.0.1:80"),
                    ..all.clone()
                },
                2,
            ),
            (
                FlowFilter {
                    client: only("192.0.2.2"),
                    ..all.clone()
                },
                1,
            ),
            (
                FlowFilter {
                    backend: only("10.1.0.1"),
                    ..all.clone()
                },
                2,
            ),
            (
                FlowFilter {
                    state: Some("established".into()),
                    ..all.clone()
                },
                2,
            ),
            (
                FlowFilter {
                    state: Some("active".into()),
                    ..all.clone()
                },
                2,
            ),
            (
                FlowFilter {
                    kind: Some("handoff".into()),
                    ..all.clone()
                },
                1,
            ),
            (
                FlowFilter {
                    sni: Some("*.example.com".parse().expect("a suffix")),
                    ..all.clone()
                },
                1,
            ),
            (
                FlowFilter {
                    client: only("192.0.2.1"),
                    backend: only("8443"),
                    ..all.clone()
                },
                0,
            ),
        ] {
            assert_eq!(counted(filter.clone()).0, matching, "{filter:?}");
        }

        let json = serde_json::to_value(list(flows(), &limit(1))).expect("JSON");
        let text = flows_text(&json);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].starts_with("192.0.2.1:5000 "), "{text}");
        assert_eq!(
            lines[2],
            "3 of 3 flows match, 1 listed; closing 1, established 2; in 3 packets 30 bytes, out 6 packets 60 bytes"
        );
    }
}
