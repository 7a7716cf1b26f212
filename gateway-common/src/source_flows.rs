// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How many flows each source has.
//!
//! The counts are places in one array that the agent maps: a flow keeps the
//! place it is counted at and gives it back when it ends, by an atomic operation
//! of the programs or of the agent. A place belongs to a source while its count
//! is not zero, so that there is nothing to forget and nothing to collect.
//!
//! A source has the places of one bucket to choose from, by a keyed hash that
//! also marks its place. Where all of them are others', its flows are not
//! counted.

use crate::limit::SourceId;

/// Places in a bucket.
pub const PLACES: u32 = 8;

/// Where one source may be counted: words of mark (upper half) and flows (lower
/// half).
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceBucket {
    /// The places.
    pub words: [u64; PLACES as usize],
}

const _: () = assert!(size_of::<SourceBucket>() == 64);

/// A flow that is counted nowhere: what a place is called in a slot starts at 1.
pub const NO_PLACE: u32 = 0;

/// What a flow at place `place` of `bucket` keeps.
#[inline(always)]
pub const fn place(bucket: u32, place: u32) -> u32 {
    bucket * PLACES + place + 1
}

/// Bucket and place of what a flow keeps; none for [`NO_PLACE`].
#[inline(always)]
pub const fn whereabouts(kept: u32) -> Option<(u32, u32)> {
    match kept {
        NO_PLACE => None,
        kept => Some(((kept - 1) / PLACES, (kept - 1) % PLACES)),
    }
}

/// Flows counted in a word.
#[inline(always)]
pub const fn flows(word: u64) -> u32 {
    word as u32
}

/// Where a source is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Index of its bucket.
    pub bucket: u32,
    /// What its word has in the upper half.
    pub mark: u32,
}

impl Spot {
    /// That of a source among `buckets` buckets (at least one).
    #[inline(always)]
    pub fn of(source: &SourceId, key: [u64; 2], buckets: u32) -> Self {
        let hash = source.hash(key);
        Self {
            bucket: (((hash as u32) as u64 * buckets as u64) >> 32) as u32,
            mark: (hash >> 32) as u32,
        }
    }

    /// Whether a word counts this source.
    #[inline(always)]
    pub const fn is_at(self, word: u64) -> bool {
        flows(word) != 0 && (word >> 32) as u32 == self.mark
    }

    /// The word for the first flow of this source.
    #[inline(always)]
    pub const fn first(self) -> u64 {
        (self.mark as u64) << 32 | 1
    }

    /// Flows of this source; 0 when it is in none of the places.
    pub fn flows(self, bucket: &SourceBucket) -> u32 {
        let word = bucket.words.iter().find(|word| self.is_at(**word));
        word.map_or(0, |word| flows(*word))
    }
}

#[cfg(test)]
mod tests {
    use super::{NO_PLACE, PLACES, SourceBucket, Spot, place, whereabouts};
    use crate::{addr::Addr16, limit::SourceId};

    fn source(last: u8, service_id: u32) -> SourceId {
        SourceId {
            addr: Addr16::from_v4([192, 0, 2, last]),
            service_id,
        }
    }

    #[test]
    fn what_a_flow_keeps_leads_back() {
        assert_eq!(whereabouts(NO_PLACE), None);
        for bucket in [0, 1, 4_095, 0x1fff_fffe] {
            for at in [0, 1, PLACES - 1] {
                assert_eq!(whereabouts(place(bucket, at)), Some((bucket, at)));
            }
        }
    }

    #[test]
    fn a_source_is_found_where_it_is_counted() {
        let spot = Spot::of(&source(1, 3), [1, 2], 64);
        let mut bucket = SourceBucket::default();
        assert_eq!(spot.flows(&bucket), 0);
        bucket.words[5] = spot.first() + 6;
        assert_eq!(spot.flows(&bucket), 7);
        // A place that was given back keeps the mark.
        bucket.words[5] = spot.first() - 1;
        assert_eq!(spot.flows(&bucket), 0);
    }

    #[test]
    fn sources_spread_over_the_buckets_and_the_key_moves_them() {
        let mut used = [0; 64];
        let mut moved = 0;
        for last in 0..=255 {
            for service_id in 0..4 {
                let source = source(last, service_id);
                let spot = Spot::of(&source, [1, 2], 64);
                used[spot.bucket as usize] += 1;
                moved += u32::from(Spot::of(&source, [1, 3], 64) != spot);
            }
        }
        assert!(used.iter().all(|used| (1..=40).contains(used)), "{used:?}");
        assert_eq!(moved, 1_024);
    }
}
