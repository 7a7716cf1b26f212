// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Default capacities of the maps and what they cost.
//!
//! | map | entries | bytes an entry | kernel memory |
//! |---|---|---|---|
//! | FLOW_SLOTS | 131,072 | 256 | 32 MiB |
//! | FLOWS | 262,144 | 120, the hash included | 30 MiB |
//! | LABELS | 16,384 | about 870, as used | up to 14 MiB |
//! | RINGS | 65,536 chunks | 64 | 4 MiB |
//! | SERVICES, STEER | 16,384 | about 100 | 2 x 1.6 MiB |
//! | PORT_RANGES | 1,024 | about 220 | 0.2 MiB |
//! | BACKENDS | 65,536 | 40 | 2.5 MiB |
//! | NEXT_HOPS | 4,096 a processor | 64 | 256 KiB a processor |
//! | DECISIONS | | | 256 KiB |
//! | FRAGMENTS | 8,192 | about 130 | 1 MiB |
//! | SOURCE_RATES, VERIFIED | 32,768 | about 110 | 2 x 3.5 MiB |
//! | SOURCE_FLOWS | 32,768 sources | 8 | 256 KiB |
//! | HALF_OPEN | 16,385 | 8 | 128 KiB |
//! | SOURCES | 65,536 | about 100, as used | up to 6.5 MiB |
//!
//! The agent sets the sizes at load time from the bootstrap; the flow table is
//! allocated in full then, so that memory pressure never refuses a flow.

/// Bytes of the ring of decisions, a power of two and whole pages: 2,000 of them.
pub const DECISIONS_BYTES: u32 = 256 * 1024;
/// Flows that can be tracked at once.
pub const MAX_FLOWS: u32 = 131_072;
/// Different labels of handed-off flows.
pub const MAX_LABELS: u32 = 16_384;
/// Of these, those kept for labels without a word of the client's: clients can
/// make any number of server names under a wildcard.
pub const RESERVED_LABELS: u32 = 1_024;
/// Forwarded (address, port) pairs; a range of ports counts as one.
pub const MAX_SERVICES: u32 = 16_384;
/// Steered (address, port) pairs.
pub const MAX_STEERED: u32 = 16_384;
/// Addresses with ranges of ports, times protocols and tables.
pub const MAX_PORT_RANGE_KEYS: u32 = 1_024;
/// Fragmented packets on their way at once; the oldest is forgotten first.
pub const MAX_FRAGMENTS: u32 = 8_192;
/// Interfaces that XDP redirects frames to; further ones get theirs from the stack.
/// And whose drops are counted apart, 512 bytes a CPU each; those of further ones
/// are counted by reason only.
pub const MAX_INTERFACES: u32 = 4_096;
/// Sources whose flows, and whose new flows, are counted at once. Of new ones the
/// oldest is forgotten first.
pub const MAX_TRACKED_SOURCES: u32 = 32_768;
/// Half-open flows of the node above which sources have to answer a challenge.
pub const MAX_HALF_OPEN: u32 = 16_384;
/// Prefixes of all source lists together.
pub const MAX_SOURCES: u32 = 65_536;
/// Backends, id 0 included.
pub const MAX_BACKENDS: u32 = 65_536;
/// Chunks of all rings together.
pub const MAX_RING_CHUNKS: u32 = 65_536;
/// Listening sockets of the agent (threads, times two during an upgrade).
pub const MAX_SOCKETS: u32 = 512;
/// Answers of the programs' own (ICMP) in a span of [`ANSWERS_NS`] on one
/// processor; what would be answered beyond it is dropped without a word
/// (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f).
pub const ANSWERS: u64 = 100;
/// That span, nanoseconds.
pub const ANSWERS_NS: u64 = 100_000_000;
/// Source ports looked at for one new SNAT flow before it is refused.
pub const SNAT_PORT_TRIES: u32 = 256;
/// First port of the default SNAT range: above Linux' ephemeral ports.
pub const SNAT_PORT_MIN: u32 = 61_000;
/// Last port of the default SNAT range.
pub const SNAT_PORT_MAX: u32 = 65_535;
/// First port of the default range for connections that can be handed off. In
/// the upper end of Linux' ephemeral ports, from where it is taken out
/// (`ip_local_reserved_ports`).
pub const HANDOFF_PORT_MIN: u32 = 51_000;
/// Last port of that range.
pub const HANDOFF_PORT_MAX: u32 = 60_999;
