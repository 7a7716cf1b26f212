// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Services: forwarded listeners and the ring that spreads them.

use crate::{addr::Addr16, guard::Guard};

/// A forwarded (address, port, protocol), or all ports of a range.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// Destination address; never [`Addr16::ANY`]: the agent expands wildcards.
    pub addr: Addr16,
    /// Destination port, or the first of a range, network order.
    pub port_be: u16,
    /// The last port of a range, else the same again, network order.
    pub last_port_be: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Always zero: the key is compared as bytes.
    pub _pad: [u8; 3],
}

const _: () = assert!(size_of::<ServiceKey>() == 24);

/// Ring slot from source and destination address and port.
pub const HASH_FIVE_TUPLE: u32 = 0;
/// Ring slot from the source address alone: one client, one backend.
pub const HASH_SOURCE_ADDRESS: u32 = 1;

/// How new flows of a service are served.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceValue {
    /// Index into the service statistics; stable while the service exists.
    pub service_id: u32,
    /// First [`RingChunk`] of the ring.
    pub ring_chunk: u32,
    /// Slots in the ring; 0 when no endpoint can take a flow.
    pub ring_size: u32,
    /// `HASH_*`.
    pub hash_policy: u32,
    /// Snapshot generation that wrote this entry.
    pub config_generation: u32,
    /// Idle timeout of established flows, seconds; 0 takes the default.
    pub established_timeout_s: u32,
    /// Which sources may open flows: the list in the source map, or
    /// [`crate::source::NO_SOURCE_LIST`].
    pub source_list: u32,
    /// What limits its new flows.
    pub guard: Guard,
}

const _: () = assert!(size_of::<ServiceValue>() == 52);

/// Backend ids in one [`RingChunk`].
pub const RING_CHUNK_IDS: u32 = 16;

/// A piece of a ring: rings are runs of chunks in one array, written by the
/// agent before a service points at them and reused only after no service
/// has pointed at them for a whole generation.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingChunk {
    /// Backend ids; [`crate::backend::NO_BACKEND`] where the ring has ended.
    pub backend_ids: [u32; RING_CHUNK_IDS as usize],
}

const _: () = assert!(size_of::<RingChunk>() == 64);
