// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Limits of the new flows of a forwarded listener.

use std::{fmt, ops::RangeInclusive};

/// Values a rate may have, flows a second.
pub const RATES: RangeInclusive<u32> = 1..=1_000_000;
/// Values a number of flows may have.
pub const COUNTS: RangeInclusive<u32> = 1..=16_777_216;

/// Limits; an absent one leaves it to the bootstrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowLimits {
    /// New flows that one source may open in a second.
    pub source_rate: Option<u32>,
    /// Of them at once; as many as in a second by default.
    pub source_burst: Option<u32>,
    /// Flows that one source may have open.
    pub source_flows: Option<u32>,
    /// Flows that may be half-open.
    pub half_open: Option<u32>,
    /// Whether SYNs are challenged.
    pub syn_cookies: Option<SynCookies>,
}

/// When the source of a SYN has to show that it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SynCookies {
    /// Never: above a limit, SYNs are dropped.
    Off,
    /// Above a limit.
    #[default]
    Auto,
    /// Before its first flow.
    Always,
}

impl SynCookies {
    /// As in annotations and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Auto => "auto",
            Self::Always => "always",
        }
    }
}

impl FlowLimits {
    /// Both: the lower number, the stronger proof.
    #[must_use]
    pub fn strictest(self, other: Self) -> Self {
        let least = |one: Option<u32>, other: Option<u32>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Self {
            source_rate: least(self.source_rate, other.source_rate),
            source_burst: least(self.source_burst, other.source_burst),
            source_flows: least(self.source_flows, other.source_flows),
            half_open: least(self.half_open, other.half_open),
            syn_cookies: self.syn_cookies.max(other.syn_cookies),
        }
    }

    /// These, and where they say nothing, `defaults`.
    #[must_use]
    pub fn or(self, defaults: Self) -> Self {
        // A burst belongs to its rate.
        let (source_rate, source_burst) = match self.source_rate {
            Some(_) => (self.source_rate, self.source_burst),
            None => (
                defaults.source_rate,
                self.source_burst.or(defaults.source_burst),
            ),
        };
        Self {
            source_rate,
            source_burst,
            source_flows: self.source_flows.or(defaults.source_flows),
            half_open: self.half_open.or(defaults.half_open),
            syn_cookies: self.syn_cookies.or(defaults.syn_cookies),
        }
    }
}

impl fmt::Display for FlowLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(rate) = self.source_rate {
            parts.push(format!("{rate} flows/s a source"));
        }
        if let Some(burst) = self.source_burst {
            parts.push(format!("{burst} at once"));
        }
        if let Some(flows) = self.source_flows {
            parts.push(format!("{flows} open a source"));
        }
        if let Some(half_open) = self.half_open {
            parts.push(format!("{half_open} half-open"));
        }
        if let Some(cookies) = self.syn_cookies {
            parts.push(format!("syn cookies {}", cookies.name()));
        }
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::{FlowLimits, SynCookies};

    #[test]
    fn the_stricter_of_two_holds() {
        let one = FlowLimits {
            source_rate: Some(10),
            source_flows: Some(5),
            syn_cookies: Some(SynCookies::Off),
            ..FlowLimits::default()
        };
        let other = FlowLimits {
            source_rate: Some(20),
            half_open: Some(7),
            syn_cookies: Some(SynCookies::Auto),
            ..FlowLimits::default()
        };
        let both = FlowLimits {
            source_rate: Some(10),
            source_flows: Some(5),
            half_open: Some(7),
            syn_cookies: Some(SynCookies::Auto),
            ..FlowLimits::default()
        };
        assert_eq!(one.strictest(other), both);
        assert_eq!(other.strictest(one), both);
    }

    #[test]
    fn defaults_fill_in_what_is_not_said() {
        let defaults = FlowLimits {
            source_rate: Some(10),
            source_burst: Some(30),
            half_open: Some(7),
            ..FlowLimits::default()
        };
        assert_eq!(FlowLimits::default().or(defaults), defaults);
        let own = FlowLimits {
            source_rate: Some(1),
            ..FlowLimits::default()
        };
        let or = own.or(defaults);
        assert_eq!((or.source_rate, or.source_burst), (Some(1), None));
    }
}
