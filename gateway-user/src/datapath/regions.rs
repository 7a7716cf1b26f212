// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where rings lie in the array of chunks: pure.
//!
//! Nothing is remembered but what was given back lately: the regions in use
//! are those that services point at, which is the truth even after a failed
//! update or another agent's life.

use std::ops::Range;

/// Free chunks, first fit.
#[derive(Debug)]
pub struct FreeRegions {
    /// Ascending, disjoint, never touching, never empty.
    free: Vec<Range<u32>>,
}

impl FreeRegions {
    /// All of `chunks` that no region in `occupied` touches.
    pub fn outside(chunks: u32, occupied: impl IntoIterator<Item = Range<u32>>) -> Self {
        let mut occupied: Vec<Range<u32>> =
            occupied.into_iter().filter(|r| !r.is_empty()).collect();
        occupied.sort_unstable_by_key(|region| region.start);
        let mut free = Vec::new();
        let mut next = 0;
        for region in occupied {
            if region.start > next {
                free.push(next..region.start.min(chunks));
            }
            next = next.max(region.end);
        }
        if next < chunks {
            free.push(next..chunks);
        }
        free.retain(|region| !region.is_empty());
        Self { free }
    }

    /// Takes `count` chunks that lie together; none when there is no such gap.
    /// Nothing is taken for a count of 0.
    pub fn take(&mut self, count: u32) -> Option<u32> {
        if count == 0 {
            return Some(0);
        }
        let index = self
            .free
            .iter()
            .position(|region| region.end - region.start >= count)?;
        let region = &mut self.free[index];
        let start = region.start;
        region.start += count;
        if region.start == region.end {
            self.free.remove(index);
        }
        Some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::FreeRegions;

    #[test]
    fn gaps_are_found_between_occupied_regions() {
        let mut free = FreeRegions::outside(20, [10..12, 0..4, 3..5, 18..20, 7..7]);
        assert_eq!(free.take(6), Some(12));
        assert_eq!(free.take(5), Some(5));
        assert_eq!(free.take(1), None);
    }

    #[test]
    fn the_whole_array_can_be_taken_and_no_more() {
        let mut free = FreeRegions::outside(4, []);
        assert_eq!(free.take(5), None);
        assert_eq!(free.take(4), Some(0));
        assert_eq!(free.take(1), None);
        assert_eq!(free.take(0), Some(0));
    }

    #[test]
    fn regions_beyond_the_end_are_no_space() {
        let mut free = FreeRegions::outside(4, [2..9, 0..0]);
        assert_eq!(free.take(3), None);
        assert_eq!(free.take(2), Some(0));
    }
}
