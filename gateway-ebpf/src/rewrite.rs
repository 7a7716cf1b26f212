// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Addresses, ports, time to live, and the checksums they are part of.

use core::mem::offset_of;

use gateway_common::{
    addr::Addr16,
    checksum::{self, diff16},
    drop_reason::DropReason,
    flow::{FlowDirection, PROTOCOL_TCP},
};

use crate::{
    context::{Context, L4Checksum},
    packet::{ETHERNET_LEN, Ipv4, Ipv6, Packet, Ports, Tcp, Udp},
    verdict::Verdict,
    word::{load_u16, store_u16, store_u32, store_u64},
};

/// A header that the parser had found is not there.
const OUT_OF_REACH: Verdict = Verdict::Drop(DropReason::HelperFailed);

/// Rewrites the packet as `to` says. Its time to live must be over 1.
#[inline(always)]
pub fn apply<C: Context>(ctx: &C, packet: &Packet, to: &FlowDirection) -> Result<(), Verdict> {
    let addresses = u64::from(to.addresses_diff);
    if packet.is_v6 {
        ipv6(ctx, to)?;
    } else {
        ipv4(ctx, to)?;
    }
    ports(ctx, packet, to)?;
    let is_tcp = packet.key.proto == PROTOCOL_TCP;
    let check = if is_tcp {
        offset_of!(Tcp, check)
    } else {
        offset_of!(Udp, check)
    };
    ctx.update_l4_checksum(&L4Checksum {
        offset: packet.l4_offset + check,
        addresses,
        ports: u64::from(to.ports_diff),
        is_optional: !is_tcp,
    })?;
    if packet.is_v6 {
        // The header has no checksum of its own that would balance its hop
        // limit, the lower byte of a word.
        ctx.balance(addresses + diff16(1_u16.to_be(), 0));
    }
    Ok(())
}

/// Rewrites an IPv4 header.
#[inline(always)]
fn ipv4<C: Context>(ctx: &C, to: &FlowDirection) -> Result<(), Verdict> {
    let ip = ctx.header::<Ipv4>(ETHERNET_LEN).ok_or(OUT_OF_REACH)?;
    // SAFETY: `header` has compared its end with the end of the data, and
    // nothing in here moves it.
    unsafe {
        store_u32::<{ offset_of!(Ipv4, src_be) }>(ip, u32::from_ne_bytes(to.new_src.v4()));
        store_u32::<{ offset_of!(Ipv4, dst_be) }>(ip, u32::from_ne_bytes(to.new_dst.v4()));
        *ip.add(offset_of!(Ipv4, ttl)) -= 1;
        // The time to live is the upper byte of its word.
        let diff = u64::from(to.addresses_diff) + diff16(0x100_u16.to_be(), 0);
        let check = checksum::apply(load_u16::<{ offset_of!(Ipv4, check) }>(ip), diff);
        store_u16::<{ offset_of!(Ipv4, check) }>(ip, check);
    }
    Ok(())
}

/// Rewrites an IPv6 header.
#[inline(always)]
fn ipv6<C: Context>(ctx: &C, to: &FlowDirection) -> Result<(), Verdict> {
    let ip = ctx.header::<Ipv6>(ETHERNET_LEN).ok_or(OUT_OF_REACH)?;
    // SAFETY: as above.
    unsafe {
        *ip.add(offset_of!(Ipv6, hop_limit)) -= 1;
        address::<{ offset_of!(Ipv6, src) }>(ip, &to.new_src);
        address::<{ offset_of!(Ipv6, dst) }>(ip, &to.new_dst);
    }
    Ok(())
}

/// Writes an IPv6 address at `base + OFFSET`.
///
/// # Safety
///
/// The 16 bytes were compared with the end of the packet's data.
#[inline(always)]
unsafe fn address<const OFFSET: usize>(base: *mut u8, addr: &Addr16) {
    let (halves, _) = addr.bytes.as_chunks::<8>();
    // SAFETY: by the caller's promise.
    unsafe {
        let base = base.add(OFFSET);
        store_u64::<0>(base, u64::from_ne_bytes(halves[0]));
        store_u64::<8>(base, u64::from_ne_bytes(halves[1]));
    }
}

/// Rewrites the ports.
#[inline(always)]
fn ports<C: Context>(ctx: &C, packet: &Packet, to: &FlowDirection) -> Result<(), Verdict> {
    let ports = ctx.header::<Ports>(packet.l4_offset).ok_or(OUT_OF_REACH)?;
    // SAFETY: as above.
    unsafe {
        store_u16::<{ offset_of!(Ports, src_be) }>(ports, to.new_src_port_be);
        store_u16::<{ offset_of!(Ports, dst_be) }>(ports, to.new_dst_port_be);
    }
    Ok(())
}
