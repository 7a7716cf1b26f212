// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the operator decides about the kernel side.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    net::IpAddr,
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use gateway_common::{guard::NodeLimits, limit::SourceMask, limits, tcp_state, udp_state};

use crate::model::{FlowLimits, ForwardingMode};

/// A silent peer of a connection is asked for a sign of life after this long, and
/// again as often as [`KEEPALIVE_PROBES`] says, before it counts as gone.
pub const KEEPALIVE: Duration = Duration::from_secs(60);
/// Questions without an answer.
pub const KEEPALIVE_PROBES: u32 = 5;

/// Settings of the datapath, from the bootstrap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatapathConfig {
    /// Directory for pins, on a bpffs or to become one. Its file names belong
    /// to Sluice.
    pub bpffs: PathBuf,
    /// Names or globs of the interfaces clients come in by; empty takes those
    /// with a default route.
    pub wire_interfaces: Vec<String>,
    /// Names or globs of the interfaces local backends hang on.
    pub pod_interfaces: Vec<String>,
    /// Addresses claimed as local ones; empty serves the node's own.
    pub vips: Vec<IpAddr>,
    /// Where programs are attached on wire interfaces.
    pub attach: AttachMode,
    /// What `auto` of a service means; `auto` itself decides by the route.
    pub forwarding: ForwardingMode,
    /// Source ports for flows with a rewritten source.
    pub snat_ports: RangeInclusive<u16>,
    /// Source ports towards backends of connections that can be handed off.
    pub handoff_ports: RangeInclusive<u16>,
    /// How long one end of a handed-off connection may be silent before it is
    /// asked for a sign of life, and between questions after that.
    pub handoff_keepalive: Duration,
    /// Mark of replies to connections that have their client's address, not 0.
    pub client_mark: u32,
    /// Routing table that takes what is so marked for local.
    pub client_table: u32,
    /// Flows tracked at once.
    pub max_flows: u32,
    /// Forwarded (address, port) pairs.
    pub max_services: u32,
    /// Backends, id 0 included.
    pub max_backends: u32,
    /// Prefixes of all source lists together.
    pub max_sources: u32,
    /// Chunks of 16 slots for all rings together.
    pub max_ring_chunks: u32,
    /// Other nodes have the same VIPs: connections that came by them so far are
    /// taken over.
    pub shared_vips: bool,
    /// Idle timeout of established connections whose service sets none.
    pub tcp_idle: Duration,
    /// Idle timeout of UDP sessions whose service sets none. The default is
    /// shorter for those that were not answered; any other is for both.
    pub udp_idle: Duration,
    /// Between two questions to an endpoint that was removed and has flows.
    pub removed_endpoint: Duration,
    /// Limits of new flows.
    pub protection: Protection,
    /// Seed of the flow hash; nodes that share a VIP need the same.
    pub hash_seed: u32,
}

impl Default for DatapathConfig {
    fn default() -> Self {
        Self {
            bpffs: PathBuf::from("/sys/fs/bpf/sluice"),
            wire_interfaces: Vec::new(),
            pod_interfaces: vec!["veth*".to_owned(), "cali*".to_owned()],
            vips: Vec::new(),
            attach: AttachMode::Auto,
            forwarding: ForwardingMode::Auto,
            snat_ports: limits::SNAT_PORT_MIN as u16..=limits::SNAT_PORT_MAX as u16,
            handoff_ports: limits::HANDOFF_PORT_MIN as u16..=limits::HANDOFF_PORT_MAX as u16,
            handoff_keepalive: KEEPALIVE,
            // A bit that neither kube-proxy nor the usual network plugins use.
            client_mark: 0x1000,
            client_table: 15_151,
            max_flows: limits::MAX_FLOWS,
            max_services: limits::MAX_SERVICES,
            max_backends: limits::MAX_BACKENDS,
            max_sources: limits::MAX_SOURCES,
            max_ring_chunks: limits::MAX_RING_CHUNKS,
            shared_vips: false,
            tcp_idle: Duration::from_secs(tcp_state::ESTABLISHED_TIMEOUT_S as u64),
            udp_idle: Duration::from_secs(udp_state::TWO_WAY_TIMEOUT_S as u64),
            removed_endpoint: Duration::from_secs(5),
            protection: Protection::default(),
            hash_seed: 0x51_1c_e0_01,
        }
    }
}

/// Limits of new flows: those of the node, and of services that have none of
/// their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protection {
    /// Where a service says nothing.
    pub defaults: FlowLimits,
    /// Leading bits of an IPv4 address that make a source, 0 to 32.
    pub source_prefix_v4: u8,
    /// The same of an IPv6 address, 0 to 128.
    pub source_prefix_v6: u8,
    /// Half-open flows of the node; 0 without a limit.
    pub max_half_open: u32,
    /// New flows of the node in a second; 0 without a limit.
    pub max_new_flow_rate: u32,
    /// Sources whose flows are counted at once.
    pub max_tracked_sources: u32,
}

impl Protection {
    /// What the programs need of it. The key of sources stays what it is once
    /// there is one: counts are found by it.
    pub fn node_limits(&self, source_key: [u64; 2], source_buckets: u32) -> NodeLimits {
        let random = || RandomState::new().build_hasher().finish();
        NodeLimits {
            source_key: match source_key {
                [0, 0] => [random(), random()],
                key => key,
            },
            source_mask: SourceMask::new(self.source_prefix_v4, self.source_prefix_v6),
            source_buckets,
            max_half_open: self.max_half_open,
            new_flow_rate: self.max_new_flow_rate,
            // A tenth of a second's.
            new_flow_burst: self.max_new_flow_rate.div_ceil(10),
            _pad: 0,
        }
    }
}

impl Default for Protection {
    fn default() -> Self {
        Self {
            defaults: FlowLimits::default(),
            source_prefix_v4: 32,
            source_prefix_v6: 64,
            max_half_open: limits::MAX_HALF_OPEN,
            max_new_flow_rate: 0,
            max_tracked_sources: limits::MAX_TRACKED_SOURCES,
        }
    }
}

/// Where programs are attached on wire interfaces. Pod interfaces always get
/// tc: their packets carry partial checksums and are larger than the MTU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachMode {
    /// XDP in the driver where a physical device supports it, else tc.
    #[default]
    Auto,
    /// XDP in the driver, or an error.
    XdpNative,
    /// XDP in the stack: for tests and comparison.
    XdpGeneric,
    /// tc (tcx, or a filter before Linux 6.6).
    Tc,
}
