// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The model compiled for use: immutable, numbered, swapped as a whole.
//!
//! Connections look a snapshot up once and keep what they found; nothing in it
//! changes after [`SnapshotHandle::publish`].

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use crate::{
    model::{
        CertificateId, ClusterId, FlowLimits, ForwardingMode, HandoffPolicy, HashPolicy, Health,
        HttpRule, ListenAddress, LoadBalancing, ProxyProtocol, SourceAddress, SourcePrefix,
        Sources, Transport,
    },
    origin::Origin,
};

/// Everything the running agent reads.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Raised by one with every snapshot; 0 is the empty one before the first.
    pub generation: u64,
    /// What each (address, port) does.
    pub listeners: BTreeMap<ListenKey, Arc<Listener>>,
    /// The listeners whose mode is `forward`, as the kernel serves them; those
    /// of UDP are served there or not at all.
    pub services: BTreeMap<ListenKey, Arc<Service>>,
    /// Every backend of every service, by its stable id.
    pub backends: BTreeMap<u32, BackendTarget>,
    /// Every cluster, for reports.
    pub clusters: BTreeMap<ClusterId, Arc<Cluster>>,
    /// Certificates in use, for reports.
    pub certificates: Vec<CertificateSummary>,
    /// TLS configurations in use, so that the next snapshot can keep them.
    pub tls_configs: HashMap<TlsConfigKey, Arc<rustls::ServerConfig>>,
}

/// What a TLS configuration was made of. A key always belongs to its chain, so
/// the chains stand for both.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsConfigKey {
    /// DER chains, leaf first.
    pub chains: Vec<Vec<CertificateDer<'static>>>,
    /// Whether TLS 1.2 is offered.
    pub allow_tls12: bool,
    /// Whether TLS 1.3 is offered.
    pub allow_tls13: bool,
    /// Protocols offered.
    pub alpn: Vec<Vec<u8>>,
}

/// An (address, port) of a transport that the gateway owns, or a range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenKey {
    /// Address.
    pub address: ListenAddress,
    /// Port, host order; the first one of a range.
    pub port: u16,
    /// The last port of a range, else the same again.
    pub last_port: u16,
    /// What carries it.
    pub transport: Transport,
}

/// What is done with the connections of one (address, port).
#[derive(Debug)]
pub struct Listener {
    /// The first server that asked for it.
    pub origin: Origin,
    /// What is done.
    pub table: ListenerTable,
    /// Whose connections are taken; those of a forwarded listener are also
    /// clients of its clusters.
    pub sources: Sources,
}

/// By what a connection is told apart.
#[derive(Debug)]
pub enum ListenerTable {
    /// Nothing: every connection goes one way.
    Forward(Arc<TcpAction>),
    /// The server name of its ClientHello.
    Tls(SniTable),
    /// The host of each request.
    PlainHttp(Arc<HttpTable>),
}

/// TLS chains by server name: exact, longest suffix, default.
#[derive(Debug, Default)]
pub struct SniTable {
    /// Lower-case names.
    pub exact: HashMap<String, Arc<TlsChain>>,
    /// Suffixes with their leading dot.
    pub suffixes: HashMap<String, Arc<TlsChain>>,
    /// Any other name, and none.
    pub default: Option<Arc<TlsChain>>,
}

/// What is done with the TLS connections of some names.
#[derive(Debug)]
pub struct TlsChain {
    /// The server or rule.
    pub origin: Origin,
    /// What is done.
    pub action: ChainAction,
}

/// What is done with a TLS connection.
#[derive(Debug)]
pub enum ChainAction {
    /// Bytes untouched.
    Passthrough(Arc<TcpAction>),
    /// TLS ends here, bytes go on.
    TerminateTcp(Arc<rustls::ServerConfig>, Arc<TcpAction>),
    /// TLS ends here, HTTP is routed.
    TerminateHttp(Arc<rustls::ServerConfig>, Arc<HttpTable>),
}

