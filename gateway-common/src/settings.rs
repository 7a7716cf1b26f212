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
    /// The mark of replies to connections of the agent that have their client's
    /// address; 0 when there are none.
    pub client_mark: u32,
    /// First of the ports that such connections and those to be handed off have
    /// towards backends, host order.
    pub handoff_port_min: u32,
    /// The last one, inclusive.
    pub handoff_port_max: u32,
    /// What limits new flows on the whole node.
    pub limits: NodeLimits,
}

impl Settings {
    /// No ports, no slots, no limit.
    pub const NONE: Self = Self {
        hash_seed: 0,
        flow_slots: 0,
        snat_port_min: 0,
        snat_port_max: 0,
        config_generation: 0,
        port_ranges: 0,
        adopts_flows: 0,
        client_mark: 0,
        handoff_port_min: 0,
        handoff_port_max: 0,
        limits: NodeLimits::NONE,
    };
}

const _: () = assert!(size_of::<Settings>() == 96);
