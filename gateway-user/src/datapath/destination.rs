// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What clients send to.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Serialize, Serializer};

use crate::model::Transport;

/// A destination of packets: the key of the kernel's service table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// Address and port; the first one of a range.
    pub address: SocketAddr,
    /// The last port of a range, else the same again.
    pub last_port: u16,
    /// What carries them.
    pub transport: Transport,
}

impl Destination {
    /// A single port.
    pub fn new(address: SocketAddr, transport: Transport) -> Self {
        Self {
            address,
            last_port: address.port(),
            transport,
        }
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    /// Whether it is a range of ports.
    pub fn is_range(&self) -> bool {
        self.address.port() != self.last_port
    }
}

/// TCP, unless it is said.
impl From<SocketAddr> for Destination {
    fn from(address: SocketAddr) -> Self {
        Self::new(address, Transport::Tcp)
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if self.is_range() {
            write!(f, "-{}", self.last_port)?;
        }
        match self.transport {
            Transport::Tcp => Ok(()),
            Transport::Udp => f.write_str("/udp"),
        }
    }
}

impl Serialize for Destination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
