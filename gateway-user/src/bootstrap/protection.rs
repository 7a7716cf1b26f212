// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The section `protection`: limits of new flows where no annotation says so,
//! and those of the node.

use gateway_common::limits;
use serde::Deserialize;

use crate::{
    datapath::Protection,
    model::{
        FlowLimits, SynCookies,
        flow_limits::{COUNTS, RATES},
    },
};

/// Limits of new flows; 0 stands for none.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProtectionSettings {
    /// New flows of one source to one service in a second.
    pub source_rate: u32,
    /// Of them at once; 0 takes as many as in a second.
    pub source_burst: u32,
    /// Flows of one source to one service.
    pub source_flows: u32,
    /// Leading bits of an IPv4 address that make a source.
    pub source_prefix_v4: u8,
    /// The same of an IPv6 address.
    pub source_prefix_v6: u8,
    /// Half-open flows of one service.
    pub half_open: u32,
    /// Half-open flows of the node.
    pub max_half_open: u32,
    /// New flows of the node in a second.
    pub max_new_flow_rate: u32,
    /// When the source of a SYN has to show that it is there.
    pub syn_cookies: SynCookies,
    /// Sources whose flows are counted at once.
    pub max_tracked_sources: u32,
}

impl Default for ProtectionSettings {
    fn default() -> Self {
        Self {
            source_rate: 0,
            source_burst: 0,
            source_flows: 0,
            source_prefix_v4: 32,
            source_prefix_v6: 64,
            half_open: 0,
            max_half_open: limits::MAX_HALF_OPEN,
            max_new_flow_rate: 0,
            syn_cookies: SynCookies::Auto,
            max_tracked_sources: limits::MAX_TRACKED_SOURCES,
        }
    }
}

impl ProtectionSettings {
    /// The key and what is wrong with its value.
    pub(super) fn problem(&self) -> Option<(&'static str, &'static str)> {
        let outside = |value: u32, range: &std::ops::RangeInclusive<u32>| {
            value != 0 && !range.contains(&value)
        };
        let rate = "must be 1 to 1000000 flows a second, or 0 for none";
        let count = "must be 1 to 16777216, or 0 for none";
        [
            (
                outside(self.source_rate, &RATES),
                "protection.source_rate",
                rate,
            ),
            (
                outside(self.source_burst, &RATES),
                "protection.source_burst",
                "must be 1 to 1000000, or 0 for as many as in a second",
            ),
            (
                outside(self.source_flows, &COUNTS),
                "protection.source_flows",
                count,
            ),
            (
                self.source_prefix_v4 > 32,
                "protection.source_prefix_v4",
                "must be 0 to 32",
            ),
            (
                self.source_prefix_v6 > 128,
                "protection.source_prefix_v6",
                "must be 0 to 128",
            ),
            (
                outside(self.half_open, &COUNTS),
                "protection.half_open",
                count,
            ),
            (
                outside(self.max_half_open, &COUNTS),
                "protection.max_half_open",
                count,
            ),
            (
                outside(self.max_new_flow_rate, &RATES),
                "protection.max_new_flow_rate",
                rate,
            ),
            (
                !(16..=16_777_216).contains(&self.max_tracked_sources),
                "protection.max_tracked_sources",
                "must be 16 to 16777216",
            ),
        ]
        .into_iter()
        .find_map(|(is_wrong, key, problem)| is_wrong.then_some((key, problem)))
    }

    /// What the kernel side needs of it.
    pub(super) fn datapath(&self) -> Protection {
        let limit = |value: u32| (value != 0).then_some(value);
        Protection {
            defaults: FlowLimits {
                source_rate: limit(self.source_rate),
                source_burst: limit(self.source_burst),
                source_flows: limit(self.source_flows),
                half_open: limit(self.half_open),
                syn_cookies: Some(self.syn_cookies),
            },
            source_prefix_v4: self.source_prefix_v4,
            source_prefix_v6: self.source_prefix_v6,
            max_half_open: self.max_half_open,
            max_new_flow_rate: self.max_new_flow_rate,
            max_tracked_sources: self.max_tracked_sources,
        }
    }
}
