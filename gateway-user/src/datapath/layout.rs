// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the pinned maps look like.

use aya::Pod;
use gateway_common::{
    addr::Addr16,
    backend::Backend,
    counters::{Answers, Count, InterfaceDrops, Stats},
    flow::{FlowKey, FlowRef, FlowSlot},
    fragment::{FragmentKey, FragmentValue},
    label::Label,
    limit::SourceId,
    names::{
        MAP_ANSWERS, MAP_BACKEND_STATS, MAP_BACKENDS, MAP_DECISIONS, MAP_DROPS, MAP_FLOW_SLOTS,
        MAP_FLOWS, MAP_FRAGMENTS, MAP_FREE_SLOTS, MAP_HALF_OPEN, MAP_INTERFACE_DROPS, MAP_LABELS,
        MAP_NEW_FLOWS, MAP_NEXT_HOPS, MAP_OPTION_WALK, MAP_PARKED, MAP_PORT_RANGES, MAP_RINGS,
        MAP_SERVICE_STATS, MAP_SERVICES, MAP_SETTINGS, MAP_SOCKETS, MAP_SOURCE_FLOWS,
        MAP_SOURCE_RATES, MAP_SOURCES, MAP_STEER, MAP_TAKEN_PLACE, MAP_TC_CALLS, MAP_VERDICTS,
        MAP_VERIFIED, MAP_WATCH, MAP_WATCH_STATE, MAP_XDP_CALLS, MAP_XDP_EGRESS,
    },
    next_hop::NextHop,
    port_range::{PortRanges, PortRangesKey},
    service::{RingChunk, ServiceKey, ServiceValue},
    settings::Settings,
    source::SOURCE_ENTRY_KEY_SIZE,
    source_flows::SourceBucket,
    steer::{SteerKey, SteerValue},
    tcp_splice::WalkOrder,
    watch::{Watch, WatchState},
};

/// Key and value sizes of every map, as this version writes them: what a pinned
/// map must have to be adopted.
pub fn layout() -> [(&'static str, u32, u32); 34] {
    fn of<K: Pod, V: Pod>(name: &'static str) -> (&'static str, u32, u32) {
        (name, size_of::<K>() as u32, size_of::<V>() as u32)
    }
    [
        of::<FlowKey, FlowRef>(MAP_FLOWS),
        of::<u32, FlowSlot>(MAP_FLOW_SLOTS),
        (MAP_FREE_SLOTS, 0, 4),
        of::<u32, Label>(MAP_LABELS),
        of::<FragmentKey, FragmentValue>(MAP_FRAGMENTS),
        of::<u32, NextHop>(MAP_NEXT_HOPS),
        of::<u32, u32>(MAP_XDP_EGRESS),
        of::<ServiceKey, ServiceValue>(MAP_SERVICES),
        of::<PortRangesKey, PortRanges>(MAP_PORT_RANGES),
        of::<SourceId, u64>(MAP_SOURCE_RATES),
        of::<u32, SourceBucket>(MAP_SOURCE_FLOWS),
        of::<u32, u32>(MAP_TAKEN_PLACE),
        of::<u32, i64>(MAP_HALF_OPEN),
        of::<Addr16, u64>(MAP_VERIFIED),
        of::<u32, u64>(MAP_NEW_FLOWS),
        (MAP_SOURCES, SOURCE_ENTRY_KEY_SIZE, 4),
        of::<u32, RingChunk>(MAP_RINGS),
        of::<u32, Backend>(MAP_BACKENDS),
        of::<u32, Stats>(MAP_SERVICE_STATS),
        of::<u32, Stats>(MAP_BACKEND_STATS),
        of::<u32, Count>(MAP_DROPS),
        of::<u32, InterfaceDrops>(MAP_INTERFACE_DROPS),
        of::<u32, Count>(MAP_VERDICTS),
        of::<u32, Answers>(MAP_ANSWERS),
        of::<u32, WalkOrder>(MAP_OPTION_WALK),
        of::<u32, u64>(MAP_PARKED),
        of::<u32, Settings>(MAP_SETTINGS),
        of::<u32, Watch>(MAP_WATCH),
        of::<u32, WatchState>(MAP_WATCH_STATE),
        (MAP_DECISIONS, 0, 0),
        of::<SteerKey, SteerValue>(MAP_STEER),
        of::<u32, u32>(MAP_SOCKETS),
        of::<u32, u32>(MAP_XDP_CALLS),
        of::<u32, u32>(MAP_TC_CALLS),
    ]
}
