// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Addresses, ports, time to live, and the checksums they are part of.

use core::mem::offset_of;

use gateway_common::{
    checksum::{self, diff16, diff32},
    drop_reason::DropReason,
    flow::FlowDirection,
};

use crate::{
    context::Context,
    packet::{ETHERNET_LEN, Ipv4, Packet, Ports, Tcp},
    verdict::Verdict,
    word::{load_u16, load_u32, store_u16, store_u32},
};

/// Rewrites the packet as `to` says. Its time to live must be over 1.
#[inline(always)]
pub fn apply<C: Context>(ctx: &C, packet: &Packet, to: &FlowDirection) -> Result<(), Verdict> {
    let out_of_reach = Verdict::Drop(DropReason::HelperFailed);
    let ip = ctx.header::<Ipv4>(ETHERNET_LEN).ok_or(out_of_reach)?;
    let ports = ctx.header::<Ports>(packet.l4_offset).ok_or(out_of_reach)?;
    let src_be = u32::from_ne_bytes(to.new_src.v4());
    let dst_be = u32::from_ne_bytes(to.new_dst.v4());

    // SAFETY: `header` has compared both ends with the end of the data, and
    // nothing in here moves it.
    let (address_diff, port_diff) = unsafe {
        let address_diff = diff32(load_u32::<{ offset_of!(Ipv4, src_be) }>(ip), src_be)
            + diff32(load_u32::<{ offset_of!(Ipv4, dst_be) }>(ip), dst_be);
        store_u32::<{ offset_of!(Ipv4, src_be) }>(ip, src_be);
        store_u32::<{ offset_of!(Ipv4, dst_be) }>(ip, dst_be);

        let old_ttl = load_u16::<{ offset_of!(Ipv4, ttl) }>(ip);
        *ip.add(offset_of!(Ipv4, ttl)) -= 1;
        let new_ttl = load_u16::<{ offset_of!(Ipv4, ttl) }>(ip);
        let check = checksum::apply(
            load_u16::<{ offset_of!(Ipv4, check) }>(ip),
            address_diff + diff16(old_ttl, new_ttl),
        );
        store_u16::<{ offset_of!(Ipv4, check) }>(ip, check);

        let old_src = load_u16::<{ offset_of!(Ports, src_be) }>(ports);
        let old_dst = load_u16::<{ offset_of!(Ports, dst_be) }>(ports);
        store_u16::<{ offset_of!(Ports, src_be) }>(ports, to.new_src_port_be);
        store_u16::<{ offset_of!(Ports, dst_be) }>(ports, to.new_dst_port_be);
        let port_diff = diff16(old_src, to.new_src_port_be) + diff16(old_dst, to.new_dst_port_be);
        (address_diff, port_diff)
    };

    let check_offset = packet.l4_offset + offset_of!(Tcp, check);
    ctx.update_l4_checksum(check_offset, address_diff, port_diff)
}
