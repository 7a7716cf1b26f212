// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which client addresses may connect: sets of addresses, and the prefixes that
//! say the same to a longest-prefix look-up.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

/// Bits of an address.
const BITS: u8 = 128;
/// First and last of the IPv4-mapped addresses (RFC 4291 section 2.5.5.2).
const MAPPED: Range = (0xffff_0000_0000, 0xffff_ffff_ffff);

/// First and last address, IPv4 mapped.
type Range = (u128, u128);

/// A set of client addresses; everyone by default. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sources(
    /// Ascending, apart from each other by at least one address. Absent: all.
    Option<Arc<[Range]>>,
);

/// One entry of a longest-prefix look-up. IPv4 is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePrefix {
    /// The first address.
    pub address: u128,
    /// Leading bits that count, 0 to 128.
    pub bits: u8,
    /// Whether its sources are taken.
    pub allowed: bool,
}

impl Sources {
    /// Every address.
    pub fn everyone() -> Self {
        Self(None)
    }

    /// No address.
    pub fn nobody() -> Self {
        Self(Some(Arc::default()))
    }

    /// The addresses of some networks. `::/0` is every IPv6 address and no IPv4
    /// address.
    pub fn of(networks: impl IntoIterator<Item = IpNet>) -> Self {
        let mut ranges = Vec::new();
        for network in networks {
            let first = number(network.network());
            let host_bits = u32::from(network.max_prefix_len() - network.prefix_len());
            let last = first | 1_u128.checked_shl(host_bits).unwrap_or(0).wrapping_sub(1);
            if first <= MAPPED.0 && MAPPED.1 <= last && matches!(network, IpNet::V6(_)) {
                if first < MAPPED.0 {
                    ranges.push((first, MAPPED.0 - 1));
                }
                if MAPPED.1 < last {
                    ranges.push((MAPPED.1 + 1, last));
                }
            } else {
                ranges.push((first, last));
            }
        }
        Self::from_ranges(ranges)
    }

    fn from_ranges(mut ranges: Vec<Range>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<Range> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(before) if before.1 == u128::MAX || first <= before.1 + 1 => {
                    before.1 = before.1.max(last);
                }
                _ => joined.push((first, last)),
            }
        }
        match joined.as_slice() {
            [(0, u128::MAX)] => Self(None),
            _ => Self(Some(joined.into())),
        }
    }

    fn ranges(&self) -> &[Range] {
        self.0.as_deref().unwrap_or(&[(0, u128::MAX)])
    }

    /// Whether nobody is kept out.
    pub fn is_everyone(&self) -> bool {
        self.0.is_none()
    }

    /// Whether `address` is one of them.
    pub fn contain(&self, address: IpAddr) -> bool {
        let Some(ranges) = &self.0 else {
            return true;
        };
        let address = number(address);
        let after = ranges.partition_point(|(first, _)| *first <= address);
        after > 0 && address <= ranges[after - 1].1
    }

    /// Those of either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let both = self.ranges().iter().chain(other.ranges());
        Self::from_ranges(both.copied().collect())
    }

    /// All others.
    #[must_use]
    pub fn complement(&self) -> Self {
        let mut ranges = Vec::new();
        let mut next = Some(0_u128);
        for (first, last) in self.ranges() {
            if let Some(start) = next.filter(|start| start < first) {
                ranges.push((start, first - 1));
            }
            next = last.checked_add(1);
        }
        ranges.extend(next.map(|start| (start, u128::MAX)));
        Self::from_ranges(ranges)
    }

    /// Those of both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        match (&self.0, &other.0) {
            (None, _) => other.clone(),
            (_, None) => self.clone(),
            _ => self.complement().union(&other.complement()).complement(),
        }
    }

    /// The fewest prefixes of which the longest that contains an address tells
    /// whether it is one of them; no prefix tells that it is not. None when
    /// everyone is.
    pub fn prefixes(&self) -> Option<Vec<SourcePrefix>> {
        let ranges = self.0.as_deref()?;
        let mut prefixes = Vec::new();
        Node::new(ranges, 0, 0).write(0, 0, false, &mut prefixes);
        prefixes.sort_unstable();
        Some(prefixes)
    }
}

/// A prefix and what it takes to tell the addresses in it apart (Draves et al.,
/// "Constructing Optimal IP Routing Tables", INFOCOM 1999, for two next hops).
struct Node {
    /// Entries needed, by whether what is above says "allowed".
    entries: [usize; 2],
    kind: Kind,
}

enum Kind {
    /// All of it is in the set or none.
    Uniform(bool),
    Mixed(Box<[Node; 2]>),
}

impl Node {
    /// The prefix of `bits` bits at `start`, where the set is `ranges`. No
    /// deeper than an address has bits.
    fn new(ranges: &[Range], start: u128, bits: u8) -> Self {
        let last = start | host_mask(bits);
        let from = ranges.partition_point(|(_, end)| *end < start);
        let to = ranges.partition_point(|(first, _)| *first <= last);
        let within = &ranges[from..to.max(from)];
        let uniform = match within {
            [] => Some(false),
            [(first, end)] if *first <= start && last <= *end => Some(true),
            _ => None,
        };
        if let Some(allowed) = uniform {
            return Self {
                entries: [usize::from(allowed), usize::from(!allowed)],
                kind: Kind::Uniform(allowed),
            };
        }
        // One address is in the set or not, so that `bits` is less than 128.
        let low = Self::new(within, start, bits + 1);
        let high = Self::new(within, start | half(bits), bits + 1);
        let below = |allowed: usize| low.entries[allowed] + high.entries[allowed];
        Self {
            entries: [below(0).min(1 + below(1)), below(1).min(1 + below(0))],
            kind: Kind::Mixed(Box::new([low, high])),
        }
    }

