// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Fragments, told by the first one of their packet. One that comes before it
//! is left to the stack: its packet is lost, as it is to every middlebox that
//! does not put packets together.

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use gateway_common::fragment::{FRAGMENT_TIMEOUT_NS, FragmentKey, FragmentValue};

use crate::{aligned::Aligned, maps::FRAGMENTS, packet::Packet, parse::PASS, verdict::Verdict};

/// Which part of an IP packet this is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The first, which has the ports.
    First,
    /// Any other.
    Later,
}

/// Remembers the ports of a first fragment that is forwarded. Should the map
/// refuse, the others are not recognised.
#[inline(always)]
pub fn remember(packet: &Packet) {
    let value = Aligned(FragmentValue {
        // SAFETY: a helper without pointers.
        seen_ns: unsafe { bpf_ktime_get_coarse_ns() },
        src_port_be: packet.key.src_port_be,
        dst_port_be: packet.key.dst_port_be,
        proto: packet.key.proto,
        _pad: [0; 3],
    });
    let _ = FRAGMENTS.insert(&key(packet).0, &value.0, 0);
}

/// Completes a later fragment by what the first one said.
#[inline(always)]
pub fn recall(packet: &mut Packet) -> Result<(), Verdict> {
    // SAFETY: copied at once. An element that is reused meanwhile yields the
    // ports of another packet, whose flow is then not found or drops it.
    let first = unsafe { FRAGMENTS.get(&key(packet).0) }
        .copied()
        .ok_or(PASS)?;
    // SAFETY: a helper without pointers.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if now.wrapping_sub(first.seen_ns) > FRAGMENT_TIMEOUT_NS {
        return Err(PASS);
    }
    packet.key.src_port_be = first.src_port_be;
    packet.key.dst_port_be = first.dst_port_be;
    packet.key.proto = first.proto;
    Ok(())
}

#[inline(always)]
fn key(packet: &Packet) -> Aligned<FragmentKey> {
    Aligned(FragmentKey {
        src: packet.key.src,
        dst: packet.key.dst,
        id_be: packet.fragment_id_be,
        proto: if packet.is_v6 { 0 } else { packet.key.proto },
        _pad: [0; 3],
    })
}
