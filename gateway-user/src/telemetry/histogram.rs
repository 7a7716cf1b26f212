// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A histogram of times that one thread writes and another reads.

use std::time::Duration;

use crate::telemetry::counters::Counter;

/// Upper ends of the buckets but the last, nanoseconds: 1 µs to 10 ms.
pub const BOUNDS_NS: [u64; 13] = [
    1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000,
    5_000_000, 10_000_000,
];

/// Times from microseconds to milliseconds.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BOUNDS_NS.len() + 1],
    sum_ns: Counter,
}

/// What histograms have counted together.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Times {
    /// How many of each bucket, not of the ones below; the last is beyond all
    /// bounds.
    pub buckets: Vec<u64>,
    /// Of all, seconds.
    pub sum_s: f64,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // The bound itself is within (OpenMetrics: le).
        let bucket = BOUNDS_NS.partition_point(|bound| *bound < ns);
        self.buckets[bucket].add(1);
        self.sum_ns.add(ns);
    }
}

impl Times {
    /// Adds what `histogram` has counted.
    pub fn add(&mut self, histogram: &Histogram) {
        self.buckets.resize(BOUNDS_NS.len() + 1, 0);
        for (sum, counter) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += counter.value();
        }
        self.sum_s += histogram.sum_ns.value() as f64 / 1e9;
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The bound below which `share` of them are, seconds; none when there are
    /// none, or it is beyond all bounds.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = (self.count() as f64 * share).ceil() as u64;
        let mut below = 0;
        for (bound, count) in BOUNDS_NS.iter().zip(&self.buckets) {
            below += count;
            if below > 0 && below >= wanted {
                return Some(*bound as f64 / 1e9);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Histogram, Times};

    #[test]
    fn times_fall_into_the_bucket_that_ends_with_them_or_above() {
        let histogram = Histogram::default();
        for ns in [0, 1_000, 1_001, 7_000, 7_000, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_nanos(ns));
        }
        let mut times = Times::default();
        times.add(&histogram);
        times.add(&Histogram::default());
        assert_eq!(times.count(), 7);
        assert_eq!(times.buckets, [2, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert!((times.sum_s - 0.020_016_002).abs() < 1e-9, "{times:?}");
        assert_eq!(times.quantile(0.5), Some(0.000_01));
        assert_eq!(times.quantile(1.0), None);
        assert_eq!(Times::default().quantile(0.5), None);
    }
}
