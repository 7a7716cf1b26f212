// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Settings of handing connections to the kernel.

use std::{ops::RangeInclusive, time::Duration};

use serde::Deserialize;

use super::port_range;
use crate::{datapath::DatapathConfig, model::handoff::HandoffAfter};

/// How passthrough connections are handed to the kernel.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HandoffSettings {
    /// Whether they are.
    pub mode: HandoffMode,
    /// Bytes both ways from which on a connection is worth it; none does not
    /// look at them.
    pub after_bytes: Option<u64>,
    /// Time since it was accepted from which on it is.
    #[serde(with = "humantime_serde")]
    pub after_age: Option<Duration>,
    /// Answers of the backend from which on it is.
    pub after_round_trips: Option<u32>,
    /// How long one end of a connection that was handed over may be silent before
    /// it is asked for a sign of life.
    #[serde(with = "humantime_serde")]
    pub keepalive: Duration,
    /// Source ports towards backends; apart from `snat_ports`.
    #[serde(deserialize_with = "port_range")]
    pub ports: RangeInclusive<u16>,
}

impl Default for HandoffSettings {
    fn default() -> Self {
        Self {
            mode: HandoffMode::default(),
            after_bytes: Some(16 * 1024),
            after_age: Some(Duration::from_secs(5)),
            after_round_trips: None,
            keepalive: DatapathConfig::default().handoff_keepalive,
            ports: DatapathConfig::default().handoff_ports,
        }
    }
}

impl HandoffSettings {
    /// What cannot be, beside these ports for `snat`, and of which key.
    pub(super) fn problem(
        &self,
        snat_ports: &RangeInclusive<u16>,
    ) -> Option<(&'static str, &'static str)> {
        let questions = Duration::from_millis(500)..=Duration::from_hours(1);
        if !questions.contains(&self.keepalive) {
            return Some(("handoff.keepalive", "must be 500ms to 1h"));
        }
        let is_apart =
            self.ports.end() < snat_ports.start() || snat_ports.end() < self.ports.start();
        (self.mode != HandoffMode::Off && !is_apart)
            .then_some(("handoff.ports", "must be apart from snat_ports"))
    }

    /// When a connection is worth it.
    pub fn after(&self) -> HandoffAfter {
        HandoffAfter {
            bytes: self.after_bytes,
            age: self.after_age,
            round_trips: self.after_round_trips,
        }
    }
}

/// Whether connections are handed to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HandoffMode {
    /// The agent relays them to their end, whatever routes say.
    Off,
    /// Those of routes that ask for it.
    Routes,
    /// Those that can be, of all routes that do not say otherwise.
    #[default]
    Auto,
}
