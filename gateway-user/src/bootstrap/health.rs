// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The section `health`: probes where no annotation says so.

use std::time::Duration;

use serde::Deserialize;

use crate::model::{HealthDefaults, health};

/// How endpoints are probed where no annotation says so.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthSettings {
    /// For endpoints that nobody vouches for.
    pub probe: DefaultProbe,
    /// Within what time an endpoint that refuses is noticed.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// Limit of one probe.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Failures in a row that take an endpoint down.
    pub unhealthy_threshold: u32,
    /// Successes in a row that bring it back.
    pub healthy_threshold: u32,
    /// With a smaller share of endpoints up, all of them are used.
    pub panic_percent: u8,
    /// Probes under way at once.
    pub max_concurrent: usize,
}

/// What is done to endpoints that no annotation speaks of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DefaultProbe {
    /// Nothing.
    #[default]
    Off,
    /// A connection is opened and closed.
    Tcp,
}

impl Default for HealthSettings {
    fn default() -> Self {
        let HealthDefaults {
            probe_tcp: _,
            interval,
            timeout,
            unhealthy_threshold,
            healthy_threshold,
            panic_percent,
        } = HealthDefaults::default();
        Self {
            probe: DefaultProbe::default(),
            interval,
            timeout,
            unhealthy_threshold,
            healthy_threshold,
            panic_percent,
            max_concurrent: 256,
        }
    }
}

impl HealthSettings {
    /// The key and what is wrong with its value.
    pub(super) fn problem(&self) -> Option<(&'static str, &'static str)> {
        if !health::INTERVALS.contains(&self.interval) {
            Some(("health.interval", "must be 100ms to 1h"))
        } else if !health::TIMEOUTS.contains(&self.timeout) || self.timeout > self.interval {
            let problem = "must be 10ms to 60s and not longer than health.interval";
            Some(("health.timeout", problem))
        } else if !health::THRESHOLDS.contains(&self.unhealthy_threshold) {
            Some(("health.unhealthy_threshold", "must be 1 to 100"))
        } else if !health::THRESHOLDS.contains(&self.healthy_threshold) {
            Some(("health.healthy_threshold", "must be 1 to 100"))
        } else if !health::PERCENTS.contains(&self.panic_percent) {
            Some(("health.panic_percent", "must be 0 to 100"))
        } else if !(1..=4_096).contains(&self.max_concurrent) {
            Some(("health.max_concurrent", "must be 1 to 4096"))
        } else {
            None
        }
    }

    /// What translation needs of it.
    pub fn defaults(&self) -> HealthDefaults {
        HealthDefaults {
            probe_tcp: self.probe == DefaultProbe::Tcp,
            interval: self.interval,
            timeout: self.timeout,
            unhealthy_threshold: self.unhealthy_threshold,
            healthy_threshold: self.healthy_threshold,
            panic_percent: self.panic_percent,
        }
    }
}
