// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! ICMP and ICMPv6 errors about packets of our flows (RFC 5508 section 4).
//!
//! An error quotes the packet it is about as its sender saw it, which is as it
//! was rewritten here. Turned round, the quoted tuple is that of a packet of the
//! other direction: the one the error travels in. So the flow found by it says
//! how both are rewritten: the quoted source and the error's destination become
//! the destination of that direction, the quoted destination its source.
//!
//! Requests and answers to them are the stack's affair: it answers echo for
//! every address that is claimed.

use core::mem::offset_of;

use gateway_common::{
    addr::Addr16,
    checksum::{self, diff_address, diff16, diff32, fold},
    drop_reason::DropReason,
    flow::{DIR_TO_CLIENT, FlowDirection, KIND_DNAT, KIND_DSR, PROTOCOL_TCP},
    names::{CALL_ANSWER, CALL_ENCAP},
    next_hop::NextHop,
    tcp_splice::add_be,
};

use crate::{
    aligned::Aligned,
    context::Context,
    encap,
    flow::{self, Flow},
    forward,
    packet::{ETHERNET_LEN, Icmp, Packet, Ports, Tcp, Udp},
    parse::{self, PASS},
    reply,
    rewrite::{self, OUT_OF_REACH},
    route,
    verdict::Verdict,
    word::{load_u16, load_u32, store_u16, store_u32},
};

/// Length of the header that precedes the quoted packet.
pub const ICMP_LEN: usize = size_of::<Icmp>();

/// Translates the error that `packet` is and sends it on; passes everything
/// that is no error about a flow of ours.
#[inline(always)]
pub fn handle<C: Context>(ctx: &C, packet: &mut Packet) -> Result<Verdict, Verdict> {
    let icmp = ctx.header::<Icmp>(packet.l4_offset).ok_or(PASS)?;
    // SAFETY: `header` has compared its end with the end of the data.
    if !is_error(unsafe { *icmp }, packet.is_v6) {
        return Err(PASS);
    }
    let icmp_offset = packet.l4_offset;
    let outer_dst = packet.key.dst;
    let sender = packet.key.src;
    if encap::is_wrapped(ctx, packet.is_v6, icmp_offset + ICMP_LEN) {
        // About a packet of ours around that of a client.
        ctx.continue_with(CALL_ANSWER);
        return Err(PASS);
    }
    // From here on, the key and the transport are those of the quoted packet.
    parse::quoted(ctx, packet, icmp_offset + ICMP_LEN)?;
    // Whoever got the packet answers to where it came from.
    if packet.key.dst != outer_dst {
        return Err(PASS);
    }
    let Some(flow) = flow::find(packet) else {
        reply::look(ctx, packet);
        return Err(PASS);
    };
    if flow.kind() == KIND_DSR {
        // About what the backend sent past this node: it is the backend's.
        ctx.continue_with(CALL_ENCAP);
        return Err(PASS);
    }
    if flow.is_of_sockets() {
        reply::look(ctx, packet);
        return Err(PASS);
    }
    forward::forwardable(packet)?;
    let to = flow.translation();
    let new_sender = new_sender(&flow, to, sender);
    // None but with a connection that was handed off: what was added to the
    // numbers of the packet is what is taken off those that refer to it.
    let seq_delta = flow.splice().ack;
    let quoted_diff = quoted(ctx, packet, icmp_offset + ICMP_LEN, to, seq_delta)?;
    let outer_diff = diff_address(&sender, &new_sender) + diff_address(&outer_dst, &to.new_dst);
    rewrite::header(
        ctx,
        packet.is_v6,
        ETHERNET_LEN,
        [&new_sender, &to.new_dst],
        fold(outer_diff),
        1,
    )?;

    let icmp = ctx.header::<Icmp>(icmp_offset).ok_or(OUT_OF_REACH)?;
    // ICMPv6 has the addresses in its pseudo header (RFC 4443 section 2.3).
    let diff = quoted_diff + if packet.is_v6 { outer_diff } else { 0 };
    // SAFETY: as above.
    unsafe {
        let old = load_u16::<{ offset_of!(Icmp, check) }>(icmp);
        store_u16::<{ offset_of!(Icmp, check) }>(icmp, checksum::apply(old, diff));
    }
    if packet.is_v6 {
        ctx.balance_hop_limit();
    }
    let to = route::Header::of(packet, to);
    let mut hop = Aligned(NextHop::NONE);
    route::find(ctx, packet, &to, &mut hop.0)?;
    ctx.send(&hop.0)
}

