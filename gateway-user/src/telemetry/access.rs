// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Access records: one line for every connection and every request, with one
//! reason code each.

use std::{net::SocketAddr, time::Duration};

use serde::Serialize;

/// Why a connection ended: exactly one for every connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(usize)]
pub enum CloseReason {
    /// Both sides finished, or HTTP keep-alive ended.
    Done,
    /// The client reset the connection.
    ClientReset,
    /// The upstream reset the connection.
    UpstreamReset,
    /// No byte moved for the route's idle timeout.
    IdleTimeout,
    /// No listener in the snapshot for the address and port.
    NoListener,
    /// The client closed before its ClientHello was complete.
    HelloIncomplete,
    /// The ClientHello was not complete by the deadline.
    HelloTimeout,
    /// The first bytes are not TLS.
    NotTls,
    /// A TLS record or ClientHello that breaks the protocol.
    HelloMalformed,
    /// A ClientHello over the size limit.
    HelloTooLarge,
    /// No server name, and no chain takes clients without one.
    NoSni,
    /// A server name that no chain takes.
    UnknownSni,
    /// The TLS handshake failed.
    HandshakeFailed,
    /// The TLS handshake was not complete by the deadline.
    HandshakeTimeout,
    /// The cluster has no endpoint.
    NoEndpoint,
    /// The upstream refused or was unreachable.
    ConnectFailed,
    /// The upstream did not answer within the connect timeout.
    ConnectTimeout,
    /// A request the validator refused.
    BadRequest,
    /// No complete request head by the deadline.
    RequestTimeout,
    /// The agent shut down.
    Drained,
    /// The connection limit was reached.
    OverLimit,
    /// The client's address may not connect.
    SourceDenied,
    /// An I/O error of this machine.
    Internal,
    /// The kernel has taken the connection over; it goes on. Counted, and
    /// recorded when it ends.
    HandedOff,
    /// One side of a connection in the kernel was gone: removed, or silent.
    PeerGone,
}

impl CloseReason {
    /// Every reason, in order of its number.
    pub const ALL: [Self; 25] = [
        Self::Done,
        Self::ClientReset,
        Self::UpstreamReset,
        Self::IdleTimeout,
        Self::NoListener,
        Self::HelloIncomplete,
        Self::HelloTimeout,
        Self::NotTls,
        Self::HelloMalformed,
        Self::HelloTooLarge,
        Self::NoSni,
        Self::UnknownSni,
        Self::HandshakeFailed,
        Self::HandshakeTimeout,
        Self::NoEndpoint,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::BadRequest,
        Self::RequestTimeout,
        Self::Drained,
        Self::OverLimit,
        Self::SourceDenied,
        Self::Internal,
        Self::HandedOff,
        Self::PeerGone,
    ];

    /// The word in records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::ClientReset => "client_reset",
            Self::UpstreamReset => "upstream_reset",
            Self::IdleTimeout => "idle_timeout",
            Self::NoListener => "no_listener",
            Self::HelloIncomplete => "hello_incomplete",
            Self::HelloTimeout => "hello_timeout",
            Self::NotTls => "not_tls",
            Self::HelloMalformed => "hello_malformed",
            Self::HelloTooLarge => "hello_too_large",
            Self::NoSni => "no_sni",
            Self::UnknownSni => "unknown_sni",
            Self::HandshakeFailed => "handshake_failed",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::NoEndpoint => "no_endpoint",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::BadRequest => "bad_request",
            Self::RequestTimeout => "request_timeout",
            Self::Drained => "drained",
            Self::OverLimit => "over_limit",
            Self::SourceDenied => "source_denied",
            Self::Internal => "internal",
            Self::HandedOff => "handed_off",
            Self::PeerGone => "peer_gone",
        }
    }
}

