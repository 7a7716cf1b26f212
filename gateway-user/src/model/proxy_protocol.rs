// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The PROXY protocol: a header in front of a connection's bytes that says who
//! the client is (haproxy.org, doc/proxy-protocol.txt).

use std::fmt;

/// Its two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyProtocol {
    /// A line of text with both addresses (section 2.1).
    V1,
    /// Binary, with room for more (section 2.2).
    V2,
}

impl ProxyProtocol {
    /// Each of them.
    pub const ALL: [Self; 2] = [Self::V1, Self::V2];

    /// The word used in annotations and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

impl fmt::Display for ProxyProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
