// SPDX-License-Identifier: Apache-2.0 OR MIT
//! When the next probe of an endpoint is due: pure.
//!
//! The interval is a promise: an endpoint that refuses from some moment on is
//! down one interval later. So probes start every 70 to 90 % of it, at random,
//! that those of many gateways and endpoints do not fall together, and what is
//! left is for the probes that confirm a failure. An endpoint that is silent
//! instead takes one timeout more for each failure that is needed.

use std::time::Duration;

use crate::{health::judge::Judge, model::Probe};

/// Least part of the interval between the starts of two probes.
const LEAST: f64 = 0.7;
/// How much more chance may add.
const JITTER: f64 = 0.2;
/// Part of the interval in which a failure is confirmed.
const CONFIRMING: f64 = 0.1;

/// Time from the start of one probe to the start of the next; `chance` is
/// between 0 and 1. A probe that takes longer is followed at once.
pub fn pause(probe: &Probe, judge: &Judge, chance: f64) -> Duration {
    if judge.is_in_doubt() {
        let confirming = probe.unhealthy_threshold.saturating_sub(1).max(1);
        probe.interval.mul_f64(CONFIRMING) / confirming
    } else {
        let part = LEAST + JITTER * chance.clamp(0.0, 1.0);
        probe.interval.mul_f64(part)
    }
}
