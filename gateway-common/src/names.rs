// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Names of programs, maps and pins.
//!
//! At most 15 bytes each: the kernel cuts longer ones.

/// Layout of everything pinned; part of the pin path. Raise it whenever a type
/// or a map in this contract changes, or what a program leaves for one that it
/// calls: during an upgrade an old program may call a new one.
pub const LAYOUT_VERSION: u32 = 3;

/// Forwarding at XDP.
pub const PROG_XDP: &str = "xdp_ingress";
/// Forwarding at tc (tcx).
pub const PROG_TC: &str = "tc_ingress";
/// ICMP at XDP, called by [`PROG_XDP`].
pub const PROG_XDP_ICMP: &str = "xdp_icmp";
/// ICMP at tc, called by [`PROG_TC`].
pub const PROG_TC_ICMP: &str = "tc_icmp";
/// First packets of flows at XDP, called by [`PROG_XDP`].
pub const PROG_XDP_NEW_FLOW: &str = "xdp_new_flow";
/// First packets of flows at tc, called by [`PROG_TC`].
pub const PROG_TC_NEW_FLOW: &str = "tc_new_flow";
/// Wrapping at XDP, called by [`PROG_XDP`] and [`PROG_XDP_NEW_FLOW`].
pub const PROG_XDP_ENCAP: &str = "xdp_encap";
/// Wrapping at tc, called by [`PROG_TC`] and [`PROG_TC_NEW_FLOW`].
pub const PROG_TC_ENCAP: &str = "tc_encap";
/// Errors of the programs' own at XDP, called by the others.
pub const PROG_XDP_ANSWER: &str = "xdp_answer";
/// Errors of the programs' own at tc, called by the others.
pub const PROG_TC_ANSWER: &str = "tc_answer";
/// Program name: tells a watcher what became of a packet, called by the XDP ones.
pub const PROG_XDP_WATCH: &str = "xdp_watch";
/// The same, called by the tc ones.
pub const PROG_TC_WATCH: &str = "tc_watch";
/// Limits of new flows at XDP, called by [`PROG_XDP`]; goes on in
/// [`PROG_XDP_NEW_FLOW`].
pub const PROG_XDP_GUARD: &str = "xdp_guard";
/// Limits of new flows at tc, called by [`PROG_TC`]; goes on in
/// [`PROG_TC_NEW_FLOW`].
pub const PROG_TC_GUARD: &str = "tc_guard";
/// Packets of handed-off connections at XDP, called by [`PROG_XDP`].
pub const PROG_XDP_HANDOFF: &str = "xdp_handoff";
/// Packets of handed-off connections at tc, called by [`PROG_TC`].
pub const PROG_TC_HANDOFF: &str = "tc_handoff";
/// Options of such packets at XDP, called by [`PROG_XDP_HANDOFF`].
pub const PROG_XDP_OPTIONS: &str = "xdp_options";
/// Options of such packets at tc, called by [`PROG_TC_HANDOFF`].
pub const PROG_TC_OPTIONS: &str = "tc_options";
/// Replies to connections of the agent that have their client's address, called by
/// [`PROG_TC`] and [`PROG_TC_HANDOFF`]. XDP cannot mark a packet.
pub const PROG_TC_REPLY: &str = "tc_reply";
/// Steering at socket look-up. Not named after its section, `sk_lookup`: one
/// object cannot hold both symbols.
pub const PROG_SK_LOOKUP: &str = "sk_steer";

