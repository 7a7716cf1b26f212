// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets built from scratch, with checksums that owe nothing to the code
//! under test.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader,
};
use gateway_common::{
    flow::{PROTOCOL_TCP, PROTOCOL_UDP},
    tcp_state::{FLAG_ACK, FLAG_FIN, FLAG_RST, FLAG_SYN},
};

use crate::lab::{
    Action, CLIENT_MAC, Hook, Lab, Outcome, PODS, PODS_MAC, WIRE, WIRE_MAC, backend_mac,
};

pub const SYN: u32 = FLAG_SYN;
pub const ACK: u32 = FLAG_ACK;
pub const SYN_ACK: u32 = FLAG_SYN | FLAG_ACK;
pub const FIN_ACK: u32 = FLAG_FIN | FLAG_ACK;
pub const RST: u32 = FLAG_RST;

/// The client of most cases,
pub const CLIENT: &str = "192.0.2.2:40000";
/// the service it calls,
pub const VIP: &str = "198.51.100.1:1883";
/// and the backend that serves it.
pub const BACKEND: &str = "10.1.0.11:11883";

/// The same over IPv6.
pub const CLIENT6: &str = "[2001:db8::2]:40000";
pub const VIP6: &str = "[fd97::1]:1883";
pub const BACKEND6: &str = "[fd01::b]:11883";

/// A client, a service and its backend of each family.
pub const FAMILIES: [[&str; 3]; 2] = [[CLIENT, VIP, BACKEND], [CLIENT6, VIP6, BACKEND6]];

/// One service with one backend, reached by DNAT, and room for 64 flows.
pub fn one_backend(lab: &mut Lab) {
    lab.free_slots(0..64);
    lab.dnat_backend(1, at(BACKEND));
    lab.service(at(VIP), &[1]);
}

/// An address and port.
pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// One TCP segment or UDP datagram in an Ethernet frame.
#[derive(Clone, Debug)]
pub struct Segment {
    pub eth_src: [u8; 6],
    pub eth_dst: [u8; 6],
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub ttl: u8,
    /// DSCP and ECN.
    pub class: u8,
    pub protocol: u8,
    pub flags: u32,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub ip_options: Vec<u8>,
    /// Extension headers of IPv6: their numbers, and their bytes, of which the
    /// first is filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub tcp_options: Vec<u8>,
    pub payload: Vec<u8>,
    pub more_fragments: bool,
    /// UDP without a checksum.
    pub no_checksum: bool,
}

impl Segment {
    /// A segment from the client, as it comes in by the wire.
    pub fn from_client(src: SocketAddr, dst: SocketAddr, flags: u32) -> Self {
        Self {
            eth_src: CLIENT_MAC,
            eth_dst: WIRE_MAC,
            src,
            dst,
            ttl: 64,
            class: 0,
            protocol: PROTOCOL_TCP,
            flags,
            seq: 0x0102_0304,
            ack: 0x0a0b_0c0d,
            window: 8192,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            tcp_options: Vec::new(),
            payload: if flags & FLAG_SYN != 0 {
                Vec::new()
            } else {
                b"request!!".to_vec()
            },
            more_fragments: false,
            no_checksum: false,
        }
    }

    /// A segment from a backend, as it comes in by the pods' interface.
    pub fn from_backend(src: SocketAddr, dst: SocketAddr, flags: u32) -> Self {
        Self {
            eth_src: mac_of(src.ip()),
            eth_dst: PODS_MAC,
            payload: b"the answer".to_vec(),
            ..Self::from_client(src, dst, flags)
        }
    }

    /// As UDP.
    pub fn udp(self) -> Self {
        Self {
            protocol: PROTOCOL_UDP,
            flags: 0,
            ..self
        }
    }

