// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Drops by the interface that the packet came in by.

use aya::{
    maps::{MapData, PerCpuHashMap, PerCpuValues},
    util::nr_cpus,
};
use gateway_common::{
    counters::InterfaceDrops, drop_reason::DropReason, names::MAP_INTERFACE_DROPS,
};

use crate::lab::{Lab, interface_index};

fn map(lab: &mut Lab) -> PerCpuHashMap<&mut MapData, u32, InterfaceDrops> {
    let map = lab.ebpf.map_mut(MAP_INTERFACE_DROPS).unwrap();
    map.try_into().unwrap()
}

/// Counts at `interface` from now on, as the agent has it.
pub fn watch(lab: &mut Lab, interface: &str) {
    let zero = vec![InterfaceDrops::default(); nr_cpus().unwrap()];
    let zero = PerCpuValues::try_from(zero).unwrap();
    let index = interface_index(interface);
    map(lab).insert(index, zero, 0).unwrap();
}

/// Packets that came in by `interface` and were dropped for `reason`; none when
/// it is not watched.
pub fn at(lab: &mut Lab, interface: &str, reason: DropReason) -> Option<u64> {
    let counts = map(lab).get(&interface_index(interface), 0).ok()?;
    Some(counts.iter().map(|cpu| cpu.packets[reason as usize]).sum())
}