/// Where whole connections go.
#[derive(Debug)]
pub struct TcpAction {
    /// The rule.
    pub origin: Origin,
    /// Chosen in proportion to weight; never empty.
    pub destinations: Vec<(Arc<Cluster>, u32)>,
    /// Closes a connection that moves no byte for so long.
    pub idle_timeout: Option<Duration>,
    /// Whether one client keeps to one endpoint.
    pub hash_policy: HashPolicy,
    /// Whether its connections are handed to the kernel.
    pub handoff: HandoffPolicy,
    /// Endpoints on this port, the first one of the listener's range, are
    /// reached on the port the client used.
    pub kept_port: Option<u16>,
}

impl TcpAction {
    /// Where a connection that came for `port` reaches `endpoint`.
    pub fn reached_at(&self, mut endpoint: SocketAddr, port: u16) -> SocketAddr {
        if self.kept_port == Some(endpoint.port()) {
            endpoint.set_port(port);
        }
        endpoint
    }
}

/// Virtual hosts of one listener or chain.
#[derive(Debug, Default)]
pub struct HttpTable {
    /// Lower-case hosts.
    pub exact: HashMap<String, Arc<VirtualHost>>,
    /// Suffixes with their leading dot.
    pub suffixes: HashMap<String, Arc<VirtualHost>>,
    /// Any other host.
    pub any: Option<Arc<VirtualHost>>,
    /// Clusters its rules name.
    pub clusters: HashMap<ClusterId, Arc<Cluster>>,
}

/// The rules of one host.
#[derive(Debug)]
pub struct VirtualHost {
    /// As configured, for output.
    pub host: String,
    /// Tried in order.
    pub rules: Vec<Arc<HttpRule>>,
    /// Answer 301 to https whatever the rules say.
    pub https_redirect: bool,
}

/// A cluster with its addresses known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its name.
    pub id: ClusterId,
    /// Those that take new connections; may be empty.
    pub endpoints: Vec<Endpoint>,
    /// Those that probes hold down. They take no new connection, unless
    /// `panic` is set: then they stand in `endpoints` as well.
    pub down: Vec<Endpoint>,
    /// Those that are not ready, or about to end: no new connection.
    pub leaving: Vec<SocketAddr>,
    /// So few are up that all of them are used.
    pub panic: bool,
    /// How they are probed; they are not when absent.
    pub health: Option<Health>,
    /// How one is chosen.
    pub load_balancing: LoadBalancing,
    /// Limit of one connection attempt.
    pub connect_timeout: Duration,
    /// The header that a connection to it begins with.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Clients for whom it is.
    pub sources: Sources,
    /// Whose address relayed connections to it come from.
    pub source_address: SourceAddress,
}

/// An address of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Where.
    pub address: SocketAddr,
    /// Share, at least 1.
    pub weight: u32,
}

/// A forwarded listener as the kernel serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Index of its statistics; kept from one snapshot to the next.
    pub id: u32,
    /// What new flows hash.
    pub hash_policy: HashPolicy,
    /// How its packets are rewritten.
    pub forwarding: ForwardingMode,
    /// Idle timeout of established flows; the default when absent.
    pub idle_timeout: Option<Duration>,
    /// Its backends by ascending id, each with its share of new flows relative
    /// to the others: what the ring was made from.
    pub members: Arc<[(u32, u32)]>,
    /// Ids of backends that are down, not ready or about to end: they take no
    /// new flow and keep those they have.
    pub standby: Arc<[u32]>,
    /// Backend ids by ring slot (Maglev); empty when there is no endpoint.
    pub ring: Arc<[u32]>,
    /// Which sources may open flows: the prefixes of [`Sources::prefixes`].
    /// Services with the same share them.
    pub sources: Option<Arc<[SourcePrefix]>>,
    /// Limits of its new flows.
    pub limits: FlowLimits,
    /// A backend expects a PROXY header, which only the agent writes.
    pub proxy_header: bool,
}

