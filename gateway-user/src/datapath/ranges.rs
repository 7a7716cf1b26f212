// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ranges of ports as the kernel looks them up: pure.
//!
//! A range is one entry of the service or the steer map. A packet says one port,
//! so beside them stands an index: which ranges an address has. It is written
//! after the entries it leads to and before those that it no longer leads to are
//! removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use crate::{
    datapath::Destination,
    model::{ListenAddress, Transport},
    snapshot::ListenKey,
};

/// Which map the ranges are entries of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RangeTable {
    /// Forwarded ones.
    Services,
    /// Those steered to the agent.
    Steered,
}

/// Whose ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RangesOf {
    /// Of which map.
    pub table: RangeTable,
    /// Any only in [`RangeTable::Steered`].
    pub address: ListenAddress,
    /// What carries them.
    pub transport: Transport,
}

impl fmt::Display for RangesOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.transport.name())
    }
}

/// First and last ports, disjoint.
pub type Ranges = BTreeSet<(u16, u16)>;

/// The ranges among these.
pub fn index<'a>(
    services: impl Iterator<Item = &'a Destination>,
    steered: impl Iterator<Item = &'a ListenKey>,
) -> BTreeMap<RangesOf, Ranges> {
    let mut index: BTreeMap<RangesOf, Ranges> = BTreeMap::new();
    for one in services.filter(|one| one.is_range()) {
        let of = RangesOf {
            table: RangeTable::Services,
            address: ListenAddress::Ip(one.ip()),
            transport: one.transport,
        };
        let range = (one.address.port(), one.last_port);
        index.entry(of).or_default().insert(range);
    }
    for one in steered.filter(|one| one.is_range()) {
        let of = RangesOf {
            table: RangeTable::Steered,
            address: one.address,
            transport: one.transport,
        };
        let range = (one.port, one.last_port);
        index.entry(of).or_default().insert(range);
    }
    index
}

/// What of the range `key` the kernel forwards at `ip`: all of it but what is
/// another listener's. `served` are the single ports it forwards there, which
/// it finds before any range; other ports with a listener of their own are left
/// to the agent.
pub fn at(
    ip: IpAddr,
    key: &ListenKey,
    listeners: &BTreeSet<ListenKey>,
    served: impl Fn(&Destination) -> bool,
) -> Vec<Destination> {
    let destination = |(first, last)| Destination {
        address: SocketAddr::new(ip.to_canonical(), first),
        last_port: last,
        transport: key.transport,
    };
    let own = ListenAddress::Ip(ip);
    let holes = listeners.iter().filter(|other| {
        other.transport == key.transport
            && if other.is_range() {
                key.address == ListenAddress::Any && other.address == own
            } else {
                (other.address == own || other.address == ListenAddress::Any)
                    && !served(&destination((other.port, other.port)))
            }
    });
    let holes = holes.map(|other| (other.port, other.last_port)).collect();
    let pieces = without((key.port, key.last_port), &holes);
    pieces.into_iter().map(destination).collect()
}

/// What is left of a range without the ports of `holes`.
fn without((first, last): (u16, u16), holes: &Ranges) -> Vec<(u16, u16)> {
    let mut pieces = Vec::new();
    // One more than a port can be, so that the last one has a next.
    let mut next = u32::from(first);
    for (from, to) in holes
        .iter()
        .filter(|hole| hole.1 >= first && hole.0 <= last)
    {
        if u32::from(*from) > next {
            // Below `from`, so it fits.
            pieces.push((next as u16, from - 1));
        }
        next = next.max(u32::from(*to) + 1);
    }
    if next <= u32::from(last) {
        pieces.push((next as u16, last));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::{Ranges, without};

    #[test]
    fn holes_are_cut_out() {
        type Ports = (u16, u16);
        let cases: [(&[Ports], &[Ports]); 7] = [
            (&[], &[(100, 200)]),
            (&[(1, 99), (201, 300)], &[(100, 200)]),
            (&[(150, 150)], &[(100, 149), (151, 200)]),
            (&[(100, 100), (200, 200)], &[(101, 199)]),
            (&[(90, 110), (105, 120), (199, 300)], &[(121, 198)]),
            (&[(101, 199)], &[(100, 100), (200, 200)]),
            (&[(1, u16::MAX)], &[]),
        ];
        for (holes, expected) in cases {
            let holes: Ranges = holes.iter().copied().collect();
            assert_eq!(without((100, 200), &holes), expected, "{holes:?}");
        }
        let last = Ranges::from([(u16::MAX, u16::MAX)]);
        assert_eq!(without((1, u16::MAX), &last), [(1, u16::MAX - 1)]);
        assert_eq!(without((1, u16::MAX), &Ranges::new()), [(1, u16::MAX)]);
    }
}