/// Hash: [`crate::flow::FlowKey`] to [`crate::flow::FlowRef`].
pub const MAP_FLOWS: &str = "FLOWS";
/// Array, memory-mapped: [`crate::flow::FlowSlot`].
pub const MAP_FLOW_SLOTS: &str = "FLOW_SLOTS";
/// Queue of free slot indices, filled by the agent.
pub const MAP_FREE_SLOTS: &str = "FREE_SLOTS";
/// Hash: number, not 0, to [`crate::label::Label`].
pub const MAP_LABELS: &str = "LABELS";
/// Hash that forgets the oldest: [`crate::fragment::FragmentKey`] to
/// [`crate::fragment::FragmentValue`].
pub const MAP_FRAGMENTS: &str = "FRAGMENTS";
/// Per-CPU array: [`crate::next_hop::NextHop`] by slot and direction.
pub const MAP_NEXT_HOPS: &str = "NEXT_HOPS";
/// Hash: indices of the interfaces that send frames which XDP redirects to them, to
/// 1.
pub const MAP_XDP_EGRESS: &str = "XDP_EGRESS";
/// Hash: [`crate::service::ServiceKey`] to [`crate::service::ServiceValue`].
pub const MAP_SERVICES: &str = "SERVICES";
/// Hash: [`crate::port_range::PortRangesKey`] to
/// [`crate::port_range::PortRanges`].
pub const MAP_PORT_RANGES: &str = "PORT_RANGES";
/// Array, memory-mapped: [`crate::service::RingChunk`].
pub const MAP_RINGS: &str = "RINGS";
/// Array: [`crate::backend::Backend`].
pub const MAP_BACKENDS: &str = "BACKENDS";
/// Per-CPU array: [`crate::counters::Stats`] by service id.
pub const MAP_SERVICE_STATS: &str = "SERVICE_STATS";
/// Per-CPU array: [`crate::counters::Stats`] by backend id.
pub const MAP_BACKEND_STATS: &str = "BACKEND_STATS";
/// Per-CPU array: [`crate::counters::Count`] by drop reason.
pub const MAP_DROPS: &str = "DROPS";
/// Per-CPU hash: index of an interface to [`crate::counters::InterfaceDrops`].
pub const MAP_INTERFACE_DROPS: &str = "INTERFACE_DROPS";
/// Per-CPU array: [`crate::counters::Count`] by verdict.
pub const MAP_VERDICTS: &str = "VERDICTS";
/// Per-CPU array of one: [`crate::counters::Answers`].
pub const MAP_ANSWERS: &str = "ANSWERS";
/// Hash that forgets the oldest: [`crate::limit::SourceId`] to the virtual time
/// of a token bucket ([`crate::limit::take_token`]).
pub const MAP_SOURCE_RATES: &str = "SOURCE_RATES";
/// Array, memory-mapped: [`crate::source_flows::SourceBucket`].
pub const MAP_SOURCE_FLOWS: &str = "SOURCE_FLOWS";
/// Per-CPU array of one: the place, as a slot keeps it, that the program of limits
/// has taken for the flow that the next one makes.
pub const MAP_TAKEN_PLACE: &str = "TAKEN_PLACE";
/// Array, memory-mapped: half-open flows (i64), by
/// [`crate::guard::half_open_index`].
pub const MAP_HALF_OPEN: &str = "HALF_OPEN";
/// Hash that forgets the oldest: [`crate::addr::Addr16`] to the monotonic time at
/// which the source has answered a challenge, nanoseconds.
pub const MAP_VERIFIED: &str = "VERIFIED";
/// Array of one: the virtual time of the token bucket of the node's new flows.
pub const MAP_NEW_FLOWS: &str = "NEW_FLOWS";
/// Longest prefix match: [`crate::source::SourceKey`] to `SOURCE_*`.
pub const MAP_SOURCES: &str = "SOURCES";
/// Per-CPU array of one: [`crate::tcp_splice::WalkOrder`].
pub const MAP_OPTION_WALK: &str = "OPTION_WALK";
/// Per-CPU array of one: packets (u64) that have waited for the end of a hold
/// ([`crate::flow::SLOT_HOLD`]).
pub const MAP_PARKED: &str = "PARKED";
/// Array of one: [`crate::settings::Settings`].
pub const MAP_SETTINGS: &str = "SETTINGS";
/// Program array: what [`PROG_XDP`] calls, by `CALL_*`.
pub const MAP_XDP_CALLS: &str = "XDP_CALLS";
/// Program array: what [`PROG_TC`] calls, by `CALL_*`.
pub const MAP_TC_CALLS: &str = "TC_CALLS";
/// Array of one: [`crate::watch::Watch`].
pub const MAP_WATCH: &str = "WATCH";
/// Per-CPU array of one: [`crate::watch::WatchState`].
pub const MAP_WATCH_STATE: &str = "WATCH_STATE";
/// Ring buffer of [`crate::watch::Decision`].
pub const MAP_DECISIONS: &str = "DECISIONS";
/// Hash: [`crate::steer::SteerKey`] to [`crate::steer::SteerValue`].
pub const MAP_STEER: &str = "STEER";
/// Socket map: the agent's listening sockets.
pub const MAP_SOCKETS: &str = "SOCKETS";

