// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What guards services against too many new flows.

use crate::limit::SourceMask;

/// SYNs are never challenged.
pub const SYN_COOKIES_OFF: u32 = 0;
/// SYNs are challenged under pressure.
pub const SYN_COOKIES_AUTO: u32 = 1;
/// Every SYN of a source that has not answered a challenge lately is challenged.
pub const SYN_COOKIES_ALWAYS: u32 = 2;

/// For how long a source that has answered a challenge is not asked again,
/// nanoseconds.
pub const VERIFIED_NS: u64 = 60_000_000_000;

/// The limits of one service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Guard {
    /// 1 when anything here is limited, else 0.
    pub is_on: u32,
    /// New flows of one source in a second; 0 without a limit.
    pub source_rate: u32,
    /// Of them at once; at least 1 with a rate.
    pub source_burst: u32,
    /// Flows that one source has open; 0 without a limit.
    pub source_flows: u32,
    /// Half-open flows of the service; 0 without a limit.
    pub half_open: u32,
    /// `SYN_COOKIES_*`.
    pub syn_cookies: u32,
}

const _: () = assert!(size_of::<Guard>() == 24);

impl Guard {
    /// No limit.
    pub const NONE: Self = Self {
        is_on: 0,
        source_rate: 0,
        source_burst: 0,
        source_flows: 0,
        half_open: 0,
        syn_cookies: SYN_COOKIES_OFF,
    };
}

/// What limits new flows on the whole node, in the settings.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLimits {
    /// Secret key of the hash of sources: who knows it can make others share his
    /// counts.
    pub source_key: [u64; 2],
    /// What counts as one source.
    pub source_mask: SourceMask,
    /// Buckets of the map of sources' flows.
    pub source_buckets: u32,
    /// Half-open flows; 0 without a limit.
    pub max_half_open: u32,
    /// New flows in a second; 0 without a limit.
    pub new_flow_rate: u32,
    /// Of them at once; at least 1 with a rate.
    pub new_flow_burst: u32,
    /// Always zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<NodeLimits>() == 56);

impl NodeLimits {
    /// No limit; sources are single IPv4 addresses and IPv6 networks of 64 bits.
    pub const NONE: Self = Self {
        source_key: [0; 2],
        source_mask: SourceMask::new(32, 64),
        source_buckets: 0,
        max_half_open: 0,
        new_flow_rate: 0,
        new_flow_burst: 0,
        _pad: 0,
    };
}

/// Index of the node's count in the map of half-open flows.
pub const HALF_OPEN_NODE: u32 = 0;

/// Index of a service's count in the map of half-open flows.
#[inline(always)]
pub const fn half_open_index(service_id: u32) -> u32 {
    service_id.wrapping_add(1)
}
