// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ranges of ports: which of them an address has.
//!
//! A range is one entry of the service or steer map, under its first and last
//! port. A packet only says one port, so the range it falls into is looked up
//! here first; and only when no entry is for that port alone.

use crate::addr::Addr16;

/// The ranges are those of the service map.
pub const RANGES_OF_SERVICES: u8 = 0;
/// The ranges are those of the steer map.
pub const RANGES_OF_STEERED: u8 = 1;

/// Whose ranges.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRangesKey {
    /// Destination address; [`Addr16::ANY`] for what is steered on any.
    pub addr: Addr16,
    /// IP protocol number.
    pub proto: u8,
    /// `RANGES_OF_*`.
    pub table: u8,
    /// Always zero: the key is compared as bytes.
    pub _pad: [u8; 2],
}

const _: () = assert!(size_of::<PortRangesKey>() == 20);

/// One range, both ends included, host order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// First port; above all ports in an unused entry.
    pub first: u32,
    /// Last port.
    pub last: u32,
}

const _: () = assert!(size_of::<PortRange>() == 8);

impl PortRange {
    /// An unused entry: no port is in it, and it is in order behind all others.
    pub const UNUSED: Self = Self {
        first: u32::MAX,
        last: 0,
    };
}

/// Ranges that one address can have of one protocol and table.
pub const MAX_PORT_RANGES: usize = 32;

/// The ranges of one address: disjoint, ascending, the unused entries at the end.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRanges {
    /// How many there are.
    pub count: u32,
    /// Those.
    pub ranges: [PortRange; MAX_PORT_RANGES],
}

const _: () = assert!(size_of::<PortRanges>() == 260);

impl PortRanges {
    /// The range that `port` (host order) is in.
    pub fn find(&self, port: u16) -> Option<PortRange> {
        self.find_by(port, |position| position & (MAX_PORT_RANGES - 1))
    }

    /// As [`Self::find`]; `bounded` takes a position modulo [`MAX_PORT_RANGES`], for
    /// verifiers that want to see it done.
    #[inline(always)]
    pub fn find_by(&self, port: u16, bounded: impl Fn(usize) -> usize) -> Option<PortRange> {
        let port = i64::from(port);
        // The last one that starts at or before the port: five halvings reach
        // every position below 32. Without branches, each of which the verifier
        // would follow both ways.
        let mut at = 0;
        for step in [16, 8, 4, 2, 1] {
            let first = self.ranges.get(bounded(at + step))?.first;
            let starts_after = (port - i64::from(first)) >> 63;
            at += step & !(starts_after as usize);
        }
        let range = *self.ranges.get(bounded(at))?;
        (i64::from(range.first) <= port && port <= i64::from(range.last)).then_some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_PORT_RANGES, PortRange, PortRanges};

    fn ranges(of: &[(u16, u16)]) -> PortRanges {
        let mut ranges = [PortRange::UNUSED; MAX_PORT_RANGES];
        for (range, (first, last)) in ranges.iter_mut().zip(of) {
            *range = PortRange {
                first: u32::from(*first),
                last: u32::from(*last),
            };
        }
        PortRanges {
            count: of.len() as u32,
            ranges,
        }
    }

    #[test]
    fn every_port_finds_its_range_and_no_other() {
        for count in 0..=MAX_PORT_RANGES as u16 {
            let all: [(u16, u16); MAX_PORT_RANGES] =
                core::array::from_fn(|i| (i as u16 * 2_000 + 1, i as u16 * 2_000 + 1_000));
            let of = &all[..usize::from(count)];
            let some = ranges(of);
            for port in (0..=u16::MAX)
                .step_by(7)
                .chain([1, 1_000, 1_001, 62_001, 63_000])
            {
                let expected = of
                    .iter()
                    .find(|(first, last)| (*first..=*last).contains(&port));
                let found = some
                    .find(port)
                    .map(|range| (range.first as u16, range.last as u16));
                assert_eq!(found, expected.copied(), "{port} of {count} ranges");
            }
        }
    }

    #[test]
    fn the_ends_of_the_number_space_are_ports_too() {
        let all = ranges(&[(0, u16::MAX)]);
        assert!(all.find(0).is_some() && all.find(u16::MAX).is_some());
        let last = ranges(&[(1, 1), (u16::MAX, u16::MAX)]);
        assert!(last.find(u16::MAX).is_some());
        assert_eq!(
            (last.find(0), last.find(2), ranges(&[]).find(0)),
            (None, None, None)
        );
    }
}
