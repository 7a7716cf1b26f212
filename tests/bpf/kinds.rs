// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kinds of packet whose cost is measured.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::PacketBuilder;
use gateway_common::counters::VerdictCounter;

use crate::{
    lab::{CLIENT_MAC, PODS, WIRE, WIRE_MAC},
    packet::{ACK, BACKEND, CLIENT, SYN, Segment, VIP, at},
};

/// A packet that is the same to the program run after run.
pub struct Repeated {
    pub name: &'static str,
    /// The one it comes in by.
    pub interface: &'static str,
    pub frame: Vec<u8>,
    /// Under which the programs count it.
    pub counter: VerdictCounter,
}

/// Those that go through the forwarding programs.
pub fn repeated() -> Vec<Repeated> {
    let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
    // Enough for a burst: each run takes one.
    let long_lived = |segment| Segment {
        ttl: 255,
        ..segment
    };
    let case = |name, interface, frame, counter| Repeated {
        name,
        interface,
        frame,
        counter,
    };
    let mut malformed = Segment::from_client(client, vip, ACK).frame();
    // A total length over the frame's.
    malformed[17] += 1;
    let mut udp = Segment::from_client(client, at("198.51.100.2:53"), ACK).frame();
    udp[23] = 17;
    vec![
        case(
            "hit, to the backend",
            WIRE,
            long_lived(Segment::from_client(client, vip, ACK)).frame(),
            VerdictCounter::Forwarded,
        ),
        case(
            "hit, to the client",
            PODS,
            long_lived(Segment::from_backend(backend, client, ACK)).frame(),
            VerdictCounter::Forwarded,
        ),
        case(
            "steered",
            WIRE,
            Segment::from_client(client, SocketAddr::new(V4.into(), 443), SYN).frame(),
            VerdictCounter::Passed,
        ),
        case(
            "pass, TCP",
            WIRE,
            Segment::from_client(client, at("198.51.100.2:80"), ACK).frame(),
            VerdictCounter::Passed,
        ),
        case("pass, UDP", WIRE, udp, VerdictCounter::Passed),
        case("pass, IPv6", WIRE, ipv6_segment(), VerdictCounter::Passed),
        case("drop", WIRE, malformed, VerdictCounter::Dropped),
    ]
}

/// A TCP segment over IPv6 from the client.
fn ipv6_segment() -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, WIRE_MAC)
        .ipv6([0xfd; 16], V6.octets(), 64)
        .tcp(40_000, 443, 1, 8192)
        .ack(1)
        .write(&mut frame, b"request!!")
        .unwrap();
    frame
}

/// `struct bpf_sk_lookup` of linux/bpf.h: a client's SYN to `local:port`.
pub fn look_up(local: IpAddr, port: u16) -> Vec<u8> {
    let mut context = vec![0; 72];
    match local {
        IpAddr::V4(local) => {
            context[8..12].copy_from_slice(&libc::AF_INET.to_ne_bytes());
            context[16..20].copy_from_slice(&[192, 0, 2, 2]);
            context[40..44].copy_from_slice(&local.octets());
        }
        IpAddr::V6(local) => {
            context[8..12].copy_from_slice(&libc::AF_INET6.to_ne_bytes());
            context[20..36].copy_from_slice(&[0xfd; 16]);
            context[44..60].copy_from_slice(&local.octets());
        }
    }
    context[12..16].copy_from_slice(&libc::IPPROTO_TCP.to_ne_bytes());
    context[36..38].copy_from_slice(&40_000u16.to_be_bytes());
    context[60..64].copy_from_slice(&u32::from(port).to_ne_bytes());
    context
}

/// What to know about a case.
pub fn note(hook: &str, case: &str) -> Option<&'static str> {
    Some(match case {
        "steered" | "steered, IPv6" if hook == "sk_lookup" => {
            "for the first packet of a connection, besides its cost at tc or XDP"
        }
        "steered" => "left to the stack; the socket is chosen at look-up",
        _ => return None,
    })
}

/// Steered addresses.
pub const V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const V6: Ipv6Addr = Ipv6Addr::new(0xfd97, 0, 0, 0, 0, 0, 0, 1);
