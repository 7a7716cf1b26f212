// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Fragments: only the first of a packet carries ports; the others are told by
//! what they share with it.

use crate::addr::Addr16;

/// What all fragments of one packet share (RFC 791 section 3.2, RFC 8200
/// section 4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source address, as received.
    pub src: Addr16,
    /// Destination address, as received.
    pub dst: Addr16,
    /// Identification as it stands in the header; 16 bits with IPv4.
    pub id_be: u32,
    /// IPv4: the protocol. IPv6: always zero, because the fragments do not have
    /// to agree on it.
    pub proto: u8,
    /// Always zero: the key is compared as bytes.
    pub _pad: [u8; 3],
}

const _: () = assert!(size_of::<FragmentKey>() == 40);

/// What the first fragment said.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentValue {
    /// When, on the coarse monotonic clock, nanoseconds.
    pub seen_ns: u64,
    /// Source port, network order.
    pub src_port_be: u16,
    /// Destination port, network order.
    pub dst_port_be: u16,
    /// IP protocol number of the transport.
    pub proto: u8,
    /// Always zero.
    pub _pad: [u8; 3],
}

const _: () = assert!(size_of::<FragmentValue>() == 16);

/// Fragments that come later than this after the first are another packet's:
/// nobody waits longer to put one together (RFC 791 suggests 15 seconds, Linux
/// takes 30, RFC 8200 takes 60).
pub const FRAGMENT_TIMEOUT_NS: u64 = 60_000_000_000;
