// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the datapath tells the operator. Plain data, for admin and status.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::Serialize;

use crate::datapath::{Destination, serves::NotInKernel};

/// What an applied snapshot changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Map operations run.
    pub operations: usize,
    /// Forwarded (address, port) pairs now in the kernel.
    pub services: usize,
    /// Backends now in the kernel.
    pub backends: usize,
    /// (address, port) pairs now steered to the agent.
    pub steered: usize,
    /// Forwarded pairs that the agent proxies instead, and why.
    pub proxied: Vec<Proxied>,
}

/// A forwarded (address, port) the kernel cannot serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Proxied {
    /// The destination clients use. With UDP nobody serves it.
    pub destination: Destination,
    /// Why.
    pub reason: NotInKernel,
}

/// What a round of sweeps through the flow table did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Swept {
    /// Flows in use after it.
    pub active: u32,
    /// Flows that ended and whose addresses are not reused yet.
    pub closing: u32,
    /// Flows removed after both sides closed, or a reset.
    pub closed: u32,
    /// Flows removed because nothing was seen for their timeout.
    pub expired: u32,
    /// Slots taken back from a program that never finished them.
    pub reclaimed: u32,
    /// Flows let go because their endpoint is gone, before any answer: the
    /// client's next packet chooses another.
    pub released: u32,
}

/// What a detach removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Detached {
    /// Links, by their file name.
    pub links: Vec<String>,
    /// Maps, by name.
    pub maps: Vec<String>,
    /// Addresses given back.
    pub vips: Vec<IpAddr>,
}

/// The state of the kernel side.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DatapathReport {
    /// Snapshot generation in force.
    pub generation: u32,
    /// Where programs run.
    pub interfaces: Vec<InterfaceReport>,
    /// Packets and bytes by verdict.
    pub verdicts: BTreeMap<&'static str, CountReport>,
    /// Packets and bytes dropped by reason.
    pub drops: BTreeMap<&'static str, CountReport>,
    /// Forwarded destinations.
    pub services: Vec<ServiceReport>,
    /// Backends by id.
    pub backends: Vec<BackendReport>,
    /// (address, port) pairs steered to the agent.
    pub steered: usize,
    /// Forwarded pairs the agent proxies, and why.
    pub proxied: Vec<Proxied>,
    /// The flow table.
    pub flows: FlowTableReport,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// One interface with a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InterfaceReport {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// `wire` or `pod`.
    pub role: &'static str,
    /// `xdp-native`, `xdp-generic`, `tcx`, or `tc-filter` where there is no tcx.
    pub mode: &'static str,
    /// The driver of the device, where it has one.
    pub driver: Option<String>,
    /// The kernel's id of the program.
    pub program_id: u32,
    /// Why this mode.
    pub reason: String,
    /// Programs of others on it, and when their turn comes.
    pub others: Vec<String>,
    /// Packets that came in by it and were dropped, by reason; reasons without
    /// one are left out.
    pub drops: BTreeMap<&'static str, u64>,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CountReport {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Traffic of a service or a backend since its id was given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrafficReport {
    /// Flows created.
    pub flows: u64,
    /// New flows refused.
    pub refused: u64,
    /// Packets towards backends.
    pub packets_in: u64,
    /// Bytes towards backends.
    pub bytes_in: u64,
    /// Packets towards clients.
    pub packets_out: u64,
    /// Bytes towards clients.
    pub bytes_out: u64,
}

/// One forwarded destination. A service on several addresses is listed once
/// for each, with the same id and the same traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceReport {
    /// The destination clients use.
    pub destination: Destination,
    /// Index of its statistics.
    pub id: u32,
    /// Slots of its ring; 0 refuses new flows.
    pub ring_size: u32,
    /// Snapshot generation that wrote it.
    pub generation: u32,
    /// Its traffic.
    pub traffic: TrafficReport,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendReport {
    /// Its id.
    pub id: u32,
    /// Where.
    pub address: SocketAddr,
    /// `dnat`, `snat`, `dsr`, or `unreachable` while there is no route to it.
    pub forwarding: &'static str,
    /// Source address with `snat`, the outer one with `dsr`.
    pub source: Option<IpAddr>,
    /// Its traffic.
    pub traffic: TrafficReport,
}

/// The flow table as the last whole round of sweeps saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FlowTableReport {
    /// Slots.
    pub capacity: u32,
    /// The last whole round.
    pub last_sweep: Swept,
    /// Connections whose handshake is not over, now.
    pub half_open: u32,
    /// Flows that were connections of an agent.
    pub handoff: HandoffReport,
    /// Flows removed since start, for whatever cause.
    pub removed: u64,
    /// Connections reset on both sides since start, because their endpoint was
    /// removed and did not answer any more.
    pub reset_endpoint_gone: u64,
    /// Handed-off connections reset on both sides since start, because one of
    /// them did not answer any more.
    pub reset_peer_silent: u64,
    /// Flows let go since start, because their endpoint was removed before it
    /// had answered, or answers no more (UDP).
    pub released_endpoint_gone: u64,
    /// Flows whose endpoint was removed, and which go on as long as it answers.
    pub endpoint_removed: u32,
}

