// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From bytes to what a packet says (RFC 791, RFC 8200, RFC 9293, RFC 768).

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::Range,
};

use gateway_common::{
    flow::{FlowKey, PROTOCOL_TCP, PROTOCOL_UDP},
    tcp_state::{FLAG_ACK, FLAG_RST, FLAG_SYN},
};

use crate::{
    lab::{Hook, PODS, PODS_MAC, WIRE_MAC},
    maps,
};

pub const ETHERNET: usize = 14;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

/// Extension headers that are walked (RFC 8200 section 4.1 lists six in front
/// of TCP, destination options twice among them), and their bytes together.
const EXTENSIONS: usize = 6;
const EXTENSION_BYTES: usize = 255;

/// Protocol, source and destination as a packet shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub protocol: u8,
    pub src: SocketAddr,
    pub dst: SocketAddr,
}

impl Tuple {
    /// As the maps have it.
    pub fn key(&self) -> FlowKey {
        maps::key_of(self.protocol, self.src, self.dst)
    }

    /// That of an answer.
    pub fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            ..*self
        }
    }
}

/// Which part of an IP packet a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    First,
    Later,
}

/// An IP packet of TCP, UDP or ICMP.
#[derive(Clone, Debug)]
pub struct Ip {
    pub is_v6: bool,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub ttl: u8,
    /// Of the transport; what a later fragment of IPv6 says about it is 44.
    pub protocol: u8,
    pub part: Part,
    /// Identification, if a fragment.
    pub id: u32,
    /// Length that its header claims, bytes.
    pub len: usize,
    /// Where the transport starts in the frame.
    pub l4: usize,
    /// Its lengths contradict each other: its end is not in the frame, or its
    /// headers are longer than all of it.
    pub is_cut: bool,
}

impl Ip {
    pub fn is_icmp(&self) -> bool {
        [ICMP, ICMPV6].contains(&self.protocol)
    }

    /// What of the packet's bytes from `start` on are in the frame; what follows
    /// the packet is padding.
    pub fn bytes(&self, start: usize, frame: &[u8]) -> Range<usize> {
        let end = (ETHERNET + self.len).min(frame.len());
        start.min(end)..end
    }
}

/// Two bytes in network order.
pub fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

/// The IP packet of a frame, if it is one for this host that could be ours.
pub fn frame(hook: Hook, interface: &str, frame: &[u8]) -> Option<Ip> {
    let destination = frame.get(..6)?;
    let ours = match hook {
        // XDP knows no address of the interface: groups are told apart.
        Hook::Xdp => destination[0] & 1 == 0,
        Hook::Tc => {
            destination
                == if interface == PODS {
                    PODS_MAC
                } else {
                    WIRE_MAC
                }
        }
    };
    if !ours {
        return None;
    }
    match word(frame, 12)? {
        0x0800 => ipv4(frame),
        0x86dd => ipv6(frame),
        _ => None,
    }
}

/// The address at an offset of a header.
pub fn address(header: &[u8], at: usize, is_v6: bool) -> IpAddr {
    if is_v6 {
        IpAddr::from(<[u8; 16]>::try_from(&header[at..at + 16]).unwrap())
    } else {
        IpAddr::from(<[u8; 4]>::try_from(&header[at..at + 4]).unwrap())
    }
}

fn is_forwarded(protocol: u8) -> bool {
    [PROTOCOL_TCP, PROTOCOL_UDP].contains(&protocol)
}

/// RFC 791 section 3.1.
fn ipv4(frame: &[u8]) -> Option<Ip> {
    let header = frame.get(ETHERNET..ETHERNET + 20)?;
    let header_len = usize::from(header[0] & 0xf) * 4;
    let protocol = header[9];
    if header[0] >> 4 != 4 || header_len < 20 || !(is_forwarded(protocol) || protocol == ICMP) {
        return None;
    }
    let fragment = word(header, 6)?;
    let part = match (fragment & 0x1fff, fragment & 0x2000 != 0) {
        (0, false) => Part::Whole,
        (0, true) => Part::First,
        _ => Part::Later,
    };
    let len = usize::from(word(header, 2)?);
    let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&header[at..at + 4]).unwrap());
    Some(Ip {
        is_v6: false,
        src: address(12),
        dst: address(16),
        ttl: header[8],
        protocol,
        part,
        id: u32::from(word(header, 4)?),
        len,
        l4: ETHERNET + header_len,
        is_cut: ETHERNET + len > frame.len() || header_len > len,
    })
}

