// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which backends connections may reach from the addresses of their clients: those
//! whose replies come back by a program that takes them to the agent. With and
//! without eBPF.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;

/// Shared between the datapath, which knows the ways, and the threads that connect.
#[derive(Debug, Default)]
pub struct Returning(ArcSwap<BTreeSet<IpAddr>>);

/// Why a connection has the node's address and not its client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotKept {
    /// The kernel's programs are not there.
    NoPrograms,
    /// One is IPv4, the other IPv6.
    Family,
    /// An address that is good on its own host or link only, or the backend's own.
    Address,
    /// Replies of this backend would not come by a program at tc.
    NoReturn,
    /// Every port looked at is taken.
    NoPort,
    /// The kernel does not let the agent use it.
    Refused,
}

impl NotKept {
    /// Every reason, in order of its number.
    pub const ALL: [Self; 6] = [
        Self::NoPrograms,
        Self::Family,
        Self::Address,
        Self::NoReturn,
        Self::NoPort,
        Self::Refused,
    ];

    /// The word in metrics and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoPrograms => "node_no_programs",
            Self::Family => "node_family",
            Self::Address => "node_address",
            Self::NoReturn => "node_no_return",
            Self::NoPort => "node_no_port",
            Self::Refused => "node_refused",
        }
    }
}

impl Returning {
    /// These backends, and no others, from now on.
    pub fn set(&self, backends: BTreeSet<IpAddr>) {
        if **self.0.load() != backends {
            self.0.store(Arc::new(backends));
        }
    }

    /// Whether a connection to `backend` may have the address of its `client`.
    ///
    /// # Errors
    /// Why not.
    pub fn keeps(&self, client: IpAddr, backend: IpAddr) -> Result<(), NotKept> {
        let (client, backend) = (client.to_canonical(), backend.to_canonical());
        if client.is_ipv4() != backend.is_ipv4() {
            return Err(NotKept::Family);
        }
        let stays = match client {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let is_none = client.is_loopback() || client.is_unspecified() || client.is_multicast();
        if stays || is_none || client == backend {
            return Err(NotKept::Address);
        }
        if !self.0.load().contains(&backend) {
            return Err(NotKept::NoReturn);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::IpAddr};

    use super::{NotKept, Returning};

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn reasons_are_in_order_of_their_numbers() {
        for (index, reason) in NotKept::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }

    #[test]
    fn an_address_is_kept_where_replies_come_back() {
        let returning = Returning::default();
        let keeps = |client, backend| returning.keeps(ip(client), ip(backend));
        assert_eq!(keeps("192.0.2.1", "10.0.0.1"), Err(NotKept::NoReturn));
        returning.set(BTreeSet::from([ip("10.0.0.1"), ip("fd00::1")]));
        for (client, backend, expected) in [
            ("192.0.2.1", "10.0.0.1", Ok(())),
            ("::ffff:192.0.2.1", "10.0.0.1", Ok(())),
            ("2001:db8::1", "fd00::1", Ok(())),
            ("192.0.2.1", "10.0.0.2", Err(NotKept::NoReturn)),
            ("2001:db8::1", "10.0.0.1", Err(NotKept::Family)),
            ("192.0.2.1", "fd00::1", Err(NotKept::Family)),
            ("127.0.0.1", "10.0.0.1", Err(NotKept::Address)),
            ("169.254.0.7", "10.0.0.1", Err(NotKept::Address)),
            ("fe80::1", "fd00::1", Err(NotKept::Address)),
            ("::1", "fd00::1", Err(NotKept::Address)),
            // Its own address as a source is none that the backend would answer.
            ("10.0.0.1", "10.0.0.1", Err(NotKept::Address)),
        ] {
            assert_eq!(keeps(client, backend), expected, "{client} to {backend}");
        }
        returning.set(BTreeSet::new());
        assert_eq!(keeps("192.0.2.1", "10.0.0.1"), Err(NotKept::NoReturn));
    }
}