/// Whether a message of this type quotes the packet it is about.
#[inline(always)]
pub fn is_error(kind: u8, is_v6: bool) -> bool {
    if is_v6 {
        // Unreachable, too big, time exceeded, parameter problem (RFC 4443).
        (1..=4).contains(&kind)
    } else {
        // Unreachable, time exceeded, parameter problem (RFC 792).
        matches!(kind, 3 | 11 | 12)
    }
}

/// Who sends the error, as its receiver sees it. A client knows nobody behind
/// the gateway; a backend that is reached from the gateway's own address knows
/// nobody in front of it.
#[inline(always)]
fn new_sender(flow: &Flow, to: &FlowDirection, sender: Addr16) -> Addr16 {
    if flow.direction() == DIR_TO_CLIENT || flow.kind() != KIND_DNAT {
        to.new_src
    } else {
        sender
    }
}

/// Rewrites the quoted packet, which starts at `offset`; how the sum of its
/// bytes has changed.
#[inline(always)]
fn quoted<C: Context>(
    ctx: &C,
    packet: &Packet,
    offset: usize,
    to: &FlowDirection,
    seq_delta: u32,
) -> Result<u64, Verdict> {
    let header_diff = rewrite::header(
        ctx,
        packet.is_v6,
        offset,
        [&to.new_dst, &to.new_src],
        to.addresses_diff,
        0,
    )?;
    let ports = ctx.header::<Ports>(packet.l4_offset).ok_or(OUT_OF_REACH)?;
    // SAFETY: `header` has compared its end with the end of the data.
    unsafe {
        store_u16::<{ offset_of!(Ports, src_be) }>(ports, to.new_dst_port_be);
        store_u16::<{ offset_of!(Ports, dst_be) }>(ports, to.new_src_port_be);
    }
    let end = ETHERNET_LEN + packet.ip_len as usize;
    let mut seq_diff = 0;
    if seq_delta != 0 {
        // RFC 792 asks for eight bytes, which have the number; what follows the
        // end is padding, which no sum covers.
        if packet.l4_offset + size_of::<Ports>() + size_of::<u32>() > end {
            return Err(Verdict::Drop(DropReason::Malformed));
        }
        let seq = ctx
            .header::<u32>(packet.l4_offset + offset_of!(Tcp, seq_be))
            .ok_or(OUT_OF_REACH)?;
        // SAFETY: as above.
        unsafe {
            let old = load_u32::<0>(seq);
            let new = add_be(old, seq_delta);
            store_u32::<0>(seq, new);
            seq_diff = diff32(old, new);
        }
    }
    let mut diff = header_diff + u64::from(to.ports_diff) + seq_diff;

    // Eight bytes of the transport are always quoted, TCP's checksum is behind.
    let is_tcp = packet.key.proto == PROTOCOL_TCP;
    let check_offset = packet.l4_offset
        + if is_tcp {
            offset_of!(Tcp, check)
        } else {
            offset_of!(Udp, check)
        };
    if check_offset + 2 <= end
        && let Some(check) = ctx.header::<u16>(check_offset)
    {
        // SAFETY: as above.
        let old = unsafe { load_u16::<0>(check) };
        if is_tcp || old != 0 {
            let change = u64::from(to.addresses_diff) + u64::from(to.ports_diff) + seq_diff;
            let mut new = checksum::apply(old, change);
            if !is_tcp && new == 0 {
                new = 0xffff;
            }
            // SAFETY: as above.
            unsafe { store_u16::<0>(check, new) };
            diff += diff16(old, new);
        }
    }
    Ok(diff)
}
