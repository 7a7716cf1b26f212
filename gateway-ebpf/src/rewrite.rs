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
    fragment::Fragment,
    packet::{ETHERNET_LEN, Ipv4, Ipv6, Packet, Ports, Tcp, Udp},
    verdict::Verdict,
    word::{load_u16, store_u16, store_u32, store_u64},
};

/// A header that the parser had found is not there.
pub const OUT_OF_REACH: Verdict = Verdict::Drop(DropReason::HelperFailed);

/// Rewrites the packet as `to` says. Its time to live must be over 1. What else
/// has changed in its transport header is `header_diff`.
#[inline(always)]
pub fn apply<C: Context>(
    ctx: &C,
    packet: &Packet,
    to: &FlowDirection,
    header_diff: u64,
) -> Result<(), Verdict> {
    let addresses = [&to.new_src, &to.new_dst];
    header(
        ctx,
        packet.is_v6,
        ETHERNET_LEN,
        addresses,
        to.addresses_diff,
        1,
    )?;
    if packet.fragment == Fragment::Later {
        // What follows its header is payload.
        balance(ctx, packet, to);
        return Ok(());
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
        addresses: u64::from(to.addresses_diff),
        header: u64::from(to.ports_diff) + header_diff,
        is_optional: !is_tcp,
    })?;
    balance(ctx, packet, to);
    Ok(())
}

/// An IPv6 header has no checksum of its own that would balance it.
#[inline(always)]
fn balance<C: Context>(ctx: &C, packet: &Packet, to: &FlowDirection) {
    if packet.is_v6 {
        ctx.balance(u64::from(to.addresses_diff));
        ctx.balance_hop_limit();
    }
}

/// Rewrites the IP header at `offset`: source and destination, which changes the
/// sum of its addresses by `addresses_diff`, and takes `hops` (0 or 1) off its
/// time to live. How the sum of the header has changed, `hops` aside.
#[inline(always)]
pub fn header<C: Context>(
    ctx: &C,
    is_v6: bool,
    offset: usize,
    addresses: [&Addr16; 2],
    addresses_diff: u16,
    hops: u8,
) -> Result<u64, Verdict> {
    if is_v6 {
        ipv6(ctx, offset, addresses, hops)?;
        Ok(u64::from(addresses_diff))
    } else {
        ipv4(ctx, offset, addresses, addresses_diff, hops)
    }
}

/// Takes one hop off the time to live of the packet, which must be over 1. The
/// sum that a device may have made is left as it is.
#[inline(always)]
pub fn hop<C: Context>(ctx: &C, is_v6: bool) -> Result<(), Verdict> {
    if is_v6 {
        let ip = ctx.header::<Ipv6>(ETHERNET_LEN).ok_or(OUT_OF_REACH)?;
        // SAFETY: `header` has compared its end with the end of the data.
        unsafe { *ip.add(offset_of!(Ipv6, hop_limit)) -= 1 };
        return Ok(());
    }
    let ip = ctx.header::<Ipv4>(ETHERNET_LEN).ok_or(OUT_OF_REACH)?;
    // SAFETY: as above.
    unsafe {
        *ip.add(offset_of!(Ipv4, ttl)) -= 1;
        let old = load_u16::<{ offset_of!(Ipv4, check) }>(ip);
        // The time to live is the upper byte of its word.
        let new = checksum::apply(old, diff16(0x100_u16.to_be(), 0));
        store_u16::<{ offset_of!(Ipv4, check) }>(ip, new);
    }
    Ok(())
}

#[inline(always)]
fn ipv4<C: Context>(
    ctx: &C,
    offset: usize,
    [src, dst]: [&Addr16; 2],
    addresses_diff: u16,
    hops: u8,
) -> Result<u64, Verdict> {
    let ip = ctx.header::<Ipv4>(offset).ok_or(OUT_OF_REACH)?;
    // SAFETY: `header` has compared its end with the end of the data, and
    // nothing in here moves it.
    unsafe {
        store_u32::<{ offset_of!(Ipv4, src_be) }>(ip, u32::from_ne_bytes(src.v4()));
        store_u32::<{ offset_of!(Ipv4, dst_be) }>(ip, u32::from_ne_bytes(dst.v4()));
        *ip.add(offset_of!(Ipv4, ttl)) -= hops;
        // The time to live is the upper byte of its word.
        let hops_diff = diff16((u16::from(hops) << 8).to_be(), 0);
        let diff = u64::from(addresses_diff) + if hops == 0 { 0 } else { hops_diff };
        let old = load_u16::<{ offset_of!(Ipv4, check) }>(ip);
        let new = checksum::apply(old, diff);
        store_u16::<{ offset_of!(Ipv4, check) }>(ip, new);
        Ok(u64::from(addresses_diff) + diff16(old, new))
    }
}

#[inline(always)]
fn ipv6<C: Context>(
    ctx: &C,
    offset: usize,
    [src, dst]: [&Addr16; 2],
    hops: u8,
) -> Result<(), Verdict> {
    let ip = ctx.header::<Ipv6>(offset).ok_or(OUT_OF_REACH)?;
    // SAFETY: as above.
    unsafe {
        *ip.add(offset_of!(Ipv6, hop_limit)) -= hops;
        address::<{ offset_of!(Ipv6, src) }>(ip, src);
        address::<{ offset_of!(Ipv6, dst) }>(ip, dst);
    }
    Ok(())
}

/// Writes an IPv6 address at `base + OFFSET`.
///
/// # Safety
///
/// The 16 bytes were compared with the end of the packet's data.
#[inline(always)]
pub unsafe fn address<const OFFSET: usize>(base: *mut u8, addr: &Addr16) {
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
