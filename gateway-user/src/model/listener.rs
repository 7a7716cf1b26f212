// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Listeners: an address and port, and what is done with its connections.

use std::{fmt, net::IpAddr};

use crate::{
    model::{CertificateId, FlowLimits, HostPattern, Sources, TcpRoute, VirtualHost},
    origin::Origin,
};

/// The protocol that carries what a listener takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Connections.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

impl Transport {
    /// As in resources and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The address a listener is asked for on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListenAddress {
    /// Every address of the gateway: its VIPs, or the node's own.
    Any,
    /// This one (`bind`).
    Ip(IpAddr),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Ip(ip) => write!(f, "{ip}"),
        }
    }
}

/// One (address, port) of a transport that the gateway owns, or a whole range of
/// ports. An address's own port goes before a range that it is in.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Where.
    pub address: ListenAddress,
    /// Port, host order, not 0; the first one of a range.
    pub port: u16,
    /// The last port of a range, else the same again.
    pub last_port: u16,
    /// What its connections are.
    pub kind: ListenerKind,
    /// The first server that asked for it.
    pub origin: Origin,
    /// Who may connect; others are refused before anything is read.
    pub sources: Sources,
    /// Limits of its new flows, when it is forwarded.
    pub limits: FlowLimits,
}

impl Listener {
    /// What carries it.
    pub fn transport(&self) -> Transport {
        match self.kind {
            ListenerKind::ForwardUdp(_) => Transport::Udp,
            ListenerKind::Forward(_) | ListenerKind::Tls(_) | ListenerKind::PlainHttp(_) => {
                Transport::Tcp
            }
        }
    }
}

/// What a listener does with its connections.
#[derive(Clone, Debug)]
pub enum ListenerKind {
    /// Raw TCP, forwarded in the kernel where possible.
    Forward(TcpRoute),
    /// UDP, forwarded in the kernel or not at all.
    ForwardUdp(TcpRoute),
    /// TLS, told apart by server name.
    Tls(Vec<TlsChain>),
    /// HTTP in the clear.
    PlainHttp(Vec<VirtualHost>),
}

/// What is done with TLS connections for some server names.
#[derive(Clone, Debug)]
pub struct TlsChain {
    /// Server names; disjoint from those of the listener's other chains.
    /// [`HostPattern::Any`] also takes clients that send none.
    pub names: Vec<HostPattern>,
    /// What is done.
    pub action: TlsAction,
    /// The server or rule.
    pub origin: Origin,
}

/// What is done with a TLS connection.
#[derive(Clone, Debug)]
pub enum TlsAction {
    /// Bytes go through untouched.
    Passthrough(TcpRoute),
    /// TLS ends here, plain bytes go on.
    TerminateTcp {
        /// Certificates and versions.
        tls: TlsSettings,
        /// Where.
        route: TcpRoute,
    },
    /// TLS ends here, HTTP is routed.
    TerminateHttp {
        /// Certificates and versions.
        tls: TlsSettings,
        /// Hosts in no particular order; rules inside in theirs.
        hosts: Vec<VirtualHost>,
    },
}

/// How TLS is terminated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Every certificate of the server; the best for the client is chosen.
    pub certificates: Vec<CertificateId>,
    /// Whether TLS 1.2 is offered.
    pub allow_tls12: bool,
    /// Whether TLS 1.3 is offered.
    pub allow_tls13: bool,
}
