// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Every map, pinned by its name.
//!
//! The names are those of `gateway_common::names`; the agent overrides the
//! capacities when it loads the object. "agent" below is the process of the
//! agent, "programs" are the kernel programs.
//!
//! | map | key → value | written by | read by | why this type |
//! |---|---|---|---|---|
//! | FLOWS | tuple → slot, direction, generation | programs insert, agent removes | programs | exact match; never evicts, a full table is a counted refusal; preallocated |
//! | FLOW_SLOTS | slot → state of a flow | programs; agent when a flow ends | both | array in memory: a pointer stays valid, the agent maps it |
//! | FREE_SLOTS | slot indices | both push, programs pop | programs | the kernel's own free list, no lock of ours |
//! | LABELS | number in a slot → names of a handed-off connection | agent | agent | exact match; not preallocated, as most of it stays empty |
//! | FRAGMENTS | addresses, identification → ports | programs | programs | bounded; the oldest goes first, it is worth the least |
//! | NEXT_HOPS | slot, direction → next hop | programs | programs | per CPU: one writer, no torn answer |
//! | XDP_EGRESS | interface → that XDP can redirect to it | agent | programs | exact match: what nobody has vouched for gets nothing that way |
//! | SERVICES | address, port, protocol → ring | agent | programs | exact match |
//! | PORT_RANGES | address, protocol, table → its ranges | agent | programs, sk_lookup | exact match; a range is one entry of SERVICES or STEER |
//! | SOURCES | source list, prefix → verdict | agent | programs | longest prefix match in one look-up |
//! | SOURCE_RATES | service, source → token bucket | programs | programs | bounded; the oldest goes first, it is worth the least |
//! | SOURCE_FLOWS | bucket of a source's hash → flows | programs, agent subtracts flows it ends | programs | array the agent maps: a flow keeps the place it is counted at |
//! | TAKEN_PLACE | 0 → place in SOURCE_FLOWS | programs | programs | per CPU: from one program to the next it calls |
//! | VERIFIED | source → when it answered a challenge | programs | programs | bounded; only those that answered are in it |
//! | NEW_FLOWS | 0 → token bucket of the node | programs | programs | array of one |
//! | HALF_OPEN | service → half-open flows | as above | both | array the agent maps: both count by atomic operations |
//! | RINGS | chunk of backend ids | agent | programs | array the agent maps: a ring is written without a system call a slot |
//! | BACKENDS | backend id → address, how to forward | agent | programs | array: ids are dense |
//! | SERVICE_STATS, BACKEND_STATS | id → packets, bytes, flows | programs | agent | per CPU: no shared cache line on the hot path |
//! | DROPS, VERDICTS | reason, verdict → packets, bytes | programs | agent | per CPU, as above |
//! | INTERFACE_DROPS | interface → packets by reason | programs, agent adds and removes interfaces | agent | per CPU; a hash, as indices of interfaces are not dense; not preallocated, as most of it stays empty |
//! | ANSWERS | 0 → answers given lately | programs | programs | per CPU, as above |
//! | OPTION_WALK | 0 → a walk through TCP options | programs | programs | per CPU, as above; a program's stack is followed by the verifier, and it finds no end |
//! | PARKED | 0 → packets that waited while a connection was handed off | programs | agent | per CPU, as above |
//! | SETTINGS | 0 → seed, ranges | agent | programs | array of one |
//! | WATCH | 0 → what is watched, until when | `sluice trace --watch` | programs | array of one |
//! | WATCH_STATE | 0 → what was told | programs | `sluice trace --watch` | per CPU: a rate without a lock |
//! | DECISIONS | what became of packets | programs | `sluice trace --watch` | one ring for all processors: in order |
//! | STEER | local address, port → sockets | agent | sk_lookup | exact match |
//! | XDP_CALLS, TC_CALLS | index → program to go on in | agent | programs | the map type of tail calls; one each, as programs of one type call each other only |
//! | SOCKETS | index → listening socket | agent | sk_lookup | the map type that holds sockets |

use aya_ebpf::{
    macros::map,
    maps::{
        Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray, Queue,
        RingBuf, SockMap,
    },
};
use gateway_common::{
    addr::Addr16,
    backend::Backend,
    counters::{Answers, Count, InterfaceDrops, Stats, VERDICT_COUNTERS},
    drop_reason::DROP_REASON_SLOTS,
    flow::{FlowKey, FlowRef, FlowSlot},
    fragment::{FragmentKey, FragmentValue},
    label::Label,
    limit::SourceId,
    limits,
    names::CALL_SLOTS,
    next_hop::{NEXT_HOPS as NEXT_HOPS_A_CPU, NextHop},
    port_range::{PortRanges, PortRangesKey},
    service::{RingChunk, ServiceKey, ServiceValue},
    settings::Settings,
    source::SourceKey,
    source_flows::{self, SourceBucket},
    steer::{SteerKey, SteerValue},
    tcp_splice::WalkOrder,
    watch::{Watch, WatchState},
};

