// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! The few events an operator must hear of even when nobody reads counters: a
//! resource of the node has run out. The agent writes them to its log.

use aya_log_ebpf::warn;
use gateway_common::drop_reason::DropReason;

/// Tells of the `nth` drop for `reason` on this CPU, when that number is a
/// power of two: the first at once, a flood of them with ever longer gaps.
#[inline(always)]
pub fn exhausted(reason: DropReason, nth: u64) {
    if !nth.is_power_of_two() {
        return;
    }
    match reason {
        DropReason::FlowTableFull => warn!(
            (),
            "flow table full, {} new flows refused on this CPU: raise limits.max_flows", nth
        ),
        DropReason::SnatPortsExhausted => warn!(
            (),
            "no source port left, {} new flows refused on this CPU: widen snat_ports", nth
        ),
        _ => {}
    }
}
