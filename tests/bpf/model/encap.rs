// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Direct return: packets whole inside others (RFC 2003, RFC 2473), flows of which
//! one side alone is seen, and what the network says about the outer packets.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use gateway_common::{
    addr::Addr16,
    backend::Backend,
    drop_reason::DropReason,
    flow::{KIND_DSR, PROTOCOL_TCP, PROTOCOL_UDP},
    tcp_state::{FLAG_ACK, FLAG_FIN, FLAG_RST, FLAG_SYN, TCP_CLOSING, TCP_ESTABLISHED, TCP_RESET},
};

use super::{
    Fate, Model, PASS, Rewritten,
    checksum::{Field, pseudo},
    flow::{Reference, Slot, TO_BACKEND, Table},
    icmp::HEADER as ICMP_HEADER,
    parse::{ETHERNET, ICMP, ICMPV6, Ip, Transport, Tuple, address, word},
    rewrite, route,
};

/// Numbers of IPv4 and IPv6 as what a packet holds.
pub const IPIP: u8 = 4;
pub const IPV6: u8 = 41;
/// Hops of a packet that this node makes.
const TTL: u8 = 64;

/// Bytes of a header without options.
pub fn header_len(is_v6: bool) -> usize {
    if is_v6 { 40 } else { 20 }
}

impl Table {
    /// Inserts the only key of a flow whose backend answers past this node: how its
    /// packets go out, and the key that answers would have.
    pub fn direct(
        &mut self,
        index: u32,
        original: &Tuple,
        backend: &Backend,
    ) -> Result<(u32, Tuple, Tuple), DropReason> {
        if backend.snat_addr == Addr16::ANY {
            return Err(DropReason::BadMapEntry);
        }
        if self.is_taken(original) {
            return Err(DropReason::ReplyTupleTaken);
        }
        let reference = Reference {
            slot: index,
            generation: self.slots[&index].generation,
            way: TO_BACKEND,
        };
        self.keys.insert(*original, reference);
        // Ports stay: no header that is written has any.
        let to = Tuple {
            src: SocketAddr::new(backend.snat_addr.into(), original.src.port()),
            dst: SocketAddr::new(backend.addr.into(), original.dst.port()),
            ..*original
        };
        Ok((KIND_DSR, to, original.reversed()))
    }
}

/// Follows a TCP connection of which the client alone is seen, and so believed.
pub fn track(slot: &mut Slot, transport: &Transport) {
    let has = |flag: u32| transport.flags & flag != 0;
    slot.dir[TO_BACKEND].flags |= transport.flags & (FLAG_FIN | FLAG_SYN | FLAG_RST);
    slot.progress = match slot.progress {
        TCP_RESET => TCP_RESET,
        _ if has(FLAG_RST) => TCP_RESET,
        _ if has(FLAG_FIN) => TCP_CLOSING,
        // It acknowledges the backend's SYN, which nobody here has seen.
        progress if progress < TCP_ESTABLISHED && has(FLAG_ACK) && !has(FLAG_SYN) => {
            TCP_ESTABLISHED
        }
        progress => progress,
    };
}

/// The packet in another one between the addresses of `to`, one hop on.
pub fn packet(frame: &[u8], ip: &Ip, to: &Tuple) -> Rewritten {
    let mut out = Rewritten {
        frame: frame.to_vec(),
        loose: Vec::new(),
    };
    rewrite::header(frame, &mut out, ETHERNET, [ip.src, ip.dst], 1);
    let inner = &frame[ETHERNET..];
    let header = if ip.is_v6 {
        // Traffic class and flow label are the inner one's (RFC 2473 section 6.4).
        v6(inner[..4].try_into().unwrap(), ip.len, IPV6, to)
    } else {
        let id = u16::from_le_bytes([inner[4], inner[5]]);
        let offset = word(inner, 6).unwrap() & 0x1fff;
        v4(
            &HeaderV4 {
                class: inner[1],
                len: 20 + ip.len,
                // Fragments of one packet share their number and need others: each
                // is a packet of its own now.
                id: id.wrapping_add(offset.wrapping_mul(0x9e37)).to_le_bytes(),
                // RFC 2003 section 3.1.
                dont_fragment: inner[6] & 0x40 != 0,
                protocol: IPIP,
            },
            to,
        )
    };
    for at in &mut out.loose {
        *at += header.len();
    }
    out.frame.splice(ETHERNET..ETHERNET, header);
    out
}

/// What an IPv4 header says beside the addresses.
struct HeaderV4 {
    class: u8,
    /// Of the whole packet.
    len: usize,
    id: [u8; 2],
    dont_fragment: bool,
    protocol: u8,
}

fn v4(header: &HeaderV4, to: &Tuple) -> Vec<u8> {
    let mut bytes = vec![0x45, header.class];
    bytes.extend((header.len as u16).to_be_bytes());
    bytes.extend(header.id);
    bytes.extend([u8::from(header.dont_fragment) << 6, 0]);
    bytes.extend([TTL, header.protocol, 0, 0]);
    for end in [to.src, to.dst] {
        match end.ip() {
            IpAddr::V4(ip) => bytes.extend(ip.octets()),
            IpAddr::V6(ip) => panic!("{ip} in an IPv4 header"),
        }
    }
    let field = Field {
        at: 10,
        covers: 0..20,
        pseudo: [0; 2],
        is_udp: false,
    };
    field.fill(&mut bytes);
    bytes
}

