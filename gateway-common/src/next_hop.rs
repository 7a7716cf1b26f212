// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The next hop of a flow's direction, remembered for a moment.

/// Entries each processor remembers, a power of two: both directions of half as
/// many flows.
pub const NEXT_HOPS: u32 = 4_096;

/// How long the kernel's answer is believed, nanoseconds: what a change of a
/// route, a neighbour or a switch for forwarding takes to be seen at most.
pub const NEXT_HOP_NS: u64 = 100_000_000;

/// An answer of the kernel's routing table, and what it was asked for. One
/// processor writes and reads it.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct NextHop {
    /// Monotonic time (coarse clock) it is believed until.
    pub expires_ns: u64,
    /// The flow's slot,
    pub slot: u32,
    /// and the slot's generation.
    pub generation: u32,
    /// Index of the interface the packet came in by.
    pub ifindex_in: u32,
    /// `DIR_*` in bit 0, whether at XDP in bit 1: the answer at tc has no MAC
    /// addresses.
    pub way: u32,
    /// Index of the interface the packet leaves by.
    pub ifindex: u32,
    /// Longest IP packet that can go there, bytes.
    pub mtu: u16,
    /// `AF_INET` or `AF_INET6`: that of the next hop, not of the packet (RFC 8950).
    pub family: u8,
    /// Not zero when packets that take it are to be told
    /// ([`crate::watch::Watch`]): what is loaded anyway costs them no look-up.
    pub watched: u8,
    /// The next hop's address, network order; IPv4 in the first word.
    pub addr_be: [u32; 4],
    /// The next hop's MAC address.
    pub dst_mac: [u8; 6],
    /// That of the interface.
    pub src_mac: [u8; 6],
}

impl NextHop {
    /// Leads nowhere, and is never believed.
    pub const NONE: Self = Self {
        expires_ns: 0,
        slot: 0,
        generation: 0,
        ifindex_in: 0,
        way: 0,
        ifindex: 0,
        mtu: 0,
        family: 0,
        watched: 0,
        addr_be: [0; 4],
        dst_mac: [0; 6],
        src_mac: [0; 6],
    };
}

const _: () = assert!(size_of::<NextHop>() == 64 && align_of::<NextHop>() == 64);
const _: () = assert!(NEXT_HOPS.is_power_of_two());
