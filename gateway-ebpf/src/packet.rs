// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! What the parser found, and the layouts it and the rewriter read and write.

use gateway_common::{addr::Addr16, drop_reason::DropReason, flow::FlowKey};

use crate::fragment::Fragment;

/// A packet of either family, parsed once; every later step reads this. TCP, UDP,
/// or ICMP, whose errors quote such a packet.
// See `Aligned`.
#[repr(C, align(8))]
pub struct Packet {
    /// Addresses and ports as received.
    pub key: FlowKey,
    /// Offset of the transport header in the frame, bytes.
    pub l4_offset: usize,
    /// Length of the IP packet, bytes; the sum of all segments with GSO.
    pub ip_len: u32,
    /// Length of the IP headers (options and extensions too) and of the
    /// transport header, bytes.
    pub header_len: u32,
    /// FIN, SYN, RST, ACK and the rest of TCP's flag byte; 0 with UDP.
    pub tcp_flags: u32,
    /// IPv4: DSCP and ECN, as received. IPv6: traffic class and flow label as
    /// they stand in the first word of the header, its version taken out.
    pub flow_info: u32,
    /// Time to live or hop limit, as received.
    pub ttl: u8,
    /// Whether this is IPv6.
    pub is_v6: bool,
    /// Which part of an IP packet this is.
    pub fragment: Fragment,
    /// What its parts share, as it stands; nothing else has it.
    pub fragment_id_be: u32,
    /// Why the packet cannot be forwarded, should it turn out to be ours.
    pub defect: Option<DropReason>,
}

impl Packet {
    /// For the parser to fill: the structure is too large for the stack to hold
    /// copies of it.
    #[inline(always)]
    pub const fn empty() -> Self {
        Self {
            key: FlowKey {
                src: Addr16::ANY,
                dst: Addr16::ANY,
                src_port_be: 0,
                dst_port_be: 0,
                proto: 0,
                _pad: [0; 3],
            },
            l4_offset: 0,
            ip_len: 0,
            header_len: 0,
            tcp_flags: 0,
            flow_info: 0,
            ttl: 0,
            is_v6: false,
            fragment: Fragment::Whole,
            fragment_id_be: 0,
            defect: None,
        }
    }
}

impl Packet {
    /// Whether it is a fragment without a transport header.
    #[inline(always)]
    pub fn is_later(&self) -> bool {
        self.fragment == Fragment::Later
    }

    /// Whether it is ICMP or ICMPv6.
    #[inline(always)]
    pub fn is_icmp(&self) -> bool {
        self.key.proto == PROTOCOL_ICMP || self.key.proto == PROTOCOL_ICMPV6
    }
}

/// `IPPROTO_ICMP`.
pub const PROTOCOL_ICMP: u8 = 1;
/// `IPPROTO_ICMPV6`.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// Ethernet II (IEEE 802.3 clause 3).
#[repr(C, packed)]
pub struct Ethernet {
    /// Destination MAC.
    pub dst: [u8; 6],
    /// Source MAC.
    pub src: [u8; 6],
    /// EtherType, network order.
    pub ether_type_be: u16,
}

/// Length of [`Ethernet`], and so the offset of the IP header.
pub const ETHERNET_LEN: usize = size_of::<Ethernet>();

/// IPv4 without options (RFC 791 section 3.1).
#[repr(C, packed)]
pub struct Ipv4 {
    /// Version and header length in words.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Length with header, network order.
    pub total_len_be: u16,
    /// Identification.
    pub id_be: u16,
    /// Flags and fragment offset in units of 8 bytes, network order.
    pub fragment_be: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header checksum, as it stands.
    pub check: u16,
    /// Source address, as it stands.
    pub src_be: u32,
    /// Destination address, as it stands.
    pub dst_be: u32,
}

/// Length of [`Ipv4`].
pub const IPV4_LEN: usize = size_of::<Ipv4>();

/// IPv6 without extension headers (RFC 8200 section 3).
#[repr(C, packed)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub version_class_label_be: u32,
    /// Length behind this header, network order.
    pub payload_len_be: u16,
    /// Number of the header that follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
}

/// Length of [`Ipv6`].
pub const IPV6_LEN: usize = size_of::<Ipv6>();

/// The first four bytes of TCP and UDP.
#[repr(C, packed)]
pub struct Ports {
    /// Source port, network order.
    pub src_be: u16,
    /// Destination port, network order.
    pub dst_be: u16,
}

/// TCP without options (RFC 9293 section 3.1).
#[repr(C, packed)]
pub struct Tcp {
    /// Source and destination port.
    pub ports: Ports,
    /// Sequence number.
    pub seq_be: u32,
    /// Acknowledgement number.
    pub ack_be: u32,
    /// Header length in words in the upper four bits.
    pub data_offset: u8,
    /// CWR to FIN.
    pub flags: u8,
    /// Window.
    pub window_be: u16,
    /// Checksum, as it stands.
    pub check: u16,
    /// Urgent pointer.
    pub urgent_be: u16,
}

/// Length of [`Tcp`].
pub const TCP_LEN: usize = size_of::<Tcp>();

/// ICMP and ICMPv6 (RFC 792, RFC 4443).
#[repr(C, packed)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum, as it stands.
    pub check: u16,
    /// By type; an error says here what its code leaves open.
    pub detail: u32,
}

/// UDP (RFC 768).
#[repr(C, packed)]
pub struct Udp {
    /// Source and destination port.
    pub ports: Ports,
    /// Length with header, network order.
    pub len_be: u16,
    /// Checksum, as it stands; 0 means none.
    pub check: u16,
}

/// Length of [`Udp`].
pub const UDP_LEN: usize = size_of::<Udp>();