/// A backend of the kernel's table. A pair of address and forwarding mode has
/// one id for as long as any snapshot names it; ids start at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendTarget {
    /// Where; port 0 stands for the one the client used.
    pub address: SocketAddr,
    /// How packets to it are rewritten.
    pub forwarding: ForwardingMode,
}

/// A certificate in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSummary {
    /// Its name.
    pub id: CertificateId,
    /// End of validity, seconds since the Unix epoch.
    pub not_after_s: i64,
}

impl ListenKey {
    /// A key of TCP.
    pub const fn tcp(address: ListenAddress, port: u16) -> Self {
        Self {
            address,
            port,
            last_port: port,
            transport: Transport::Tcp,
        }
    }

    /// Whether it is for several ports.
    pub fn is_range(&self) -> bool {
        self.port != self.last_port
    }

    /// Whether `port` is its port, or one of them.
    pub fn contains(&self, port: u16) -> bool {
        (self.port..=self.last_port).contains(&port)
    }

    /// Its one address; none when it is for any.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.address {
            ListenAddress::Any => None,
            ListenAddress::Ip(ip) => Some(ip),
        }
    }
}

impl Snapshot {
    /// The listener for a TCP connection accepted on `address`.
    pub fn listener(&self, address: IpAddr, port: u16) -> Option<&Arc<Listener>> {
        let found = self.listener_of(address, port, Transport::Tcp);
        found.map(|(_, listener)| listener)
    }

    /// The listener for what is sent to `address` and `port`: that of the port,
    /// else of a range; of the address, else of any. The kernel's look-ups have
    /// the same order.
    pub fn listener_of(
        &self,
        address: IpAddr,
        port: u16,
        transport: Transport,
    ) -> Option<(&ListenKey, &Arc<Listener>)> {
        let addresses = [
            ListenAddress::Ip(address.to_canonical()),
            ListenAddress::Any,
        ];
        let exact = addresses.into_iter().find_map(|address| {
            self.listeners.get_key_value(&ListenKey {
                address,
                port,
                last_port: port,
                transport,
            })
        });
        exact.or_else(|| {
            let of_range = |address| self.range_of(address, port, transport);
            addresses.into_iter().find_map(of_range)
        })
    }

    /// The range of ports at exactly `address` that `port` is in.
    fn range_of(
        &self,
        address: ListenAddress,
        port: u16,
        transport: Transport,
    ) -> Option<(&ListenKey, &Arc<Listener>)> {
        let key = |port, last_port, transport| ListenKey {
            address,
            port,
            last_port,
            transport,
        };
        let (first, last) = (
            key(0, 0, Transport::Tcp),
            key(port, u16::MAX, Transport::Udp),
        );
        let mut before = self.listeners.range(first..=last).rev();
        before.find(|(key, _)| key.transport == transport && key.is_range() && key.contains(port))
    }
}

impl std::fmt::Display for ListenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address {
            ListenAddress::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port)?,
            address => write!(f, "{address}:{}", self.port)?,
        }
        if self.is_range() {
            write!(f, "-{}", self.last_port)?;
        }
        match self.transport {
            Transport::Tcp => Ok(()),
            Transport::Udp => f.write_str("/udp"),
        }
    }
}

/// The published snapshot: one writer, many readers.
#[derive(Clone)]
pub struct SnapshotHandle {
    current: Arc<ArcSwap<Snapshot>>,
    generation: Arc<watch::Sender<u64>>,
}

impl SnapshotHandle {
    /// Starts with the empty snapshot, generation 0.
    pub fn new() -> Self {
        Self {
            current: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            generation: Arc::new(watch::Sender::new(0)),
        }
    }

    /// The snapshot in force; keep it for as long as a decision needs it.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Makes `snapshot` the one in force. Only `reconcile` calls this.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let generation = snapshot.generation;
        self.current.store(snapshot);
        self.generation.send_replace(generation);
    }

    /// Wakes when another snapshot is in force.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }
}

impl Default for SnapshotHandle {
    fn default() -> Self {
        Self::new()
    }
}