/// Index of the programs for ICMP.
pub const CALL_ICMP: u32 = 0;
/// Index of the programs for first packets of flows.
pub const CALL_NEW_FLOW: u32 = 1;
/// Index of the programs that wrap packets.
pub const CALL_ENCAP: u32 = 2;
/// Index of the programs that answer with an ICMP error.
pub const CALL_ANSWER: u32 = 3;
/// Index of the programs that everything begins with: a packet whose flow is there
/// now begins once more.
pub const CALL_AGAIN: u32 = 4;
/// Index of the programs for handed-off connections.
pub const CALL_HANDOFF: u32 = 8;
/// Index of the programs for the options of their packets.
pub const CALL_OPTIONS: u32 = 9;
/// Index of the programs that tell a watcher what became of a packet.
pub const CALL_WATCH: u32 = 7;
/// Index of the program for replies to connections that have their client's address.
pub const CALL_REPLY: u32 = 10;
/// Index of the programs that limit new flows.
pub const CALL_GUARD: u32 = 5;
/// Entries of the program arrays: room to append without a new layout.
pub const CALL_SLOTS: u32 = 16;

/// Every called program: the array and the index it is called by, and its name.
pub const CALLED: [(&str, u32, &str); 19] = [
    (MAP_XDP_CALLS, CALL_ICMP, PROG_XDP_ICMP),
    (MAP_TC_CALLS, CALL_ICMP, PROG_TC_ICMP),
    (MAP_XDP_CALLS, CALL_NEW_FLOW, PROG_XDP_NEW_FLOW),
    (MAP_TC_CALLS, CALL_NEW_FLOW, PROG_TC_NEW_FLOW),
    (MAP_XDP_CALLS, CALL_ENCAP, PROG_XDP_ENCAP),
    (MAP_TC_CALLS, CALL_ENCAP, PROG_TC_ENCAP),
    (MAP_XDP_CALLS, CALL_ANSWER, PROG_XDP_ANSWER),
    (MAP_TC_CALLS, CALL_ANSWER, PROG_TC_ANSWER),
    (MAP_XDP_CALLS, CALL_AGAIN, PROG_XDP),
    (MAP_TC_CALLS, CALL_AGAIN, PROG_TC),
    (MAP_XDP_CALLS, CALL_HANDOFF, PROG_XDP_HANDOFF),
    (MAP_TC_CALLS, CALL_HANDOFF, PROG_TC_HANDOFF),
    (MAP_XDP_CALLS, CALL_OPTIONS, PROG_XDP_OPTIONS),
    (MAP_TC_CALLS, CALL_OPTIONS, PROG_TC_OPTIONS),
    (MAP_XDP_CALLS, CALL_WATCH, PROG_XDP_WATCH),
    (MAP_TC_CALLS, CALL_WATCH, PROG_TC_WATCH),
    (MAP_XDP_CALLS, CALL_GUARD, PROG_XDP_GUARD),
    (MAP_TC_CALLS, CALL_GUARD, PROG_TC_GUARD),
    (MAP_TC_CALLS, CALL_REPLY, PROG_TC_REPLY),
];
