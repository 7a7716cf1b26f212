// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! What the parser found, and the layouts it and the rewriter read and write.

use gateway_common::{drop_reason::DropReason, flow::FlowKey};

/// A TCP packet over IPv4, parsed once; every later step reads this.
// See `Aligned`.
#[repr(C, align(8))]
pub struct Packet {
    /// Addresses and ports as received.
    pub key: FlowKey,
    /// Offset of the TCP header in the frame, bytes.
    pub l4_offset: usize,
    /// Length of the IP packet, bytes; the sum of all segments with GSO.
    pub ip_len: u32,
    /// Length of the IP and TCP headers, bytes.
    pub header_len: u32,
    /// FIN, SYN, RST, ACK and the rest of the flag byte.
    pub tcp_flags: u32,
    /// Time to live, as received.
    pub ttl: u8,
    /// DSCP and ECN, as received.
    pub tos: u8,
    /// Why the packet cannot be forwarded, should it turn out to be ours.
    pub defect: Option<DropReason>,
}

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
