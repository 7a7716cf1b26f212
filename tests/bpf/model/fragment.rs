// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Fragments: the first of a packet tells the ports of the others.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use gateway_common::{addr::Addr16, fragment::FragmentKey};

use super::parse::{Ip, Transport, Tuple};

/// What the fragments of a packet share: source, destination, identification
/// and, with IPv4, the protocol (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub id: u32,
    pub protocol: Option<u8>,
}

impl Packet {
    fn of(ip: &Ip) -> Self {
        Self {
            src: ip.src,
            dst: ip.dst,
            id: ip.id,
            protocol: (!ip.is_v6).then_some(ip.protocol),
        }
    }

    /// As the map has it.
    pub fn key(&self) -> FragmentKey {
        FragmentKey {
            src: Addr16::from(self.src),
            dst: Addr16::from(self.dst),
            id_be: match self.src {
                IpAddr::V4(_) => u32::from((self.id as u16).to_be()),
                IpAddr::V6(_) => self.id.to_be(),
            },
            proto: self.protocol.unwrap_or(0),
            _pad: [0; 3],
        }
    }
}

/// What a first fragment said.
#[derive(Clone, Copy, Debug)]
pub struct First {
    pub tuple: Tuple,
    /// So long ago that nobody waits for the others any more
    /// (`FRAGMENT_TIMEOUT_NS`).
    pub is_old: bool,
}

/// The first fragments that were forwarded.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub packets: HashMap<Packet, First>,
}

impl Seen {
    /// Remembers the ports of a first fragment; the last one of its packet counts.
    pub fn remember(&mut self, ip: &Ip, transport: &Transport) {
        let first = First {
            tuple: transport.tuple,
            is_old: false,
        };
        self.packets.insert(Packet::of(ip), first);
    }

    /// A later fragment, with the ports that the first one had.
    pub fn recall(&self, ip: &Ip) -> Option<Transport> {
        let first = self.packets.get(&Packet::of(ip))?;
        let first = (!first.is_old).then_some(first.tuple)?;
        Some(Transport {
            tuple: Tuple {
                protocol: first.protocol,
                src: SocketAddr::new(ip.src, first.src.port()),
                dst: SocketAddr::new(ip.dst, first.dst.port()),
            },
            flags: 0,
            seq: 0,
            ack: 0,
            payload_len: 0,
            agrees: true,
            summed: 0..0,
            summed_len: 0,
        })
    }
}
