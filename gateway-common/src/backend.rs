// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Backends: where a forwarded flow goes.

use crate::addr::Addr16;

/// Id 0 is reserved: "no backend". Reaching it is a counted drop.
pub const NO_BACKEND: u32 = 0;

/// Rewrite the destination only; replies come back through this node.
pub const FORWARD_DNAT: u32 = 1;
/// Rewrite source and destination; any backend can answer.
pub const FORWARD_SNAT: u32 = 2;

/// Leave the packet as it is and put it into another one, from this node's
/// address to the endpoint (RFC 2003, RFC 2473); the endpoint answers the client
/// itself.
pub const FORWARD_DSR: u32 = 3;

/// One endpoint of one or more services, indexed by backend id.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Address of the endpoint.
    pub addr: Addr16,
    /// This node's address towards it, the source for [`FORWARD_SNAT`] and the outer
    /// one for [`FORWARD_DSR`]. With
    /// [`FORWARD_DNAT`] it serves flows whose replies could not be told apart
    /// or would not come back this way (the backend is its own client);
    /// [`Addr16::ANY`] refuses them.
    pub snat_addr: Addr16,
    /// Port of the endpoint, network order; 0 keeps the one the client used, as
    /// does [`FORWARD_DSR`].
    pub port_be: u16,
    /// Always zero.
    pub _pad: u16,
    /// `FORWARD_*`; 0 marks an unused entry, or a backend without a route.
    pub forwarding: u32,
}

const _: () = assert!(size_of::<Backend>() == 40);
