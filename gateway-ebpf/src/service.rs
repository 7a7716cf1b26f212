// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Forwarded services, and what is counted for them and their backends.

use aya_ebpf::maps::PerCpuArray;
use gateway_common::{
    counters::Stats,
    flow::{DIR_TO_BACKEND, FlowKey},
    port_range::RANGES_OF_SERVICES,
    service::{ServiceKey, ServiceValue},
};

use crate::{
    aligned::Aligned,
    maps::{SERVICE_STATS, SERVICES},
    port_range,
};

/// The service a packet is addressed to: that of its port, else that of the
/// range its port is in.
#[inline(always)]
pub fn find(key: &FlowKey) -> Option<&'static ServiceValue> {
    let mut wanted = Aligned(ServiceKey {
        addr: key.dst,
        port_be: key.dst_port_be,
        last_port_be: key.dst_port_be,
        proto: key.proto,
        _pad: [0; 3],
    });
    // SAFETY: entries are replaced whole by the agent. An element freed while it
    // is read here may show another service's values: a new flow then goes to
    // that service's ring, which the agent keeps for a generation.
    let of_port = unsafe { SERVICES.get(&wanted.0) };
    if of_port.is_some() || !port_range::in_use() {
        return of_port;
    }
    let range = port_range::find(key.dst, key.proto, RANGES_OF_SERVICES, key.dst_port_be)?;
    wanted.0.port_be = (range.first as u16).to_be();
    wanted.0.last_port_be = (range.last as u16).to_be();
    // SAFETY: as above.
    unsafe { SERVICES.get(&wanted.0) }
}

/// Counts a flow that could not be taken.
#[inline(always)]
pub fn count_refused(service: &ServiceValue) {
    update(&SERVICE_STATS, service.service_id, |stats| {
        stats.refused += 1
    });
}

/// Counts a packet of `bytes` bytes in `direction`.
#[inline(always)]
pub fn count_packet(map: &PerCpuArray<Stats>, id: u32, direction: u32, bytes: u32) {
    update(map, id, |stats| {
        if direction == DIR_TO_BACKEND {
            stats.packets_in += 1;
            stats.bytes_in += u64::from(bytes);
        } else {
            stats.packets_out += 1;
            stats.bytes_out += u64::from(bytes);
        }
    });
}

/// Changes one entry of statistics on this CPU.
#[inline(always)]
pub fn update(map: &PerCpuArray<Stats>, id: u32, change: impl FnOnce(&mut Stats)) {
    if let Some(stats) = map.get_ptr_mut(id) {
        // SAFETY: the look-up returned it, not null, for this CPU alone; the
        // programs run with migration off and do not interrupt themselves.
        change(unsafe { &mut *stats });
    }
}