/// RFC 8200 sections 3 and 4.
fn ipv6(frame: &[u8]) -> Option<Ip> {
    let header = frame.get(ETHERNET..ETHERNET + 40)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&header[at..at + 16]).unwrap());
    let (src, dst) = (address(8), address(24));
    // They never stand on a wire (RFC 4942 section 2.2).
    if src.to_ipv4_mapped().is_some() || dst.to_ipv4_mapped().is_some() {
        return None;
    }
    let len = 40 + usize::from(word(header, 4)?);
    let mut ip = Ip {
        is_v6: true,
        src: src.into(),
        dst: dst.into(),
        ttl: header[7],
        protocol: header[6],
        part: Part::Whole,
        id: 0,
        len,
        l4: ETHERNET + 40,
        is_cut: false,
    };
    // ICMPv6 behind extension headers is the stack's affair.
    if ip.protocol != ICMPV6 {
        extensions(frame, &mut ip)?;
    }
    ip.is_cut = ETHERNET + len > frame.len() || ip.l4 - ETHERNET > len;
    Some(ip)
}

/// Walks to TCP or UDP, or to the fragment header of a later fragment.
fn extensions(frame: &[u8], ip: &mut Ip) -> Option<()> {
    let start = ip.l4;
    for position in 0.. {
        if is_forwarded(ip.protocol) {
            return Some(());
        }
        if position == EXTENSIONS {
            return None;
        }
        let header = frame.get(ip.l4..ip.l4 + 8)?;
        let mut len = (usize::from(header[1]) + 1) * 8;
        match ip.protocol {
            // First or nowhere (RFC 8200 section 4.1).
            0 if position == 0 => {}
            60 => {}
            // With segments left this node is one of the stops.
            43 if header[3] == 0 => {}
            44 => {
                len = 8;
                ip.id = u32::from_be_bytes(header[4..8].try_into().unwrap());
                let field = word(header, 2)?;
                if field >> 3 != 0 {
                    ip.part = Part::Later;
                } else if field & 1 != 0 {
                    // The only fragment of its packet is the packet (RFC 6946).
                    ip.part = Part::First;
                }
            }
            _ => return None,
        }
        ip.l4 += len;
        if ip.l4 - start > EXTENSION_BYTES {
            return None;
        }
        if ip.part == Part::Later {
            return Some(());
        }
        ip.protocol = header[0];
    }
    None
}

/// What TCP or UDP say.
#[derive(Clone, Debug)]
pub struct Transport {
    pub tuple: Tuple,
    /// TCP's flag byte.
    pub flags: u32,
    /// TCP's numbers.
    pub seq: u32,
    pub ack: u32,
    /// Bytes behind TCP's header in this packet.
    pub payload_len: usize,
    /// Whether its lengths fit the packet's.
    pub agrees: bool,
    /// The bytes that its checksum covers, as far as this packet has them.
    pub summed: Range<usize>,
    /// The length in the pseudo header.
    pub summed_len: usize,
}

impl Transport {
    /// Reads the ports and what follows them; nothing without ports.
    pub fn read(frame: &[u8], ip: &Ip) -> Option<Self> {
        let ports = [word(frame, ip.l4)?, word(frame, ip.l4 + 2)?];
        let rest = ip.bytes(ip.l4, frame);
        let mut transport = Self {
            tuple: Tuple {
                protocol: ip.protocol,
                src: (ip.src, ports[0]).into(),
                dst: (ip.dst, ports[1]).into(),
            },
            flags: 0,
            seq: 0,
            ack: 0,
            payload_len: 0,
            agrees: false,
            summed_len: rest.len(),
            summed: rest.clone(),
        };
        let bytes = &frame[rest.clone()];
        if ip.protocol == PROTOCOL_TCP {
            if bytes.len() >= 20 {
                let header_len = usize::from(bytes[12] >> 4) * 4;
                transport.flags = u32::from(bytes[13]);
                transport.seq = u32::from_be_bytes(bytes[4..8].try_into().unwrap());
                transport.ack = u32::from_be_bytes(bytes[8..12].try_into().unwrap());
                transport.payload_len = bytes.len().saturating_sub(header_len);
                transport.agrees = (20..=bytes.len()).contains(&header_len);
            }
        } else if bytes.len() >= 8 {
            let len = usize::from(word(bytes, 4)?);
            // The rest of a datagram is in other fragments; more than it may
            // follow in its packet (RFC 9868).
            transport.agrees = len >= 8 && (len <= bytes.len() || ip.part == Part::First);
            if transport.agrees {
                transport.summed_len = len;
                transport.summed.end = transport.summed.end.min(ip.l4 + len);
            }
        }
        Some(transport)
    }

    /// Whether it can be the first packet of a flow: any of UDP; of TCP a SYN,
    /// which is no answer and no reset (RFC 9293 section 3.10.7.2: a reset
    /// opens nothing).
    pub fn opens(&self) -> bool {
        let handshake = self.flags & (FLAG_SYN | FLAG_ACK | FLAG_RST);
        self.tuple.protocol == PROTOCOL_UDP || handshake == FLAG_SYN
    }
}
