// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Steering: which local destinations the agent's sockets answer.

use crate::{addr::Addr16, maglev};

/// A steered (address, port, protocol), or all ports of a range. The program
/// looks the port up at the exact address first, then at [`Addr16::ANY`]; then
/// it looks for a range, in the same order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SteerKey {
    /// Local address, or [`Addr16::ANY`].
    pub addr: Addr16,
    /// Local port, or the first of a range, network order.
    pub port_be: u16,
    /// The last port of a range, else the same again, network order.
    pub last_port_be: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Always zero: the key is compared as bytes.
    pub _pad: [u8; 3],
}

const _: () = assert!(size_of::<SteerKey>() == 24);

/// The sockets that answer. Every steered listener of an agent shares its
/// per-thread sockets, so a listener costs one entry and no descriptor.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteerValue {
    /// First index into the socket map.
    pub socket_base: u32,
    /// Sockets to spread over, by a hash of the remote address and port; 0, or
    /// an index without a socket, fails closed (the connection is refused).
    pub socket_count: u32,
}

const _: () = assert!(size_of::<SteerValue>() == 8);

/// Which of `count` sockets takes the connections of a remote endpoint; less
/// than `count`, or 0.
#[inline(always)]
pub fn spread(remote: &Addr16, remote_port_be: u16, count: u32) -> u32 {
    maglev::scale(maglev::hash_endpoint(remote, remote_port_be, 0), count)
}
