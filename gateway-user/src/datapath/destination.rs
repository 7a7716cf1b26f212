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
    /// Address and port.
    pub address: SocketAddr,
    /// What carries them.
    pub transport: Transport,
}

impl Destination {
    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.address.ip()
    }
}

/// TCP, unless it is said.
impl From<SocketAddr> for Destination {
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            transport: Transport::Tcp,
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Tcp => write!(f, "{}", self.address),
            Transport::Udp => write!(f, "{}/udp", self.address),
        }
    }
}

impl Serialize for Destination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
