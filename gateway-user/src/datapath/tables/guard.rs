// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What limits the new flows of a service in the kernel.

use gateway_common::guard::{Guard, SYN_COOKIES_ALWAYS, SYN_COOKIES_AUTO, SYN_COOKIES_OFF};

use crate::{
    datapath::Protection,
    model::{FlowLimits, SynCookies, Transport},
};

/// The guard of a service with limits of its `own`.
pub fn guard(own: FlowLimits, transport: Transport, protection: &Protection) -> Guard {
    let limits = own.or(protection.defaults);
    let limit = |value: Option<u32>| value.unwrap_or(0);
    let is_tcp = transport == Transport::Tcp;
    let source_rate = limit(limits.source_rate);
    let mut guard = Guard {
        is_on: 0,
        source_rate,
        source_burst: match source_rate {
            0 => 0,
            rate => limits.source_burst.unwrap_or(rate),
        },
        source_flows: limit(limits.source_flows),
        half_open: if is_tcp { limit(limits.half_open) } else { 0 },
        syn_cookies: match limits.syn_cookies.unwrap_or_default() {
            _ if !is_tcp => SYN_COOKIES_OFF,
            SynCookies::Off => SYN_COOKIES_OFF,
            SynCookies::Auto => SYN_COOKIES_AUTO,
            SynCookies::Always => SYN_COOKIES_ALWAYS,
        },
    };
    // What limits the whole node is looked at before.
    let is_on = guard.source_rate != 0
        || guard.source_flows != 0
        || guard.half_open != 0
        || guard.syn_cookies == SYN_COOKIES_ALWAYS;
    guard.is_on = u32::from(is_on);
    guard
}
