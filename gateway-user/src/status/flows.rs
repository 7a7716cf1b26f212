// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Flows of the kernel, filtered and summed up: pure.

use std::{
    collections::BTreeMap,
    fmt,
    fmt::Write,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::Serialize;
use serde_json::Value;

use crate::datapath::{FlowReport, report::EndpointMatch};

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
    /// Flows listed at most; all that match are counted.
    pub limit: usize,
}

/// Flows listed unless a limit is given.
pub const DEFAULT_LIMIT: usize = 100;

/// An address, a prefix or a port: `10.0.0.1`, `10.0.0.0/8`, `10.0.0.1:80`,
/// `[fd00::1]:80`, `80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressMatch {
    /// Address and length of the prefix, bits.
    prefix: Option<(IpAddr, u8)>,
    port: Option<u16>,
}

/// Not an [`AddressMatch`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is none of ADDRESS, ADDRESS/BITS, ADDRESS:PORT and PORT (as 10.0.0.1, 10.0.0.0/8, 10.0.0.1:80, 80)"
)]
pub struct AddressMatchError(String);

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
    }
}

impl AddressMatch {
    /// The address and the port, when it names one endpoint.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        let (ip, bits) = self.prefix?;
        (bits == width(ip)).then_some(SocketAddr::new(ip, self.port?))
    }

    /// Whether `address` is meant.
    pub fn matches(&self, address: SocketAddr) -> bool {
        self.port.is_none_or(|port| port == address.port())
            && self
                .prefix
                .is_none_or(|(prefix, bits)| starts_with(address.ip(), prefix, bits))
    }
}

impl From<AddressMatch> for EndpointMatch {
    fn from(wanted: AddressMatch) -> Self {
        let AddressMatch { prefix, port } = wanted;
        Self { prefix, port }
    }
}

/// Whether the first `bits` of both are the same.
fn starts_with(ip: IpAddr, prefix: IpAddr, bits: u8) -> bool {
    let same = |difference: u128, width: u8| {
        u32::from(width.saturating_sub(bits)) >= u128::BITS - difference.leading_zeros()
    };
    match (ip.to_canonical(), prefix) {
        (IpAddr::V4(ip), IpAddr::V4(prefix)) => {
            same(u128::from(ip.to_bits() ^ prefix.to_bits()), 32)
        }
        (IpAddr::V6(ip), IpAddr::V6(prefix)) => same(ip.to_bits() ^ prefix.to_bits(), 128),
        _ => false,
    }
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

impl FromStr for AddressMatch {
    type Err = AddressMatchError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || AddressMatchError(text.to_owned());
        if let Ok(port) = text.trim_start_matches(':').parse() {
            return Ok(Self {
                prefix: None,
                port: Some(port),
            });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            let ip = address.ip().to_canonical();
            return Ok(Self {
                prefix: Some((ip, width(ip))),
                port: Some(address.port()),
            });
        }
        let (ip, bits) = match text.split_once('/') {
            Some((ip, bits)) => (ip, Some(bits.parse::<u8>().map_err(|_| refuse())?)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| refuse())?;
        let bits = bits.unwrap_or(width(ip));
        if bits > width(ip) {
            return Err(refuse());
        }
        Ok(Self {
            prefix: Some((ip, bits)),
            port: None,
        })
    }
}

impl fmt::Display for AddressMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.prefix, self.port) {
            (Some((ip, _)), Some(port)) => write!(f, "{}", SocketAddr::new(ip, port)),
            (Some((ip, bits)), None) => write!(f, "{ip}/{bits}"),
            (None, Some(port)) => write!(f, "{port}"),
            (None, None) => Ok(()),
        }
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
    if !flows.is_empty() {
        writeln!(
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
    }
    for flow in flows {
        writeln!(
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

    use super::{AddressMatch, FlowFilter, flows_text, list};
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
    fn an_address_a_prefix_or_a_port_is_meant() {
        for (text, meant, not) in [
            ("10.0.0.1", "10.0.0.1:80", "10.0.0.2:80"),
            ("10.0.0.1:80", "10.0.0.1:80", "10.0.0.1:81"),
            ("80", "10.0.0.1:80", "10.0.0.1:8080"),
            (":80", "[fd00::1]:80", "[fd00::1]:81"),
            ("10.0.0.0/8", "10.255.0.1:1", "11.0.0.0:1"),
            ("10.128.0.0/9", "10.128.0.1:1", "10.127.255.255:1"),
            ("0.0.0.0/0", "192.0.2.1:1", "[2001:db8::1]:1"),
            ("fd00::/63", "[fd00:0:0:1::9]:1", "[fd00:0:0:2::9]:1"),
            ("::/0", "[fd00::1]:1", "10.0.0.1:1"),
            ("[fd00::1]:80", "[fd00::1]:80", "[fd00::1]:81"),
        ] {
            let wanted: AddressMatch = text.parse().expect(text);
            assert!(wanted.matches(address(meant)), "{text} means {meant}");
            assert!(!wanted.matches(address(not)), "{text} does not mean {not}");
            let again: AddressMatch = wanted.to_string().parse().expect(text);
            assert_eq!(again, wanted, "{text} is written as {wanted}");
        }
        for text in [
            "",
            ":",
            "a.test",
            "10.0.0.0/33",
            "10.0.0.0/",
            "70000",
            "10.0.0.1:x",
        ] {
            text.parse::<AddressMatch>().expect_err(text);
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
                flow(
                    "192.0.2.2:5000",
                    "10.0.0.1:443",
                    "10.1.0.1:8443",
                    "established",
                ),
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
