// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bounds of what one client can make the agent hold, and for how long.

use std::time::Duration;

use crate::conn::client_hello;

pub use crate::http::HttpLimits;

/// Limits of every connection; HTTP has its own besides.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// From accept to a complete ClientHello, in total.
    pub hello_timeout: Duration,
    /// Bytes of a ClientHello, at most 64 KiB.
    pub hello_max: usize,
    /// From the ClientHello to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// Connections open at a time, over all threads. Where the process may not
    /// open so many files, the listener room lowers it.
    pub max_connections: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            hello_timeout: Duration::from_secs(5),
            hello_max: client_hello::DEFAULT_MAX_LEN,
            handshake_timeout: Duration::from_secs(10),
            max_connections: 100_000,
        }
    }
}
