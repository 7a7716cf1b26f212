// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ICMP and ICMPv6 errors about packets of flows, translated outside and inside
//! (RFC 5508 section 4, RFC 7915 has the same for two families).

use std::net::SocketAddr;

use gateway_common::{
    drop_reason::DropReason,
    flow::{KIND_DNAT, KIND_DSR, PROTOCOL_TCP, PROTOCOL_UDP},
};

use super::{
    Fate, Model, PASS, Rewritten,
    checksum::{Field, pseudo},
    encap,
    flow::TO_CLIENT,
    handoff,
    parse::{ICMPV6, Ip, Part, Tuple, word},
    rewrite, route, wrapped,
};

/// Length of the ICMP header in front of what is quoted.
pub const HEADER: usize = 8;

/// What an error quotes.
struct Quoted {
    /// Where its IP header and its transport start in the frame.
    ip: usize,
    l4: usize,
    /// As its sender saw it.
    tuple: Tuple,
}

/// Translates an error; all other ICMP is the stack's affair.
pub fn translate(model: &Model, frame: &[u8], ip: &Ip) -> Result<(Rewritten, route::Sent), Fate> {
    // What a fragment quotes may end anywhere, and its sum is that of all.
    if ip.part != Part::Whole {
        return Err(PASS);
    }
    let body = ip.bytes(ip.l4, frame);
    let kind = *frame[body.clone()].first().ok_or(PASS)?;
    // RFC 4443 section 3; RFC 792, without redirects and source quench, which
    // are for the gateway itself or for nobody (RFC 6633).
    let errors: &[u8] = if ip.is_v6 {
        &[1, 2, 3, 4]
    } else {
        &[3, 11, 12]
    };
    if !errors.contains(&kind) {
        return Err(PASS);
    }
    let quoted = match quoted(&frame[..body.end], ip) {
        Some(quoted) => quoted,
        None => return encap::told(model, frame, ip, &body),
    };
    // An error goes to the sender of the packet it is about.
    if quoted.tuple.src.ip() != ip.dst {
        return Err(PASS);
    }
    // The direction in which answers to that packet travel, as the error does.
    let found = model.flows.live(&quoted.tuple.reversed()).ok_or(PASS)?;
    // About a packet of the agent's.
    if model.flows.is_of_sockets(found) {
        return Err(PASS);
    }
    if ip.is_cut {
        return Err(Fate::Drop(DropReason::Malformed));
    }
    if ip.ttl <= 1 {
        return Err(Fate::Drop(DropReason::TtlExceeded));
    }
    let flow = model.flows.slot(found);
    let to = flow.dir[found.way].to;
    if flow.kind == KIND_DSR {
        // About what the backend has sent past this node: it goes to the backend.
        return Ok(wrapped(frame, ip, to));
    }
    // Clients know nobody behind the gateway, backends that are reached from
    // its own address nobody in front of it.
    let hidden = found.way == TO_CLIENT || flow.kind != KIND_DNAT;
    let sender = if hidden { to.src.ip() } else { ip.src };

    let mut out = Rewritten {
        frame: frame.to_vec(),
        loose: Vec::new(),
    };
    rewrite::header(
        frame,
        &mut out,
        super::parse::ETHERNET,
        [sender, to.dst.ip()],
        1,
    );
    let splicing = flow.splicing.as_ref();
    let delta = splicing.map_or(0, |splicing| splicing.quoted(found.way));
    // RFC 792 asks for eight bytes, which have the number.
    if delta != 0 && quoted.l4 + 8 > body.end {
        return Err(Fate::Drop(DropReason::Malformed));
    }
    inside(frame, &mut out, &quoted, &to, body.end, delta);
    let len = body.len();
    let field = Field {
        at: ip.l4 + 2,
        covers: body,
        pseudo: if ip.is_v6 {
            [
                pseudo(ip.src, ip.dst, ICMPV6, len),
                pseudo(sender, to.dst.ip(), ICMPV6, len),
            ]
        } else {
            [0; 2]
        },
        is_udp: false,
    };
    if field.refit(frame, &mut out.frame) {
        out.loose.push(field.at);
    }
    let sent = route::Sent {
        to,
        len: ip.len,
        may_be_fragmented: false,
    };
    Ok((out, sent))
}

/// Reads as much of the quoted packet as it takes to know its flow.
fn quoted(packet: &[u8], outer: &Ip) -> Option<Quoted> {
    let ip = outer.l4 + HEADER;
    let header = packet.get(ip..)?;
    let (protocol, header_len, src, dst) = if outer.is_v6 {
        let header = header.get(..40)?;
        let address = |at: usize| {
            let bytes: [u8; 16] = header[at..at + 16].try_into().unwrap();
            std::net::Ipv6Addr::from(bytes)
        };
        let (src, dst) = (address(8), address(24));
        let mapped = src.to_ipv4_mapped().or(dst.to_ipv4_mapped());
        if header[0] >> 4 != 6 || mapped.is_some() {
            return None;
        }
        // Quoted extension headers are not walked.
        (header[6], 40, src.into(), dst.into())
    } else {
        let header = header.get(..20)?;
        let header_len = usize::from(header[0] & 0xf) * 4;
        let later = word(header, 6)? & 0x1fff != 0;
        if header[0] >> 4 != 4 || header_len < 20 || later {
            return None;
        }
        let address = |at: usize| {
            let bytes: [u8; 4] = header[at..at + 4].try_into().unwrap();
            std::net::IpAddr::from(bytes)
        };
        (header[9], header_len, address(12), address(16))
    };
    if ![PROTOCOL_TCP, PROTOCOL_UDP].contains(&protocol) {
        return None;
    }
    let l4 = ip + header_len;
    Some(Quoted {
        ip,
        l4,
        tuple: Tuple {
            protocol,
            src: SocketAddr::new(src, word(packet, l4)?),
            dst: SocketAddr::new(dst, word(packet, l4 + 2)?),
        },
    })
}

/// Turns the quoted packet back into what its sender had sent: its source is
/// where the error goes, its destination where that host had sent it.
fn inside(frame: &[u8], out: &mut Rewritten, quoted: &Quoted, to: &Tuple, end: usize, delta: u32) {
    let (src, dst) = (to.dst, to.src);
    rewrite::header(frame, out, quoted.ip, [src.ip(), dst.ip()], 0);
    rewrite::ports(out, quoted.l4, src, dst);
    if delta != 0 {
        handoff::add(&mut out.frame, quoted.l4 + 4, delta);
    }
    let protocol = quoted.tuple.protocol;
    let at = quoted.l4 + rewrite::checksum_at(protocol);
    let is_udp = protocol == PROTOCOL_UDP;
    // Half a checksum is left alone, UDP's "none" too.
    if at + 2 > end || is_udp && word(frame, at) == Some(0) {
        return;
    }
    // Most of what it covers is not quoted: the difference is that of the
    // pseudo headers and the ports.
    let field = Field {
        at,
        covers: quoted.l4..end,
        pseudo: [
            pseudo(quoted.tuple.src.ip(), quoted.tuple.dst.ip(), protocol, 0),
            pseudo(src.ip(), dst.ip(), protocol, 0),
        ],
        is_udp,
    };
    field.refit(frame, &mut out.frame);
    if !is_udp {
        out.loose.push(at);
    }
}