/// Which way the agent served a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// A forwarded listener, proxied (userspace mode).
    Forward,
    /// SNI passthrough.
    Passthrough,
    /// TLS ended here, bytes went on.
    TerminateTcp,
    /// TLS ended here, HTTP was routed.
    TerminateHttp,
    /// HTTP in the clear.
    PlainHttp,
    /// Refused before any of these.
    Refused,
}

impl Mode {
    /// The word in records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Passthrough => "passthrough",
            Self::TerminateTcp => "terminate-tcp",
            Self::TerminateHttp => "terminate-http",
            Self::PlainHttp => "plain-http",
            Self::Refused => "refused",
        }
    }
}

/// The end of one connection.
#[derive(Clone, Debug)]
pub struct ConnectionRecord {
    /// The client.
    pub peer: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// How it was served.
    pub mode: Mode,
    /// Server name of its ClientHello, also when refused.
    pub sni: Option<String>,
    /// First protocol it offered, or the one negotiated.
    pub alpn: Option<String>,
    /// `file:line` of the rule.
    pub rule: Option<String>,
    /// The cluster.
    pub cluster: Option<String>,
    /// The endpoint.
    pub upstream: Option<SocketAddr>,
    /// Whose address the endpoint saw, where its cluster wants that of the client:
    /// `client`, or `node_` and why.
    pub source: Option<&'static str>,
    /// Bytes from the client (as read off its socket; of TLS for passthrough).
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// From accept to close.
    pub duration: Duration,
    /// Why it ended.
    pub reason: CloseReason,
    /// Which way its bytes went, where there is a choice: `copy`, `splice`, or
    /// `handoff` once it was the kernel's; the bytes are those of packets from
    /// then on, headers included.
    pub path: Option<&'static str>,
}

impl ConnectionRecord {
    /// Writes the record to the log (target `access`).
    pub fn emit(&self) {
        tracing::info!(
            target: "access",
            kind = "connection",
            peer = %self.peer,
            local = %self.local,
            mode = self.mode.as_str(),
            sni = self.sni.as_deref(),
            alpn = self.alpn.as_deref(),
            rule = self.rule.as_deref(),
            cluster = self.cluster.as_deref(),
            upstream = self.upstream.map(tracing::field::display),
            source = self.source,
            bytes_in = self.bytes_in,
            bytes_out = self.bytes_out,
            duration_ms = self.duration.as_secs_f64() * 1e3,
            reason = self.reason.as_str(),
            path = self.path,
        );
    }
}

/// One HTTP request and its response.
#[derive(Clone, Debug)]
pub struct RequestRecord<'a> {
    /// The client.
    pub peer: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// How its connection was served.
    pub mode: Mode,
    /// Method.
    pub method: &'a str,
    /// Host as routed, without port.
    pub host: &'a str,
    /// Path without the query.
    pub path: &'a str,
    /// `x-request-id` as sent upstream.
    pub request_id: &'a str,
    /// `file:line` of the rule.
    pub rule: Option<String>,
    /// The cluster.
    pub cluster: Option<&'a str>,
    /// The endpoint.
    pub upstream: Option<SocketAddr>,
    /// Status sent to the client.
    pub status: u16,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// From the request head to the end of the response.
    pub duration: Duration,
    /// `routed`, or why the gateway answered by itself.
    pub reason: &'static str,
}

impl RequestRecord<'_> {
    /// Writes the record to the log (target `access`).
    pub fn emit(&self) {
        tracing::info!(
            target: "access",
            kind = "request",
            peer = %self.peer,
            local = %self.local,
            mode = self.mode.as_str(),
            method = self.method,
            host = self.host,
            path = self.path,
            request_id = self.request_id,
            rule = self.rule.as_deref(),
            cluster = self.cluster,
            upstream = self.upstream.map(tracing::field::display),
            status = self.status,
            bytes_in = self.bytes_in,
            bytes_out = self.bytes_out,
            duration_ms = self.duration.as_secs_f64() * 1e3,
            reason = self.reason,
        );
    }
}