/// Connections that agents have handed to the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HandoffReport {
    /// Open ones, as the last whole round of sweeps saw them.
    pub active: u32,
    /// Packets that waited while their connection was handed off, since the
    /// programs were first loaded; those that did not wait long enough are dropped
    /// as `handoff_hold`.
    pub parked: u64,
    /// Those that this agent found ended, by how.
    pub ended: BTreeMap<&'static str, u64>,
    /// Bytes from clients and to them, by server name: of those that ended while
    /// this agent ran, and of those that were open, all of theirs. The names met
    /// later than a thousand others are `other`.
    pub bytes: BTreeMap<String, [u64; 2]>,
    /// Different labels of those there are.
    pub labels: u32,
    /// Connections since start whose label was left out, all of it or its server
    /// name, because there were too many.
    pub labels_refused: u64,
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowReport {
    /// Its slot.
    pub slot: u32,
    /// `active` or `closing`.
    pub state: &'static str,
    /// `syn-sent`, `syn-received`, `established`, `fin-wait`, `closing`,
    /// `reset` or `reset-unconfirmed`; with UDP `one-way` or `two-way`.
    pub tcp_state: &'static str,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// `dnat`, `snat`, `dsr` or `handoff`.
    pub kind: &'static str,
    /// The client as it is seen.
    pub client: SocketAddr,
    /// What the client connects to.
    pub destination: SocketAddr,
    /// Where it was sent.
    pub backend: SocketAddr,
    /// The source the backend sees; with `dsr` that of the outer packet.
    pub source: SocketAddr,
    /// With `handoff`: server name of its ClientHello,
    pub sni: Option<String>,
    /// first protocol the client offered,
    pub alpn: Option<String>,
    /// `file:line` of the rule,
    pub rule: Option<String>,
    /// and the cluster.
    pub cluster: Option<String>,
    /// Index of the service; 0 with `handoff`.
    pub service_id: u32,
    /// Index of the backend; 0 with `handoff`.
    pub backend_id: u32,
    /// Snapshot generation that created it; 0 with `handoff`.
    pub generation: u32,
    /// Seconds since creation; with `handoff` since the agent accepted it.
    pub age_s: u64,
    /// Seconds since the last packet.
    pub idle_s: u64,
    /// Packets from the client.
    pub packets_in: u64,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Packets to the client.
    pub packets_out: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
}

/// A packet to follow: the first of a connection or session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceQuery {
    /// Its source.
    pub from: SocketAddr,
    /// Its destination.
    pub to: Destination,
    /// The interface that it comes in by; else the one that leads back to its
    /// source.
    pub interface: Option<String>,
}

/// What would happen to the first packet of a connection, step by step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceReport {
    /// Where it comes from.
    pub from: SocketAddr,
    /// What it is sent to.
    pub to: Destination,
    /// How its way through the programs ends, in the words of the counters:
    /// `forwarded`, `steered`, `passed`, `dropped` …
    pub verdict: &'static str,
    /// Why it is dropped, in the words of the counters.
    pub reason: Option<&'static str>,
    /// Whether it reaches a backend, the agent or a socket of this node.
    pub delivered: bool,
    /// The backend.
    pub backend: Option<SocketAddr>,
    /// The source that the backend sees.
    pub source: Option<SocketAddr>,
    /// One line a finding, in the order of the programs.
    pub steps: Vec<TraceStep>,
}

/// A finding of one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceStep {
    /// What was looked at: `interface`, `flow`, `service` …
    pub step: &'static str,
    /// Whether something is missing.
    pub missing: bool,
    /// What was found, and what to do if something is missing.
    pub text: String,
}

/// Which decisions a watcher wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchFilter {
    /// Where packets come from.
    pub from: EndpointMatch,
    /// What they are sent to, as they come in.
    pub to: EndpointMatch,
    /// Only packets that are dropped.
    pub drops_only: bool,
    /// Later packets of flows too, not only first ones.
    pub known_flows: bool,
    /// Decisions a second that one processor tells at most.
    pub per_second: u32,
}

/// Endpoints; what is absent matches all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointMatch {
    /// Address, canonical, and length of the prefix, bits.
    pub prefix: Option<(IpAddr, u8)>,
    /// Port.
    pub port: Option<u16>,
}

/// What became of one packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DecisionReport {
    /// How long ago, nanoseconds; the clock goes in steps of some milliseconds.
    pub age_ns: u64,
    /// The interface it came in by.
    pub interface: String,
    /// `tcp`, `udp` or `icmp`.
    pub protocol: &'static str,
    /// Source as it came in.
    pub from: SocketAddr,
    /// Destination as it came in.
    pub to: SocketAddr,
    /// `new`: the first of its flow; `known`: a later one; `none`: without a
    /// flow, or not sent on.
    pub packet: &'static str,
    /// In the words of the counters: `forwarded`, `dropped` …
    pub verdict: &'static str,
    /// Why it was dropped.
    pub reason: Option<&'static str>,
    /// What the client connects to.
    pub service: SocketAddr,
    /// The backend.
    pub backend: Option<SocketAddr>,
    /// The source that the backend sees.
    pub source: Option<SocketAddr>,
    /// The client, of an answer.
    pub client: Option<SocketAddr>,
    /// Bytes of the IP packet.
    pub bytes: u32,
}