/// `first` is the word with version, class and label.
fn v6(first: [u8; 4], payload: usize, next: u8, to: &Tuple) -> Vec<u8> {
    let mut bytes = first.to_vec();
    bytes.extend((payload as u16).to_be_bytes());
    bytes.extend([next, TTL]);
    for end in [to.src, to.dst] {
        match end.ip() {
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
            IpAddr::V4(ip) => panic!("{ip} in an IPv6 header"),
        }
    }
    bytes
}

/// An error about a packet that was wrapped becomes this node's own about the
/// packet inside, from the address that it was sent to. `body` is the error.
pub fn told(
    model: &Model,
    frame: &[u8],
    ip: &Ip,
    body: &Range<usize>,
) -> Result<(Rewritten, route::Sent), Fate> {
    let header = header_len(ip.is_v6);
    // Options would make what is taken out longer than what it holds.
    if ip.is_cut || ip.l4 != ETHERNET + header {
        return Err(PASS);
    }
    let outer = ip.l4 + ICMP_HEADER;
    let inner = outer + header;
    // With ports, whatever the transport is.
    let quoted = frame[..body.end].get(inner..inner + header + 8);
    let quoted = quoted.ok_or(PASS)?;
    let (protocol, src, dst) = plain(&frame[outer..inner], ip.is_v6).ok_or(PASS)?;
    let of_tunnel = if ip.is_v6 { IPV6 } else { IPIP };
    if protocol != of_tunnel || src != ip.dst {
        return Err(PASS);
    }
    let (protocol, client, vip) = plain(quoted, ip.is_v6).ok_or(PASS)?;
    let is_later = !ip.is_v6 && word(quoted, 6).unwrap() & 0x1fff != 0;
    let mapped = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if ![PROTOCOL_TCP, PROTOCOL_UDP].contains(&protocol)
        || is_later
        || mapped(&client)
        || mapped(&vip)
    {
        return Err(PASS);
    }
    let ports = [0, 2].map(|at| word(quoted, header + at).unwrap());
    let original = Tuple {
        protocol,
        src: SocketAddr::new(client, ports[0]),
        dst: SocketAddr::new(vip, ports[1]),
    };
    let found = model.flows.live(&original).ok_or(PASS)?;
    let flow = model.flows.slot(found);
    let to = flow.dir[found.way].to;
    if flow.kind != KIND_DSR || found.way != TO_BACKEND || [to.src.ip(), to.dst.ip()] != [src, dst]
    {
        return Err(PASS);
    }
    let head = meaning(&frame[ip.l4..], ip.is_v6).ok_or(PASS)?;

    let back = original.reversed();
    let mut message = [&head[..2], &[0, 0], &head[2..], quoted].concat();
    let field = Field {
        at: 2,
        covers: 0..message.len(),
        pseudo: if ip.is_v6 {
            [pseudo(vip, client, ICMPV6, message.len()); 2]
        } else {
            [0; 2]
        },
        is_udp: false,
    };
    field.fill(&mut message);
    let len = header + message.len();
    let header = if ip.is_v6 {
        v6([0x60, 0, 0, 0], message.len(), ICMPV6, &back)
    } else {
        v4(
            &HeaderV4 {
                class: 0,
                len,
                id: [0; 2],
                dont_fragment: true,
                protocol: ICMP,
            },
            &back,
        )
    };
    let rewritten = Rewritten {
        frame: [&frame[..ETHERNET], &header, &message].concat(),
        loose: Vec::new(),
    };
    let sent = route::Sent {
        to: back,
        len,
        may_be_fragmented: false,
    };
    Ok((rewritten, sent))
}

/// Protocol, source and destination of a header without options.
fn plain(header: &[u8], is_v6: bool) -> Option<(u8, IpAddr, IpAddr)> {
    if is_v6 {
        (header[0] >> 4 == 6).then(|| {
            (
                header[6],
                address(header, 8, true),
                address(header, 24, true),
            )
        })
    } else {
        (header[0] == 0x45).then(|| {
            (
                header[9],
                address(header, 12, false),
                address(header, 16, false),
            )
        })
    }
}

/// What an error about the outer packet means to the sender of the inner one: type
/// and code, and the four bytes behind the checksum (RFC 2003 section 4, RFC 2473
/// section 8).
fn meaning(error: &[u8], is_v6: bool) -> Option<[u8; 6]> {
    let (kind, code) = (error[0], error[1]);
    let detail = u32::from_be_bytes(error[4..8].try_into().unwrap());
    let with = |kind: u8, code: u8, detail: u32| {
        let mut head = [kind, code, 0, 0, 0, 0];
        head[2..].copy_from_slice(&detail.to_be_bytes());
        Some(head)
    };
    match (is_v6, kind, code) {
        (false, 3, 4) => match detail & 0xffff {
            // It does not say how much it takes (RFC 792 has no such field).
            ..=20 => None,
            mtu => with(3, 4, mtu - 20),
        },
        // The backend does not unwrap: nothing that the client has done.
        (false, 3, 2) | (false, 11, _) => with(3, 1, 0),
        // No port and no source route was in the outer packet.
        (false, 3, 3 | 5) => None,
        (false, 3, code) => with(3, code, 0),
        (true, 1, 4) => None,
        (true, 1, code) => with(1, code, 0),
        (true, 2, _) => with(2, 0, detail.saturating_sub(40)),
        // As above; 4, 1 is a next header that is not known.
        (true, 3, _) | (true, 4, 1) => with(1, 3, 0),
        _ => None,
    }
}
