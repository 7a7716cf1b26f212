// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Settings of handing connections to the kernel.

use std::{ops::RangeInclusive, time::Duration};

use serde::Deserialize;

use super::port_range;
use crate::datapath::DatapathConfig;

/// How passthrough connections are handed to the kernel.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HandoffSettings {
    /// Whether they are.
    pub mode: HandoffMode,
    /// Bytes both ways from which on a connection is worth it.
    pub after_bytes: u64,
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
            after_bytes: 16 * 1024,
            keepalive: DatapathConfig::default().handoff_keepalive,
            ports: DatapathConfig::default().handoff_ports,
        }
    }
}

impl HandoffSettings {
    /// What cannot be, and of which key.
    pub(super) fn problem(&self) -> Option<(&'static str, &'static str)> {
        let questions = Duration::from_millis(500)..=Duration::from_hours(1);
        (!questions.contains(&self.keepalive))
            .then_some(("handoff.keepalive", "must be 500ms to 1h"))
    }
}

/// Whether connections are handed to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HandoffMode {
    /// The agent relays them to their end.
    #[default]
    Off,
    /// Those that can be.
    Auto,
}
