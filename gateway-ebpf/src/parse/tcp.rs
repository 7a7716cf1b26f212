// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! TCP.

use core::mem::offset_of;

use crate::{
    context::Context,
    packet::{Packet, TCP_LEN, Tcp},
};

/// Completes `packet` from its TCP header, which follows an IP header of
/// `ip_header_len` bytes; false when header and lengths contradict each other.
#[inline(always)]
pub fn parse<C: Context>(ctx: &C, packet: &mut Packet, ip_header_len: u32) -> bool {
    let Some(tcp) = ctx.header::<Tcp>(packet.l4_offset) else {
        return false;
    };
    // SAFETY: `header` has compared its end with the end of the data.
    let (data_offset, flags) = unsafe {
        (
            *tcp.add(offset_of!(Tcp, data_offset)),
            *tcp.add(offset_of!(Tcp, flags)),
        )
    };
    let tcp_header_len = u32::from(data_offset >> 4) * 4;
    packet.header_len = ip_header_len + tcp_header_len;
    packet.tcp_flags = u32::from(flags);
    tcp_header_len >= TCP_LEN as u32 && packet.header_len <= packet.ip_len
}
