// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which sources may open flows: of the prefixes of a service's list that have
//! the source in them, the longest decides; without one nobody may.

use std::{fmt, net::IpAddr};

use gateway_common::{addr::Addr16, service::ServiceValue, source::NO_SOURCE_LIST};

use super::Model;

/// Leading bits of an address, IPv4 mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    first: u128,
    /// 0 to 128.
    bits: u32,
}

impl Prefix {
    pub fn of(address: IpAddr, bits: u32) -> Self {
        let rest = 1_u128.checked_shl(128 - bits).unwrap_or(0).wrapping_sub(1);
        Self {
            first: number(address) & !rest,
            bits,
        }
    }
}

impl From<Prefix> for Addr16 {
    /// Its first address.
    fn from(prefix: Prefix) -> Self {
        Self {
            bytes: prefix.first.to_be_bytes(),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// As an IPv6 prefix, whatever it is.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", std::net::Ipv6Addr::from(self.first), self.bits)
    }
}

impl Model {
    /// Whether the service takes flows of `source`.
    pub fn takes(&self, service: &ServiceValue, source: IpAddr) -> bool {
        let list = service.source_list;
        if list == NO_SOURCE_LIST {
            return true;
        }
        (0..=128)
            .rev()
            .find_map(|bits| self.sources.get(&(list, Prefix::of(source, bits))))
            .is_some_and(|allowed| *allowed)
    }
}
