// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets from their parts, with checksums that are right: whole, in fragments,
//! or quoted in an error.

use std::net::{IpAddr, SocketAddr};

use gateway_common::flow::{PROTOCOL_TCP, PROTOCOL_UDP};

use crate::model::{
    checksum::{Field, pseudo},
    parse::{ICMP, ICMPV6, Tuple},
};

/// A packet to be.
#[derive(Clone, Debug)]
pub struct Draft {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    /// TCP or UDP; for anything else `payload` is all of it.
    pub protocol: u8,
    pub ttl: u8,
    pub class: u8,
    pub id: u32,
    pub dont_fragment: bool,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers: number and bytes, of which the first is filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    /// A multiple of four bytes.
    pub tcp_options: Vec<u8>,
    pub payload: Vec<u8>,
    /// UDP may go without.
    pub has_checksum: bool,
}

impl Draft {
    /// A plain one.
    pub fn new(tuple: &Tuple) -> Self {
        Self {
            src: tuple.src,
            dst: tuple.dst,
            protocol: tuple.protocol,
            ttl: 64,
            class: 0,
            id: 0,
            dont_fragment: false,
            options: Vec::new(),
            extensions: Vec::new(),
            flags: 0,
            seq: 1,
            ack: 1,
            window: 0x2000,
            tcp_options: Vec::new(),
            payload: Vec::new(),
            has_checksum: true,
        }
    }

    /// All of it, from the IP header on.
    pub fn whole(&self) -> Vec<u8> {
        self.wrap(&self.transport(), None)
    }

    /// In pieces of `size` bytes of payload, a multiple of eight.
    pub fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        let transport = self.transport();
        let count = transport.len().div_ceil(size);
        let pieces = transport.chunks(size).enumerate();
        pieces
            .map(|(index, piece)| self.wrap(piece, Some((index * size, index + 1 < count))))
            .collect()
    }

    /// Transport header and payload.
    fn transport(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.src.port().to_be_bytes());
        bytes.extend(self.dst.port().to_be_bytes());
        match self.protocol {
            PROTOCOL_TCP => {
                bytes.extend(self.seq.to_be_bytes());
                bytes.extend(self.ack.to_be_bytes());
                let words = 5 + self.tcp_options.len() / 4;
                bytes.extend([(words as u8) << 4, self.flags]);
                bytes.extend(self.window.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(&self.tcp_options);
                bytes.extend(&self.payload);
                self.sum_up(&mut bytes, 16);
            }
            PROTOCOL_UDP => {
                bytes.extend((8 + self.payload.len() as u16).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(&self.payload);
                if self.has_checksum {
                    self.sum_up(&mut bytes, 6);
                }
            }
            ICMP | ICMPV6 => {
                bytes.clone_from(&self.payload);
                self.sum_up(&mut bytes, 2);
            }
            _ => bytes.clone_from(&self.payload),
        }
        bytes
    }

    fn sum_up(&self, bytes: &mut [u8], at: usize) {
        let sum = if self.protocol == ICMP {
            0
        } else {
            pseudo(self.src.ip(), self.dst.ip(), self.protocol, bytes.len())
        };
        let field = Field {
            at,
            covers: 0..bytes.len(),
            pseudo: [sum; 2],
            is_udp: self.protocol == PROTOCOL_UDP,
        };
        field.fill(bytes);
    }

    /// In an IP packet; as a fragment from an offset on, with more to come or
    /// not.
    fn wrap(&self, body: &[u8], fragment: Option<(usize, bool)>) -> Vec<u8> {
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let header_len = 20 + self.options.len();
                let (offset, more) = fragment.unwrap_or((0, false));
                let flags = u16::from(more) << 13 | u16::from(self.dont_fragment) << 14;
                let mut packet = vec![0x40 | (header_len / 4) as u8, self.class];
                packet.extend(((header_len + body.len()) as u16).to_be_bytes());
                packet.extend((self.id as u16).to_be_bytes());
                packet.extend((flags | (offset / 8) as u16).to_be_bytes());
                packet.extend([self.ttl, self.protocol, 0, 0]);
                packet.extend(src.octets());
                packet.extend(dst.octets());
                packet.extend(&self.options);
                let field = Field {
                    at: 10,
                    covers: 0..header_len,
                    pseudo: [0; 2],
                    is_udp: false,
                };
                field.fill(&mut packet);
                packet.extend(body);
                packet
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut headers = self.extensions.clone();
                if let Some((offset, more)) = fragment {
                    let mut header = vec![0, 0];
                    header.extend((offset as u16 | u16::from(more)).to_be_bytes());
                    header.extend(self.id.to_be_bytes());
                    headers.push((44, header));
                }
                let mut rest = body.to_vec();
                let mut next = self.protocol;
                for (number, mut header) in headers.into_iter().rev() {
                    header[0] = next;
                    next = number;
                    rest.splice(0..0, header);
                }
                let mut packet = vec![0x60 | self.class >> 4, self.class << 4 | 5, 0x67, 0x8a];
                packet.extend((rest.len() as u16).to_be_bytes());
                packet.extend([next, self.ttl]);
                packet.extend(src.octets());
                packet.extend(dst.octets());
                packet.extend(rest);
                packet
            }
            other => panic!("{other:?}"),
        }
    }
}
