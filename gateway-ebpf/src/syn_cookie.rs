// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Challenges: does somebody at the source of a SYN receive what is sent there?
//!
//! A SYN cookie in the usual sense answers in the server's place and then needs
//! the sequence numbers of both sides to be translated for good, and the client's
//! options to be guessed. Here the server answers for itself, later: the SYN is
//! sent back as an acknowledgement of something that was never sent, whose number
//! is a cookie of the kernel. A real client has to answer that with a reset that
//! repeats the number (RFC 9293 section 3.10.7.3), stays in SYN-SENT and sends its
//! SYN again: Linux within two clock ticks, others after their retransmission
//! timeout. Nothing is kept until the reset has come, and the connection then
//! opens as any other.
//!
//! The cookie is that of the tuple and the minute (RFC 4987 section 3.6). The
//! client's own number is left out of it, because the reset does not repeat it:
//! whoever sees no answer has to guess 24 bits of a keyed hash.

use core::{ffi::c_long, mem::offset_of};

use aya_ebpf::helpers::{
    bpf_tcp_raw_check_syncookie_ipv4, bpf_tcp_raw_check_syncookie_ipv6,
    bpf_tcp_raw_gen_syncookie_ipv4, bpf_tcp_raw_gen_syncookie_ipv6,
};
use gateway_common::{checksum::diff16, drop_reason::DropReason, tcp_state::FLAG_ACK};

use crate::{
    aligned::Aligned,
    context::{Context, L4Checksum},
    packet::{ETHERNET_LEN, IPV6_LEN, Packet, TCP_LEN, Tcp},
    rewrite::{self, OUT_OF_REACH},
    verdict::Verdict,
    word::{load_u16, load_u32, store_u16, store_u32},
};

/// Length of a header without options, as its field has it.
const DATA_OFFSET: u8 = (TCP_LEN as u8 / 4) << 4;

/// Headers as the kernel's helpers take them. They read the addresses, the ports
/// and the numbers.
struct Headers {
    ip: Aligned<[u8; IPV6_LEN]>,
    tcp: Aligned<[u8; TCP_LEN]>,
}

impl Headers {
    /// Those of a segment of the client with these numbers, host order.
    #[inline(always)]
    fn new(packet: &Packet, seq: u32, ack: u32) -> Self {
        let mut ip = Aligned([0; IPV6_LEN]);
        let key = &packet.key;
        if packet.is_v6 {
            ip.0[8..24].copy_from_slice(&key.src.bytes);
            ip.0[24..40].copy_from_slice(&key.dst.bytes);
        } else {
            ip.0[12..16].copy_from_slice(&key.src.v4());
            ip.0[16..20].copy_from_slice(&key.dst.v4());
        }
        let mut tcp = Aligned([0; TCP_LEN]);
        tcp.0[..2].copy_from_slice(&key.src_port_be.to_ne_bytes());
        tcp.0[2..4].copy_from_slice(&key.dst_port_be.to_ne_bytes());
        tcp.0[4..8].copy_from_slice(&seq.to_be_bytes());
        tcp.0[8..12].copy_from_slice(&ack.to_be_bytes());
        tcp.0[offset_of!(Tcp, data_offset)] = DATA_OFFSET;
        Self { ip, tcp }
    }

    /// The kernel's cookie; negative when it makes none.
    #[inline(always)]
    fn cookie(&mut self, is_v6: bool) -> i64 {
        let (ip, tcp) = (self.ip.0.as_mut_ptr(), self.tcp.0.as_mut_ptr());
        // SAFETY: the headers are as long as their types, and live.
        unsafe {
            if is_v6 {
                bpf_tcp_raw_gen_syncookie_ipv6(ip.cast(), tcp.cast(), TCP_LEN as u32)
            } else {
                bpf_tcp_raw_gen_syncookie_ipv4(ip.cast(), tcp.cast(), TCP_LEN as u32)
            }
        }
    }

    /// 0 when the acknowledgement is that of a cookie of this minute or the last.
    #[inline(always)]
    fn check(&mut self, is_v6: bool) -> c_long {
        let (ip, tcp) = (self.ip.0.as_mut_ptr(), self.tcp.0.as_mut_ptr());
        // SAFETY: as above.
        unsafe {
            if is_v6 {
                bpf_tcp_raw_check_syncookie_ipv6(ip.cast(), tcp.cast())
            } else {
                bpf_tcp_raw_check_syncookie_ipv4(ip.cast(), tcp.cast())
            }
        }
    }
}

/// Turns a SYN into the challenge and sends it back; drops it for the reason given
/// when the kernel makes no cookies. Options, payload and time to live stay as they
/// are: the client looks at nothing before the number, and what is left of the way
/// here is enough for the way back.
#[inline(always)]
pub fn challenge<C: Context>(
    ctx: &C,
    packet: &Packet,
    otherwise: DropReason,
) -> Result<Verdict, Verdict> {
    let made = Headers::new(packet, 0, 0).cookie(packet.is_v6);
    if made < 0 {
        return Err(Verdict::Drop(otherwise));
    }
    // The upper half is the segment size that the cookie stands for.
    let cookie_be = (made as u32).to_be();
    let key = &packet.key;
    rewrite::header(ctx, packet.is_v6, ETHERNET_LEN, [&key.dst, &key.src], 0, 0)?;
    let tcp = ctx.header::<Tcp>(packet.l4_offset).ok_or(OUT_OF_REACH)?;
    const FLAGS: usize = offset_of!(Tcp, data_offset);
    const ACK: usize = offset_of!(Tcp, ack_be);
    // SAFETY: `header` has compared its end with the end of the data.
    let diff = unsafe {
        let old_ack = load_u32::<ACK>(tcp);
        let old_flags = load_u16::<FLAGS>(tcp);
        let [data_offset, _] = old_flags.to_ne_bytes();
        let flags = u16::from_ne_bytes([data_offset, FLAG_ACK as u8]);
        store_u16::<{ offset_of!(Tcp, ports.src_be) }>(tcp, key.dst_port_be);
        store_u16::<{ offset_of!(Tcp, ports.dst_be) }>(tcp, key.src_port_be);
        store_u32::<ACK>(tcp, cookie_be);
        store_u16::<FLAGS>(tcp, flags);
        diff32(old_ack, cookie_be) + diff16(old_flags, flags)
    };
    // Addresses and ports have changed places: their sum is the same.
    ctx.update_l4_checksum(&L4Checksum {
        offset: packet.l4_offset + offset_of!(Tcp, check),
        addresses: 0,
        header: diff,
        is_optional: false,
    })?;
    ctx.send_back()
}

#[inline(always)]
fn diff32(old: u32, new: u32) -> u64 {
    let half = |word: u32, i: u32| (word >> (16 * i)) as u16;
    diff16(half(old, 0), half(new, 0)) + diff16(half(old, 1), half(new, 1))
}

/// Whether a reset has the number of a challenge to its source.
#[inline(always)]
pub fn is_answer<C: Context>(ctx: &C, packet: &Packet) -> bool {
    let Some(tcp) = ctx.header::<Tcp>(packet.l4_offset) else {
        return false;
    };
    // SAFETY: `header` has compared its end with the end of the data.
    let seq_be = unsafe { load_u32::<{ offset_of!(Tcp, seq_be) }>(tcp) };
    let cookie = u32::from_be(seq_be);
    // As a client's third segment would have it: one more than both numbers.
    Headers::new(packet, 1, cookie.wrapping_add(1)).check(packet.is_v6) == 0
}
