// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A connection that the agent relays, in the words that the flow table keeps of
//! it; with and without eBPF.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// The four addresses of a relayed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client,
    pub client: SocketAddr,
    /// where it called,
    pub destination: SocketAddr,
    /// the agent's end towards the backend,
    pub source: SocketAddr,
    /// and the backend.
    pub backend: SocketAddr,
}

/// How a relayed connection came to its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RelayMode {
    /// By its server name.
    Passthrough,
    /// By its port.
    Forward,
}

/// What an operator knows a connection by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionNames {
    /// How it came to its backend.
    pub mode: RelayMode,
    /// Server name of its ClientHello.
    pub sni: Option<String>,
    /// First protocol it offered.
    pub alpn: Option<String>,
    /// `file:line` of the rule.
    pub rule: Option<String>,
    /// The cluster.
    pub cluster: Option<String>,
}

/// What the flow table is told of a connection.
#[derive(Clone, Debug)]
pub struct Relayed {
    /// Its addresses.
    pub ends: Ends,
    /// Its names.
    pub names: ConnectionNames,
    /// When it was accepted.
    pub accepted: Instant,
    /// How long it may be idle once it is the kernel's, seconds; 0 takes the
    /// default.
    pub timeout_s: u32,
}

/// What was relayed, from the client and to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes, without headers.
    pub bytes: [u64; 2],
    /// Segments of the client's socket.
    pub packets: [u64; 2],
}

/// What the programs have let through to one of the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// TCP flags, or-ed, and `SEEN_TIMESTAMP`; ACK once there was a packet.
    pub flags: u32,
    /// The highest number that follows a segment.
    pub seq_end: u32,
    /// The last timestamp.
    pub timestamp: u32,
}

/// A handed-off connection that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedFlow {
    /// The client.
    pub client: SocketAddr,
    /// Where it called.
    pub destination: SocketAddr,
    /// The backend.
    pub backend: SocketAddr,
    /// The backend saw the client's address.
    pub keeps_client: bool,
    /// Its names, where they are known.
    pub names: Option<Arc<ConnectionNames>>,
    /// Bytes from the client: relayed ones, and those of packets from then on.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// From accept to the last packet.
    pub duration: Duration,
    /// How.
    pub end: FlowEnd,
}

/// How a handed-off connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FlowEnd {
    /// Both sides have finished.
    Done,
    /// The client has reset it,
    ClientReset,
    /// or the backend.
    BackendReset,
    /// No packet for its timeout.
    Idle,
    /// The agent has reset it on both sides, as one was gone: removed, or silent.
    PeerGone,
}
