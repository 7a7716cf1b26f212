// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whose address connections to a cluster come from.

/// The source address of relayed connections, as their backends see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceAddress {
    /// The node's.
    #[default]
    Node,
    /// The client's, where that is possible.
    Client,
}

impl SourceAddress {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::Node, Self::Client];

    /// The word in configuration and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Client => "client",
        }
    }
}