/// `BPF_F_MMAPABLE`: the agent maps the array into its memory.
const MMAPABLE: u32 = 1 << 10;
/// `BPF_F_NO_PREALLOC`: an entry has no memory before it is added.
const NO_PREALLOC: u32 = 1;

#[map]
pub static FLOWS: HashMap<FlowKey, FlowRef> = HashMap::pinned(2 * limits::MAX_FLOWS, 0);

#[map]
pub static FLOW_SLOTS: Array<FlowSlot> = Array::pinned(limits::MAX_FLOWS, MMAPABLE);

#[map]
pub static FREE_SLOTS: Queue<u32> = Queue::pinned(limits::MAX_FLOWS, 0);

#[map]
pub static LABELS: HashMap<u32, Label> = HashMap::pinned(limits::MAX_LABELS, NO_PREALLOC);

#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue> =
    LruHashMap::pinned(limits::MAX_FRAGMENTS, 0);

#[map]
pub static NEXT_HOPS: PerCpuArray<NextHop> = PerCpuArray::pinned(NEXT_HOPS_A_CPU, 0);

#[map]
pub static XDP_EGRESS: HashMap<u32, u32> = HashMap::pinned(limits::MAX_INTERFACES, NO_PREALLOC);

#[map]
pub static SERVICES: HashMap<ServiceKey, ServiceValue> = HashMap::pinned(limits::MAX_SERVICES, 0);

#[map]
pub static PORT_RANGES: HashMap<PortRangesKey, PortRanges> =
    HashMap::pinned(limits::MAX_PORT_RANGE_KEYS, 0);

#[map]
pub static SOURCES: LpmTrie<SourceKey, u32> = LpmTrie::pinned(limits::MAX_SOURCES, 0);

#[map]
pub static SOURCE_RATES: LruHashMap<SourceId, u64> =
    LruHashMap::pinned(limits::MAX_TRACKED_SOURCES, 0);

#[map]
pub static SOURCE_FLOWS: Array<SourceBucket> =
    Array::pinned(limits::MAX_TRACKED_SOURCES / source_flows::PLACES, MMAPABLE);

#[map]
pub static TAKEN_PLACE: PerCpuArray<u32> = PerCpuArray::pinned(1, 0);

#[map]
pub static VERIFIED: LruHashMap<Addr16, u64> = LruHashMap::pinned(limits::MAX_TRACKED_SOURCES, 0);

#[map]
pub static NEW_FLOWS: Array<u64> = Array::pinned(1, 0);

#[map]
pub static HALF_OPEN: Array<i64> = Array::pinned(limits::MAX_SERVICES + 1, MMAPABLE);

#[map]
pub static RINGS: Array<RingChunk> = Array::pinned(limits::MAX_RING_CHUNKS, MMAPABLE);

#[map]
pub static BACKENDS: Array<Backend> = Array::pinned(limits::MAX_BACKENDS, 0);

#[map]
pub static SERVICE_STATS: PerCpuArray<Stats> = PerCpuArray::pinned(limits::MAX_SERVICES, 0);

#[map]
pub static BACKEND_STATS: PerCpuArray<Stats> = PerCpuArray::pinned(limits::MAX_BACKENDS, 0);

#[map]
pub static DROPS: PerCpuArray<Count> = PerCpuArray::pinned(DROP_REASON_SLOTS, 0);

#[map]
pub static INTERFACE_DROPS: PerCpuHashMap<u32, InterfaceDrops> =
    PerCpuHashMap::pinned(limits::MAX_INTERFACES, NO_PREALLOC);

#[map]
pub static VERDICTS: PerCpuArray<Count> = PerCpuArray::pinned(VERDICT_COUNTERS, 0);

#[map]
pub static ANSWERS: PerCpuArray<Answers> = PerCpuArray::pinned(1, 0);

#[map]
pub static OPTION_WALK: PerCpuArray<WalkOrder> = PerCpuArray::pinned(1, 0);

#[map]
pub static PARKED: PerCpuArray<u64> = PerCpuArray::pinned(1, 0);

#[map]
pub static SETTINGS: Array<Settings> = Array::pinned(1, 0);

#[map]
pub static XDP_CALLS: ProgramArray = ProgramArray::pinned(CALL_SLOTS, 0);

#[map]
pub static TC_CALLS: ProgramArray = ProgramArray::pinned(CALL_SLOTS, 0);

#[map]
pub static WATCH: Array<Watch> = Array::pinned(1, 0);

#[map]
pub static WATCH_STATE: PerCpuArray<WatchState> = PerCpuArray::pinned(1, 0);

#[map]
pub static DECISIONS: RingBuf = RingBuf::pinned(limits::DECISIONS_BYTES, 0);

#[map]
pub static STEER: HashMap<SteerKey, SteerValue> = HashMap::pinned(limits::MAX_STEERED, 0);

#[map]
pub static SOCKETS: SockMap = SockMap::pinned(limits::MAX_SOCKETS, 0);