    /// The interface it comes in by.
    fn interface(&self) -> &'static str {
        if self.eth_dst == WIRE_MAC { WIRE } else { PODS }
    }

    pub fn frame(&self) -> Vec<u8> {
        let mut frame = [self.eth_dst, self.eth_src].concat();
        let mut body = Vec::new();
        let mut next = self.protocol;
        for (number, bytes) in self.extensions.iter().rev() {
            let mut header = bytes.clone();
            header[0] = next;
            body.splice(0..0, header);
            next = *number;
        }
        body.extend(self.transport());
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut ip =
                    Ipv4Header::new(0, self.ttl, IpNumber(next), src.octets(), dst.octets())
                        .unwrap();
                ip.dscp = (self.class >> 2).try_into().unwrap();
                ip.ecn = (self.class & 3).try_into().unwrap();
                ip.identification = 0x1234;
                ip.dont_fragment = !self.more_fragments;
                ip.more_fragments = self.more_fragments;
                ip.options = Ipv4Options::try_from(self.ip_options.as_slice()).unwrap();
                ip.set_payload_len(body.len()).unwrap();
                ip.header_checksum = ip.calc_header_checksum();
                frame.extend([8, 0]);
                ip.write_raw(&mut frame).unwrap();
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let ip = Ipv6Header {
                    traffic_class: self.class,
                    flow_label: Ipv6FlowLabel::try_new(0x5678a).unwrap(),
                    payload_length: body.len() as u16,
                    next_header: IpNumber(next),
                    hop_limit: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                };
                frame.extend([0x86, 0xdd]);
                ip.write(&mut frame).unwrap();
            }
            (src, dst) => panic!("{src} to {dst}"),
        }
        frame.extend(body);
        frame
    }

    /// Header and payload.
    fn transport(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let payload = &self.payload;
        if self.protocol == PROTOCOL_UDP {
            let mut udp = UdpHeader {
                source_port: self.src.port(),
                destination_port: self.dst.port(),
                length: (8 + payload.len()) as u16,
                checksum: 0,
            };
            if !self.no_checksum {
                udp.checksum = match (self.src.ip(), self.dst.ip()) {
                    (IpAddr::V4(src), IpAddr::V4(dst)) => {
                        udp.calc_checksum_ipv4_raw(src.octets(), dst.octets(), payload)
                    }
                    (IpAddr::V6(src), IpAddr::V6(dst)) => {
                        udp.calc_checksum_ipv6_raw(src.octets(), dst.octets(), payload)
                    }
                    (src, dst) => panic!("{src} to {dst}"),
                }
                .unwrap();
            }
            udp.write(&mut bytes).unwrap();
        } else {
            let mut tcp = TcpHeader::new(self.src.port(), self.dst.port(), self.seq, self.window);
            tcp.acknowledgment_number = self.ack;
            tcp.fin = self.flags & FLAG_FIN != 0;
            tcp.syn = self.flags & FLAG_SYN != 0;
            tcp.rst = self.flags & FLAG_RST != 0;
            tcp.ack = self.flags & FLAG_ACK != 0;
            tcp.set_options_raw(&self.tcp_options).unwrap();
            tcp.checksum = match (self.src.ip(), self.dst.ip()) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    tcp.calc_checksum_ipv4_raw(src.octets(), dst.octets(), payload)
                }
                (IpAddr::V6(src), IpAddr::V6(dst)) => {
                    tcp.calc_checksum_ipv6_raw(src.octets(), dst.octets(), payload)
                }
                (src, dst) => panic!("{src} to {dst}"),
            }
            .unwrap();
            tcp.write(&mut bytes).unwrap();
        }
        bytes.extend(payload);
        bytes
    }

    /// This segment as it leaves the gateway with other addresses.
    ///
    /// At XDP the program has written the next hop's MAC addresses; at tc the
    /// kernel does, after the run.
    pub fn forwarded(&self, hook: Hook, src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
        let mut out = Self {
            src,
            dst,
            ttl: self.ttl - 1,
            ..self.clone()
        };
        if hook == Hook::Xdp {
            (out.eth_src, out.eth_dst) = macs_to(dst.ip());
        }
        out.frame()
    }
}

/// MAC address of a neighbour.
fn mac_of(ip: IpAddr) -> [u8; 6] {
    macs_to(ip).1
}

/// MAC addresses, source and destination, of a frame to a neighbour.
pub fn macs_to(ip: IpAddr) -> ([u8; 6], [u8; 6]) {
    match ip {
        IpAddr::V4(v4) if v4.octets()[..3] == [10, 1, 0] => (PODS_MAC, backend_mac(v4.octets()[3])),
        IpAddr::V6(v6) if v6.segments()[0] == 0xfd01 => (PODS_MAC, backend_mac(v6.octets()[15])),
        _ => (WIRE_MAC, CLIENT_MAC),
    }
}

impl Lab {
    /// Sends a segment in by the interface it is addressed to.
    pub fn send(&mut self, segment: &Segment) -> Outcome {
        self.run(segment.interface(), &segment.frame())
    }

    /// Sends a segment and expects it out with other addresses, and nothing
    /// else changed but the time to live and the checksums.
    #[track_caller]
    pub fn expect_forwarded(&mut self, segment: &Segment, src: SocketAddr, dst: SocketAddr) {
        let outcome = self.send(segment);
        assert_eq!(outcome.action, Action::Redirect, "{segment:?}");
        assert_eq!(
            hex(&outcome.frame),
            hex(&segment.forwarded(self.hook, src, dst)),
            "{segment:?}"
        );
    }

    /// Sends a segment and expects it untouched, left to the stack.
    #[track_caller]
    pub fn expect_untouched(&mut self, segment: &Segment) {
        let frame = segment.frame();
        let outcome = self.send(segment);
        assert_eq!(outcome.action, Action::Pass, "{segment:?}");
        assert_eq!(hex(&outcome.frame), hex(&frame), "{segment:?}");
    }

    /// Sends a segment and expects it gone.
    #[track_caller]
    pub fn expect_dropped(&mut self, segment: &Segment) {
        assert_eq!(self.send(segment).action, Action::Drop, "{segment:?}");
    }
}

/// Bytes as a dump, sixteen a line: differences show as lines.
pub fn hex(bytes: &[u8]) -> Vec<String> {
    bytes
        .chunks(16)
        .map(|line| line.iter().map(|byte| format!("{byte:02x} ")).collect())
        .collect()
}
