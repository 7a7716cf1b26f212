// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The way out. The kernel's routing table is not modelled: this is the one
//! topology that the property test asks it about, and what its answers mean.
//!
//! ```text
//! 203.0.113.0/24, 2001:db8:9::/48 ── client ── wire │ gateway │ pods ── backends ── 10.3.0.0/24, fd03::/64 (MTU below)
//!                                                            │ slow (MTU below) ── 10.2.0.21, fd02::15
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gateway_common::{counters::VerdictCounter, drop_reason::DropReason};

use super::parse::Tuple;
use crate::lab::{Action, CLIENT_MAC, Hook, PODS, PODS_MAC, WIRE, WIRE_MAC, backend_mac};

/// An interface of its own, whose packets may be no longer than [`SLOW_MTU`].
pub const SLOW: &str = "slow";
const SLOW_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// The least that IPv6 allows.
pub const SLOW_MTU: usize = 1_280;
/// Of the routes to the networks behind the backends.
pub const ROUTE_MTU: [usize; 2] = [1_000, 1_300];
/// Of the other interfaces.
pub const MTU: usize = 1_500;

/// What the lab needs beside what it has. A router heeds the MTU of a route only
/// when it is locked (others are for what the node itself sends).
pub const COMMANDS: &[&str] = &[
    "link add slow address 02:00:00:00:00:03 type veth peer name narrow",
    "link set slow addrgenmode none",
    "link set slow mtu 1280 up",
    "link set narrow mtu 1280 up",
    "addr add 10.2.0.1/24 dev slow",
    "addr add fd02::1/64 dev slow nodad",
    "neigh add 10.2.0.21 dev slow lladdr 02:00:00:00:02:15 nud permanent",
    "neigh add fd02::15 dev slow lladdr 02:00:00:00:02:15 nud permanent",
    "neigh add fd01::c dev pods lladdr 02:00:00:00:02:0c nud permanent",
    "neigh add fd01::d dev pods lladdr 02:00:00:00:02:0d nud permanent",
    "route add 203.0.113.0/24 via 192.0.2.2",
    "route add 2001:db8:9::/48 via 2001:db8::2",
    "route add 10.3.0.0/24 via 10.1.0.13 mtu lock 1000",
    "route add fd03::/64 via fd01::d mtu lock 1300",
    "route add blackhole 10.9.1.0/24",
    "route add unreachable 10.9.2.0/24",
    "route add prohibit 10.9.3.0/24",
    "route add blackhole fd09:1::/64",
    "route add unreachable fd09:2::/64",
    "route add prohibit fd09:3::/64",
];

/// A rewritten packet at the end of its way here.
pub struct Sent {
    pub to: Tuple,
    /// Of the IP packet, bytes.
    pub len: usize,
    /// IPv4 without "do not fragment"; what is translated of ICMP is not.
    pub may_be_fragmented: bool,
}

/// Where a destination is.
enum Way {
    /// Out of an interface, to a neighbour that is known or not.
    Out {
        interface: &'static str,
        mtu: usize,
        neighbour: Option<[u8; 6]>,
    },
    /// This node's own, or not in the table, which the stack answers.
    Stack,
    /// The table says that nothing goes there.
    Refused,
}

