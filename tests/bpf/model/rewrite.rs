// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The packet with other addresses and ports, one hop on.

use std::net::{IpAddr, SocketAddr};

use gateway_common::flow::{PROTOCOL_TCP, PROTOCOL_UDP};

use super::{
    Rewritten,
    checksum::{Field, pseudo},
    parse::{ETHERNET, Ip, Part, Transport, Tuple, word},
};

/// Rewrites a packet to `to`, and what else `change` changes in its transport
/// header.
pub fn packet(
    frame: &[u8],
    ip: &Ip,
    transport: &Transport,
    to: &Tuple,
    change: impl FnOnce(&mut [u8]),
) -> Rewritten {
    let mut out = Rewritten {
        frame: frame.to_vec(),
        loose: Vec::new(),
    };
    header(frame, &mut out, ETHERNET, [to.src.ip(), to.dst.ip()], 1);
    if ip.part == Part::Later {
        return out;
    }
    ports(&mut out, ip.l4, to.src, to.dst);
    change(&mut out.frame);
    let protocol = transport.tuple.protocol;
    let is_udp = protocol == PROTOCOL_UDP;
    let at = ip.l4 + checksum_at(protocol);
    // UDP's zero says that there is none (RFC 768; RFC 6935 for IPv6).
    if is_udp && word(frame, at) == Some(0) {
        return out;
    }
    let len = transport.summed_len;
    let field = Field {
        at,
        covers: transport.summed.clone(),
        pseudo: [
            pseudo(ip.src, ip.dst, protocol, len),
            pseudo(to.src.ip(), to.dst.ip(), protocol, len),
        ],
        is_udp,
    };
    // Of a part of what is summed up nobody can tell whether it is right.
    if field.refit(frame, &mut out.frame) || ip.part == Part::First && !is_udp {
        out.loose.push(at);
    }
    out
}

/// Offset of the checksum in the transport header.
pub fn checksum_at(protocol: u8) -> usize {
    if protocol == PROTOCOL_TCP { 16 } else { 6 }
}

/// Writes both addresses of the IP header at `at`, takes `hops` off its time to
/// live, and puts the header's checksum right.
pub fn header(before: &[u8], out: &mut Rewritten, at: usize, [src, dst]: [IpAddr; 2], hops: u8) {
    let frame = &mut out.frame;
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            frame[at + 8] -= hops;
            frame[at + 12..][..4].copy_from_slice(&src.octets());
            frame[at + 16..][..4].copy_from_slice(&dst.octets());
            let len = usize::from(frame[at] & 0xf) * 4;
            let field = Field {
                at: at + 10,
                covers: at..(at + len).min(frame.len()),
                pseudo: [0; 2],
                is_udp: false,
            };
            if field.refit(before, frame) {
                out.loose.push(field.at);
            }
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            frame[at + 7] -= hops;
            frame[at + 8..][..16].copy_from_slice(&src.octets());
            frame[at + 24..][..16].copy_from_slice(&dst.octets());
        }
        other => panic!("translated between the families: {other:?}"),
    }
}

/// Writes both ports.
pub fn ports(out: &mut Rewritten, at: usize, src: SocketAddr, dst: SocketAddr) {
    out.frame[at..][..2].copy_from_slice(&src.port().to_be_bytes());
    out.frame[at + 2..][..2].copy_from_slice(&dst.port().to_be_bytes());
}
