// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What limits count, as memory that the programs count in as well: half-open
//! flows, and the flows of each source. All by atomic operations.

use std::{
    os::fd::AsFd,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
};

use aya::maps::MapData;
use gateway_common::{
    guard::{HALF_OPEN_NODE, half_open_index},
    names::{MAP_HALF_OPEN, MAP_SOURCE_FLOWS},
    source_flows::{SourceBucket, whereabouts},
};

use crate::datapath::{
    DatapathError,
    maps::{entries, failed},
    slots::{Mapping, Slot},
};

/// HALF_OPEN and SOURCE_FLOWS.
#[derive(Debug)]
pub struct Counts {
    half_open: Mapping<i64>,
    sources: Mapping<SourceBucket>,
    source_buckets: u32,
}

impl Counts {
    /// Maps both.
    ///
    /// # Errors
    /// When the kernel does not say how large they are, or refuses to map them.
    pub fn new(half_open: &MapData, sources: &MapData) -> Result<Self, DatapathError> {
        let source_buckets = entries(sources, MAP_SOURCE_FLOWS)?;
        let length = entries(half_open, MAP_HALF_OPEN)?;
        let refused = |map| failed(map, "map into memory", "all");
        Ok(Self {
            half_open: Mapping::new(half_open.fd().as_fd(), 0, length)
                .map_err(refused(MAP_HALF_OPEN))?,
            sources: Mapping::new(sources.fd().as_fd(), 0, source_buckets)
                .map_err(refused(MAP_SOURCE_FLOWS))?,
            source_buckets,
        })
    }

    /// Buckets that sources are spread over.
    pub fn source_buckets(&self) -> u32 {
        self.source_buckets
    }

    /// Half-open flows of the node.
    pub fn half_open(&self) -> u32 {
        let count = self.half_open_cell(HALF_OPEN_NODE);
        let count = count.map_or(0, |cell| cell.load(Ordering::Relaxed));
        count.clamp(0, i64::from(u32::MAX)) as u32
    }

    /// Takes the flow in `slot` out of the counts that it is still in.
    pub fn subtract(&self, slot: &Slot, service_id: u32) {
        let (half_open, place) = slot.take_counts();
        if half_open {
            for index in [HALF_OPEN_NODE, half_open_index(service_id)] {
                if let Some(cell) = self.half_open_cell(index) {
                    cell.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
        if let Some((bucket, place)) = whereabouts(place)
            && let Some(bucket) = self.sources.value(bucket)
        {
            let words: *mut u64 = bucket.as_ptr().cast();
            // SAFETY: the bucket is within the live mapping (`value` checked) and
            // is its words, of which `place` is one (a remainder of their
            // number); the programs change them by atomic operations only.
            let word = unsafe { AtomicU64::from_ptr(words.add(place as usize)) };
            // The flow was counted here: the lower half is not zero.
            word.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn half_open_cell(&self, index: u32) -> Option<&AtomicI64> {
        let count = self.half_open.value(index)?;
        // SAFETY: the count is within the live mapping (`value` checked) and
        // changed by atomic operations only.
        Some(unsafe { AtomicI64::from_ptr(count.as_ptr()) })
    }
}
