// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets built from scratch, with checksums that owe nothing to the code
//! under test.

use std::net::SocketAddrV4;

use etherparse::{IpHeaders, Ipv4Header, Ipv4Options, PacketBuilder, TcpHeader};
use gateway_common::tcp_state::{FLAG_ACK, FLAG_FIN, FLAG_RST, FLAG_SYN};

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

/// One service with one backend, reached by DNAT, and room for 64 flows.
pub fn one_backend(lab: &mut Lab) {
    lab.free_slots(0..64);
    lab.dnat_backend(1, at(BACKEND));
    lab.service(at(VIP), &[1]);
}

/// An address and port.
pub fn at(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

/// One TCP segment in an Ethernet frame.
#[derive(Clone, Debug)]
pub struct Segment {
    pub eth_src: [u8; 6],
    pub eth_dst: [u8; 6],
    pub src: SocketAddrV4,
    pub dst: SocketAddrV4,
    pub ttl: u8,
    pub flags: u32,
    pub ip_options: Vec<u8>,
    pub tcp_options: Vec<u8>,
    pub payload: Vec<u8>,
    pub more_fragments: bool,
}

impl Segment {
    /// A segment from the client, as it comes in by the wire.
    pub fn from_client(src: SocketAddrV4, dst: SocketAddrV4, flags: u32) -> Self {
        Self {
            eth_src: CLIENT_MAC,
            eth_dst: WIRE_MAC,
            src,
            dst,
            ttl: 64,
            flags,
            ip_options: Vec::new(),
            tcp_options: Vec::new(),
            payload: if flags & FLAG_SYN != 0 {
                Vec::new()
            } else {
                b"request!!".to_vec()
            },
            more_fragments: false,
        }
    }

    /// A segment from a backend, as it comes in by the pods' interface.
    pub fn from_backend(src: SocketAddrV4, dst: SocketAddrV4, flags: u32) -> Self {
        Self {
            eth_src: backend_mac(src.ip().octets()[3]),
            eth_dst: PODS_MAC,
            payload: b"the answer".to_vec(),
            ..Self::from_client(src, dst, flags)
        }
    }

    /// The interface it comes in by.
    fn interface(&self) -> &'static str {
        if self.eth_dst == WIRE_MAC { WIRE } else { PODS }
    }

    pub fn frame(&self) -> Vec<u8> {
        let mut ip = Ipv4Header::new(
            0,
            self.ttl,
            etherparse::IpNumber::TCP,
            self.src.ip().octets(),
            self.dst.ip().octets(),
        )
        .unwrap();
        ip.identification = 0x1234;
        ip.dont_fragment = !self.more_fragments;
        ip.more_fragments = self.more_fragments;
        ip.options = Ipv4Options::try_from(self.ip_options.as_slice()).unwrap();
        let mut tcp = TcpHeader::new(self.src.port(), self.dst.port(), 0x0102_0304, 8192);
        tcp.acknowledgment_number = 0x0a0b_0c0d;
        tcp.fin = self.flags & FLAG_FIN != 0;
        tcp.syn = self.flags & FLAG_SYN != 0;
        tcp.rst = self.flags & FLAG_RST != 0;
        tcp.ack = self.flags & FLAG_ACK != 0;
        tcp.set_options_raw(&self.tcp_options).unwrap();
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(self.eth_src, self.eth_dst)
            .ip(IpHeaders::Ipv4(ip, Default::default()))
            .tcp_header(tcp)
            .write(&mut frame, &self.payload)
            .unwrap();
        frame
    }

    /// This segment as it leaves the gateway with other addresses.
    ///
    /// At XDP the program has written the next hop's MAC addresses; at tc the
    /// kernel does, after the run.
    pub fn forwarded(&self, hook: Hook, src: SocketAddrV4, dst: SocketAddrV4) -> Vec<u8> {
        let mut out = Self {
            src,
            dst,
            ttl: self.ttl - 1,
            ..self.clone()
        };
        if hook == Hook::Xdp {
            (out.eth_src, out.eth_dst) = match dst.ip().octets() {
                [10, 1, 0, last] => (PODS_MAC, backend_mac(last)),
                _ => (WIRE_MAC, CLIENT_MAC),
            };
        }
        out.frame()
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
    pub fn expect_forwarded(&mut self, segment: &Segment, src: SocketAddrV4, dst: SocketAddrV4) {
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
