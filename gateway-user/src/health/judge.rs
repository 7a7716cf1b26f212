// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the results of one endpoint's probes mean: pure.

use serde::Serialize;

use crate::model::Probe;

/// What is thought of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// No probe has ended yet: it takes new connections, for most endpoints
    /// are well and a restart must not refuse anybody.
    #[default]
    Unknown,
    /// It takes new connections.
    Up,
    /// It takes none.
    Down,
}

impl Verdict {
    /// The word used in output and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// Judges one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judge {
    verdict: Verdict,
    /// Results in a row that speak against the verdict.
    against: u32,
}

impl Judge {
    /// What is thought of the endpoint now.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Whether a failure waits to be confirmed.
    pub fn is_in_doubt(&self) -> bool {
        self.verdict == Verdict::Up && self.against > 0
    }

    /// Takes a result; whether the verdict changed. The first result decides at
    /// once, later ones when as many as the threshold came in a row.
    pub fn take(&mut self, passed: bool, probe: &Probe) -> bool {
        let (other, threshold) = match (self.verdict, passed) {
            (Verdict::Unknown, true) => (Verdict::Up, 1),
            (Verdict::Unknown, false) => (Verdict::Down, 1),
            (Verdict::Up, false) => (Verdict::Down, probe.unhealthy_threshold),
            (Verdict::Down, true) => (Verdict::Up, probe.healthy_threshold),
            (Verdict::Up, true) | (Verdict::Down, false) => {
                self.against = 0;
                return false;
            }
        };
        self.against += 1;
        if self.against < threshold {
            return false;
        }
        *self = Self {
            verdict: other,
            against: 0,
        };
        true
    }
}