/// The end of a rewritten packet that came in by `interface`. At XDP, [`SLOW`] may
/// be one that sends nothing that is redirected to it.
pub fn send(
    (hook, slow_sends): (Hook, bool),
    interface: &str,
    sent: &Sent,
    frame: &mut [u8],
) -> Result<(Action, VerdictCounter), DropReason> {
    let way = match (sent.to.src.ip(), sent.to.dst.ip()) {
        (IpAddr::V4(_), IpAddr::V4(dst)) => v4(dst),
        // The kernel forwards nothing to or from such addresses
        // (RFC 4291 sections 2.5.6 and 2.7).
        (IpAddr::V6(src), IpAddr::V6(dst)) if is_confined(src) || is_confined(dst) => Way::Stack,
        (IpAddr::V6(_), IpAddr::V6(dst)) => v6(dst),
        other => panic!("translated between the families: {other:?}"),
    };
    let (out, mtu, neighbour) = match way {
        Way::Stack => return Ok((Action::Pass, VerdictCounter::LocalDelivery)),
        Way::Refused => return Err(DropReason::NoRoute),
        Way::Out {
            interface,
            mtu,
            neighbour,
        } => (interface, mtu, neighbour),
    };
    if sent.len > mtu {
        return Err(DropReason::PacketTooBig);
    }
    match (hook, neighbour) {
        // The kernel finds the neighbour and writes the addresses afterwards.
        (Hook::Tc, _) => Ok((Action::Redirect, VerdictCounter::Forwarded)),
        (Hook::Xdp, None) => Ok((Action::Pass, VerdictCounter::NeighbourMiss)),
        (Hook::Xdp, Some(_)) if out == SLOW && !slow_sends => {
            Ok((Action::Pass, VerdictCounter::EgressMiss))
        }
        (Hook::Xdp, Some(neighbour)) => {
            frame[..6].copy_from_slice(&neighbour);
            frame[6..12].copy_from_slice(match out {
                WIRE => &WIRE_MAC,
                PODS => &PODS_MAC,
                _ => &SLOW_MAC,
            });
            let action = if out == interface {
                Action::Back
            } else {
                Action::Redirect
            };
            Ok((action, VerdictCounter::Forwarded))
        }
    }
}

fn is_confined(ip: Ipv6Addr) -> bool {
    ip.is_multicast() || ip.is_unicast_link_local() || ip.is_loopback()
}

fn out(interface: &'static str, mtu: usize, neighbour: Option<[u8; 6]>) -> Way {
    Way::Out {
        interface,
        mtu,
        neighbour,
    }
}

fn v4(dst: Ipv4Addr) -> Way {
    match dst.octets() {
        // The node's own, and the broadcast of each network.
        [192, 0, 2, 1 | 255] | [10, 1 | 2, 0, 1 | 255] => Way::Stack,
        [192, 0, 2, host] => out(WIRE, MTU, (host == 2).then_some(CLIENT_MAC)),
        [10, 1, 0, host] => out(PODS, MTU, pod(host)),
        [10, 2, 0, host] => out(SLOW, SLOW_MTU, (host == 21).then(|| backend_mac(21))),
        [203, 0, 113, _] => out(WIRE, MTU, Some(CLIENT_MAC)),
        [10, 3, 0, _] => out(PODS, ROUTE_MTU[0], Some(backend_mac(13))),
        [10, 9, 1..=3, _] => Way::Refused,
        _ => Way::Stack,
    }
}

fn v6(dst: Ipv6Addr) -> Way {
    let host = dst.segments()[4..]
        .iter()
        .fold(0, |host, &word| host << 16 | u64::from(word));
    match (dst.segments(), host) {
        // The node's own, and the anycast address of each network's routers.
        ([0x2001, 0xdb8, 0, 0, ..] | [0xfd01 | 0xfd02, 0, 0, 0, ..], 0 | 1) => Way::Stack,
        ([0x2001, 0xdb8, 0, 0, ..], host) => out(WIRE, MTU, (host == 2).then_some(CLIENT_MAC)),
        ([0xfd01, 0, 0, 0, ..], host) => out(PODS, MTU, u8::try_from(host).ok().and_then(pod)),
        ([0xfd02, 0, 0, 0, ..], host) => out(SLOW, SLOW_MTU, (host == 21).then(|| backend_mac(21))),
        ([0x2001, 0xdb8, 9, ..], _) => out(WIRE, MTU, Some(CLIENT_MAC)),
        ([0xfd03, 0, 0, 0, ..], _) => out(PODS, ROUTE_MTU[1], Some(backend_mac(13))),
        ([0xfd09, 1..=3, 0, 0, ..], _) => Way::Refused,
        _ => Way::Stack,
    }
}

/// MAC address of a backend that is a neighbour.
fn pod(host: u8) -> Option<[u8; 6]> {
    (11..=13).contains(&host).then(|| backend_mac(host))
}
