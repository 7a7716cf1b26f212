// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Replies to connections of the agent that have their client's address, and ICMP
//! errors about them.
//!
//! They are addressed to the client, and the stack would forward them. A mark makes
//! it take them for local: the agent keeps a rule and a route for that. At tc alone,
//! as XDP cannot mark a packet.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock_tuple},
    helpers::{bpf_sk_release, bpf_skc_lookup_tcp},
    programs::TcContext,
};
use gateway_common::{counters::VerdictCounter, flow::PROTOCOL_TCP, names::CALL_REPLY};

use crate::{
    aligned::Aligned,
    context::Context,
    fragment::{self, Fragment},
    icmp::{self, ICMP_LEN},
    maps::SETTINGS,
    packet::{Icmp, Packet},
    parse::{self, PASS},
    verdict::Verdict,
};

/// `TCP_LISTEN` of `net/tcp_states.h`.
const TCP_LISTEN: u32 = 10;
/// `TCP_NEW_SYN_RECV`.
const TCP_NEW_SYN_RECV: u32 = 12;
/// Length of the IPv4 part of `bpf_sock_tuple`, which tells the families apart.
const TUPLE_V4_LEN: u32 = 12;
/// Length of the IPv6 part.
const TUPLE_V6_LEN: u32 = 36;

/// Goes on with a packet that may be such a reply; else comes back. An error has the
/// key of a reply by now ([`crate::icmp`]).
#[inline(always)]
pub fn look<C: Context>(ctx: &C, packet: &Packet) {
    if C::IS_XDP || packet.key.proto != PROTOCOL_TCP {
        return;
    }
    let Some(settings) = SETTINGS.get(0) else {
        return;
    };
    let port = u32::from(u16::from_be(packet.key.dst_port_be));
    let is_ours = port >= settings.handoff_port_min && port <= settings.handoff_port_max;
    if settings.client_mark != 0 && is_ours {
        ctx.continue_with(CALL_REPLY);
    }
}

/// Marks the packet if the agent has a socket for it.
#[inline(always)]
pub fn handle(ctx: &TcContext, packet: &mut Packet) -> Result<Verdict, Verdict> {
    let mark = SETTINGS.get(0).map_or(0, |settings| settings.client_mark);
    let is_icmp = packet.is_icmp();
    if is_icmp {
        let icmp = ctx.header::<Icmp>(packet.l4_offset).ok_or(PASS)?;
        // SAFETY: `header` has compared its end with the end of the data.
        if !icmp::is_error(unsafe { *icmp }, packet.is_v6) {
            return Err(PASS);
        }
        let outer_dst = packet.key.dst;
        parse::quoted(ctx, packet, packet.l4_offset + ICMP_LEN)?;
        if packet.key.dst != outer_dst {
            return Err(PASS);
        }
    }
    if mark == 0 || packet.key.proto != PROTOCOL_TCP || !has_socket(ctx, packet) {
        return Err(PASS);
    }
    if packet.fragment == Fragment::First && !is_icmp {
        fragment::remember(packet);
    }
    // SAFETY: the kernel's context is valid while the program runs.
    unsafe { ptr::write_volatile(&raw mut (*ctx.skb.skb).mark, mark) };
    Ok(Verdict::Pass(VerdictCounter::ClientReply))
}

/// Whether a connection of this network namespace has exactly the packet's
/// addresses and ports. Listening sockets do not count: those are for packets that
/// are local anyway.
#[inline(always)]
fn has_socket(ctx: &TcContext, packet: &Packet) -> bool {
    let key = &packet.key;
    // As in `bpf_sock_tuple`: addresses, then ports, in network order.
    let mut words = Aligned([0_u32; TUPLE_V6_LEN as usize / 4]);
    let (src, dst) = (&key.src.bytes, &key.dst.bytes);
    let word = |bytes: &[u8; 16], at: usize| {
        u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    let ports = u32::from(key.src_port_be) | u32::from(key.dst_port_be) << 16;
    let len = if packet.is_v6 {
        words.0[0] = word(src, 0);
        words.0[1] = word(src, 4);
        words.0[2] = word(src, 8);
        words.0[3] = word(src, 12);
        words.0[4] = word(dst, 0);
        words.0[5] = word(dst, 4);
        words.0[6] = word(dst, 8);
        words.0[7] = word(dst, 12);
        words.0[8] = ports;
        TUPLE_V6_LEN
    } else {
        // The last four bytes of a mapped address.
        words.0[0] = word(src, 12);
        words.0[1] = word(dst, 12);
        words.0[2] = ports;
        TUPLE_V4_LEN
    };
    let tuple: *mut bpf_sock_tuple = (&raw mut words.0).cast();
    // SAFETY: the tuple is a local value of at least `len` bytes.
    let socket = unsafe {
        bpf_skc_lookup_tcp(
            ctx.skb.skb.cast(),
            tuple,
            len,
            BPF_F_CURRENT_NETNS as i64 as u64,
            0,
        )
    };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the look-up returned it, not null, and it is ours until the release.
    unsafe {
        let state = ptr::read_volatile(&raw const (*socket).state);
        bpf_sk_release(socket.cast());
        state != TCP_LISTEN && state != TCP_NEW_SYN_RECV
    }
}