    fn write(&self, start: u128, bits: u8, above: bool, out: &mut Vec<SourcePrefix>) {
        let entry = |allowed| SourcePrefix {
            address: start,
            bits,
            allowed,
        };
        match &self.kind {
            Kind::Uniform(allowed) if *allowed == above => {}
            Kind::Uniform(allowed) => out.push(entry(*allowed)),
            Kind::Mixed(halves) => {
                let [low, high] = &**halves;
                let kept = low.entries[usize::from(above)] + high.entries[usize::from(above)];
                let here = if kept > self.entries[usize::from(above)] {
                    out.push(entry(!above));
                    !above
                } else {
                    above
                };
                low.write(start, bits + 1, here, out);
                high.write(start | half(bits), bits + 1, here, out);
            }
        }
    }
}

/// The bits behind the first `bits`.
fn host_mask(bits: u8) -> u128 {
    u128::MAX.checked_shr(u32::from(bits)).unwrap_or(0)
}

/// The bit behind the first `bits`.
fn half(bits: u8) -> u128 {
    1_u128
        .checked_shl(u32::from(BITS - 1 - bits.min(BITS - 1)))
        .unwrap_or(0)
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl fmt::Display for SourcePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = std::net::Ipv6Addr::from_bits(self.address);
        match address.to_ipv4_mapped() {
            Some(v4) if self.bits >= 96 => write!(f, "{v4}/{}", self.bits - 96),
            _ => write!(f, "{address}/{}", self.bits),
        }
    }
}

/// Prefixes in the order of a look-up's table, those not taken with a `!`.
impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(prefixes) = self.prefixes() else {
            return f.write_str("everyone");
        };
        if prefixes.is_empty() {
            return f.write_str("nobody");
        }
        for (index, prefix) in prefixes.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let not = if prefix.allowed { "" } else { "!" };
            write!(f, "{comma}{not}{prefix}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::{Sources, host_mask, number};

    fn of(text: &str) -> Sources {
        let parse = |one: &str| one.parse::<IpNet>().expect(one);
        Sources::of(text.split_whitespace().map(parse))
    }

    /// What a longest-prefix look-up would say.
    fn looked_up(sources: &Sources, address: u128) -> bool {
        let Some(prefixes) = sources.prefixes() else {
            return true;
        };
        let containing = prefixes
            .iter()
            .filter(|prefix| address & !host_mask(prefix.bits) == prefix.address);
        containing
            .max_by_key(|prefix| prefix.bits)
            .is_some_and(|prefix| prefix.allowed)
    }

    #[test]
    fn families_are_apart() {
        let all_v6 = of("::/0");
        assert!(all_v6.contain("2001:db8::1".parse().unwrap()));
        assert!(!all_v6.contain("192.0.2.1".parse().unwrap()));
        let all_v4 = of("0.0.0.0/0");
        assert!(all_v4.contain("192.0.2.1".parse().unwrap()));
        assert!(!all_v4.contain("2001:db8::1".parse().unwrap()));
        assert!(all_v4.union(&all_v6).is_everyone());
    }

    #[test]
    fn as_few_prefixes_as_can_be() {
        for (sources, text) in [
            (of("10.0.0.0/9 10.128.0.0/9"), "10.0.0.0/8"),
            (of("10.1.2.3/32").complement(), "::/0, !10.1.2.3/32"),
            (
                of("10.0.0.0/8").intersection(&of("10.1.0.0/16").complement()),
                "10.0.0.0/8, !10.1.0.0/16",
            ),
            (of(""), "nobody"),
            (Sources::everyone(), "everyone"),
            (of("fd00::/8 192.0.2.0/24"), "192.0.2.0/24, fd00::/8"),
        ] {
            assert_eq!(sources.to_string(), text);
        }
    }

    fn network() -> impl Strategy<Value = IpNet> {
        // Near each other, so that they overlap and touch.
        let v4 = (0_u32..64, 24_u8..=32).prop_map(|(host, bits)| {
            IpNet::new((0x0a00_0000 + host).to_be_bytes().into(), bits).expect("a prefix")
        });
        let v6 = (0_u128..8, 0_u8..=128).prop_map(|(host, bits)| {
            let address = Ipv6Addr::from_bits(u128::MAX / 8 * host);
            IpNet::new(address.into(), bits).expect("a prefix")
        });
        prop_oneof![3 => v4, 1 => v6].prop_map(|network| network.trunc())
    }

    proptest! {
        #[test]
        fn sets_and_their_prefixes_agree_with_the_networks(
            allow in prop::collection::vec(network(), 0..6),
            deny in prop::collection::vec(network(), 0..6),
            probes in prop::collection::vec(any::<u128>(), 4),
        ) {
            let sources = Sources::of(allow.clone())
                .intersection(&Sources::of(deny.clone()).complement());
            let edges = allow.iter().chain(&deny).flat_map(|network| {
                let (first, last) = (number(network.network()), number(network.broadcast()));
                [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
            });
            for address in edges.chain(probes.iter().copied()) {
                let ip = Ipv6Addr::from_bits(address).to_canonical();
                let within = |list: &[IpNet]| list.iter().any(|network| network.contains(&ip));
                let expected = within(&allow) && !within(&deny);
                prop_assert_eq!(sources.contain(ip), expected, "{}", ip);
                prop_assert_eq!(looked_up(&sources, address), expected, "{}", ip);
            }
        }
    }
}
