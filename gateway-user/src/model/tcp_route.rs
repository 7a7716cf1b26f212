// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Routes of whole connections.

use std::time::Duration;

use crate::{
    model::{ClusterId, HandoffPolicy},
    origin::Origin,
};

/// Where the connections of a listener or a TLS chain go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpRoute {
    /// The rule.
    pub origin: Origin,
    /// Chosen per connection in proportion to weight. Never empty; weights are
    /// at least 1.
    pub destinations: Vec<TcpDestination>,
    /// Closes a connection that moves no byte for so long; none by default.
    pub idle_timeout: Option<Duration>,
    /// What the kernel's ring hashes.
    pub hash_policy: HashPolicy,
    /// How the kernel forwards.
    pub forwarding: ForwardingMode,
    /// Whether relayed connections are handed to the kernel.
    pub handoff: HandoffPolicy,
}

/// One destination of a [`TcpRoute`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpDestination {
    /// The cluster.
    pub cluster: ClusterId,
    /// Share, at least 1.
    pub weight: u32,
}

/// What a flow's backend is derived from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashPolicy {
    /// Addresses and ports of both sides.
    #[default]
    FiveTuple,
    /// The client's address: one client, one backend.
    SourceAddress,
}

/// How forwarded packets are rewritten.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Deserialize,
    serde::Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum ForwardingMode {
    /// dnat where the backend is reached through a pod interface, else snat.
    #[default]
    Auto,
    /// Client address kept; replies must come back through this node.
    Dnat,
    /// Source replaced by this node's address and a reserved port.
    Snat,
    /// Wrapped in another packet; the endpoint answers the client itself.
    Dsr,
}
