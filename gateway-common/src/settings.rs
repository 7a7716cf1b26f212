// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Values the agent sets and every program reads.

use crate::guard::NodeLimits;

/// The one entry of the settings map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Seed of the flow hash; the same on every node that shares a VIP.
    pub hash_seed: u32,
    /// Slots in use by the agent's free list: the size of the slot array.
    pub flow_slots: u32,
    /// First port of the SNAT range, host order.
    pub snat_port_min: u32,
    /// Last port of the SNAT range, host order, inclusive.
    pub snat_port_max: u32,
    /// Snapshot generation in force.
    pub config_generation: u32,
    /// Whether any service or steered listener has a range of ports: 1, else 0.
    pub port_ranges: u32,
    /// Whether packets in the middle of a connection that has no flow get one: 1,
    /// else 0. Another node that has the same VIP had it so far.
    pub adopts_flows: u32,
    /// Always zero.
    pub _pad: u32,
    /// What limits new flows on the whole node.
    pub limits: NodeLimits,
}

const _: () = assert!(size_of::<Settings>() == 88);
