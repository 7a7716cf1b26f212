// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets that are too long for the way out: their sender is told, or lets the
//! stack fragment them; and what the network says about packets that were wrapped.

use std::net::SocketAddr;

use gateway_common::{counters::VerdictCounter, drop_reason::DropReason, flow::PROTOCOL_UDP};

use crate::{
    dsr::{self, tunnel_source, wrapped},
    icmp::Error,
    lab::{Action, CLIENT_MAC, Hook, Lab, PODS, WIRE, WIRE_MAC, at_both_hooks, ip},
    maps::SNAT_ADDR,
    packet::{ACK, BACKEND, CLIENT, FAMILIES, SYN, Segment, VIP, at, hex, macs_to},
};

/// What is quoted of a packet that is too long, bytes.
const QUOTED: usize = 128;

/// The programs' own answer to the sender of `segment`.
fn told(lab: &Lab, segment: &Segment, mtu: u16) -> Vec<u8> {
    let (src, dst) = (segment.src.ip(), segment.dst.ip());
    let [high, low] = mtu.to_be_bytes();
    let error = Error {
        ttl: 64,
        id: 0,
        head: if src.is_ipv4() {
            ([3, 4], [0, 0, high, low])
        } else {
            ([2, 0], [0, 0, high, low])
        },
        ..Error::too_big(dst, src, &segment.frame(), QUOTED)
    };
    match lab.hook {
        Hook::Xdp => {
            let (from, to) = macs_to(src);
            error.frame(from, to)
        }
        Hook::Tc => error.frame(segment.eth_src, segment.eth_dst),
    }
}

/// Sends a segment that must be answered with "too big".
#[track_caller]
fn expect_told(lab: &mut Lab, segment: &Segment, mtu: u16) {
    let before = lab.drops(DropReason::PacketTooBig);
    let outcome = lab.send(segment);
    let expected = told(lab, segment, mtu);
    assert_eq!(hex(&outcome.frame), hex(&expected), "{segment:?}");
    assert_eq!(outcome.action, lab.to_client(), "{segment:?}");
    assert_eq!(lab.drops(DropReason::PacketTooBig), before + 1);
}

fn long(segment: Segment) -> Segment {
    Segment {
        payload: (0..1_300_u32).map(|i| (i * 7) as u8).collect(),
        ..segment
    }
}

/// One service of TCP and one of UDP with one backend.
fn one_backend(lab: &mut Lab, [_, vip, backend]: [&str; 3]) {
    lab.free_slots(0..8);
    lab.dnat_backend(1, at(backend));
    lab.service(at(vip), &[1]);
    lab.service_of(PROTOCOL_UDP, at(vip), &[1], |_| {});
}

#[test]
fn a_client_is_told_what_the_way_to_the_backend_takes() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            one_backend(lab, family);
            let [client, vip, backend] = family.map(at);
            ip("link set pods mtu 1300");
            let syn = Segment::from_client(client, vip, SYN);
            // As the first packet of a flow as well.
            expect_told(lab, &long(syn.clone()), 1_300);
            lab.expect_forwarded(&syn, client, backend);
            for ttl in [2, 255] {
                let data = Segment {
                    ttl,
                    ..long(Segment::from_client(client, vip, ACK))
                };
                expect_told(lab, &data, 1_300);
                expect_told(lab, &data.udp(), 1_300);
            }
            if client.is_ipv4() {
                let with_options = Segment {
                    ip_options: vec![1; 40],
                    ..long(Segment::from_client(client, vip, ACK))
                };
                expect_told(lab, &with_options, 1_300);
            }
            // What is answered is not left to the stack as well.
            assert_eq!(lab.verdicts(VerdictCounter::Forwarded), 1);
        });
    }
}

#[test]
fn a_backend_is_told_what_the_way_to_the_client_takes() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            one_backend(lab, family);
            let [client, vip, backend] = family.map(at);
            lab.expect_forwarded(&Segment::from_client(client, vip, SYN), client, backend);
            ip("link set wire mtu 1300");
            expect_told(
                lab,
                &long(Segment::from_backend(backend, client, ACK)),
                1_300,
            );
        });
    }
}

#[test]
fn answers_are_limited() {
    at_both_hooks(|lab| {
        one_backend(lab, FAMILIES[0]);
        let (client, vip) = (at(CLIENT), at(VIP));
        ip("link set pods mtu 1300");
        let syn = long(Segment::from_client(client, vip, SYN));
        expect_told(lab, &syn, 1_300);
        lab.exhaust_answers();
        lab.expect_dropped(&syn);
        assert_eq!(lab.drops(DropReason::PacketTooBig), 2);
    });
}

#[test]
fn the_stack_fragments_what_may_be_fragmented() {
    at_both_hooks(|lab| {
        one_backend(lab, FAMILIES[0]);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        ip("link set pods mtu 1300");
        let datagram = long(Segment::from_client(client, vip, 0).udp());
        // Without "do not fragment"; the header's sum rises by as much.
        let allow = |mut frame: Vec<u8>| {
            frame[20] = 0;
            let sum = u32::from(u16::from_be_bytes([frame[24], frame[25]])) + 0x4000;
            let sum = (sum & 0xffff) as u16 + (sum >> 16) as u16;
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            frame
        };
        let outcome = lab.run(WIRE, &allow(datagram.frame()));
        assert_eq!(outcome.action, Action::Pass);
        // The stack needs no MAC addresses.
        let expected = allow(datagram.forwarded(Hook::Tc, client, backend));
        assert_eq!(hex(&outcome.frame), hex(&expected));
        assert_eq!(lab.verdicts(VerdictCounter::Fragmented), 1);
        assert_eq!(lab.all_drops(), 0);
    });
}

#[test]
fn a_client_is_told_of_what_wrapping_takes() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            dsr::one_backend(lab, family);
            let [client, vip, _] = family.map(at);
            ip("link set pods mtu 1340");
            let overhead = if vip.is_ipv4() { 20 } else { 40 };
            lab.send(&Segment::from_client(client, vip, SYN));
            let data = long(Segment::from_client(client, vip, ACK));
            expect_told(lab, &data, 1_340 - overhead);
            expect_told(lab, &data.udp(), 1_340 - overhead);
        });
    }
}

/// A router on the way to `backend` about a wrapped packet of the client.
fn from_the_way(
    lab: &mut Lab,
    [client, vip, backend]: [SocketAddr; 3],
    head: ([u8; 2], [u8; 4]),
) -> (Error, Vec<u8>) {
    let data = Segment::from_client(client, vip, ACK);
    lab.send(&Segment::from_client(client, vip, SYN));
    let frame = wrapped(lab.hook, &data, backend);
    let outer_len = if vip.is_ipv4() { 20 } else { 40 };
    let quoted = frame.len() - 14;
    let error = Error {
        head,
        ..Error::too_big(backend.ip(), tunnel_source(backend), &frame, quoted)
    };
    (error, frame[14 + outer_len..].to_vec())
}

#[test]
fn errors_about_wrapped_packets_reach_the_client_unwrapped() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            dsr::one_backend(lab, family);
            let [client, vip, backend] = family.map(at);
            // Type and code as they come, and as they go; the MTU minus the header.
            let cases: &[([u8; 2], [u8; 2], u16, u16)] = if vip.is_ipv4() {
                &[
                    ([3, 4], [3, 4], 1_400, 1_380),
                    ([3, 1], [3, 1], 0, 0),
                    ([11, 0], [3, 1], 0, 0),
                    // The backend does not unwrap (RFC 2003 section 4.1).
                    ([3, 2], [3, 1], 0, 0),
                ]
            } else {
                &[
                    ([2, 0], [2, 0], 1_400, 1_360),
                    ([1, 3], [1, 3], 0, 0),
                    ([3, 0], [1, 3], 0, 0),
                    ([4, 1], [1, 3], 0, 0),
                ]
            };
            for (head, expected, mtu, less) in cases {
                let detail = |mtu: u16| [0, 0, mtu.to_be_bytes()[0], mtu.to_be_bytes()[1]];
                let (error, inner) =
                    from_the_way(lab, [client, vip, backend], (*head, detail(*mtu)));
                let outcome = lab.run(PODS, &error.received(PODS));
                assert_eq!(outcome.action, Action::Redirect, "{head:?}");
                let quoted = if vip.is_ipv4() { 28 } else { 48 };
                let told = Error {
                    from: vip.ip(),
                    to: client.ip(),
                    ttl: 64,
                    id: 0,
                    head: (*expected, detail(*less)),
                    quoted: inner[..quoted].to_vec(),
                };
                assert_eq!(
                    hex(&outcome.frame),
                    hex(&told.sent(lab.hook, PODS)),
                    "{head:?}"
                );
            }
        });
    }
}

/// What does not concern a flow, or comes from somewhere else, is the stack's.
#[test]
fn errors_that_do_not_fit_a_wrapped_flow_pass() {
    at_both_hooks(|lab| {
        dsr::one_backend(lab, FAMILIES[0]);
        let [client, vip, backend] = FAMILIES[0].map(at);
        let too_big = ([3, 4], [0, 0, 5, 0x14]);
        let (error, _) = from_the_way(lab, [client, vip, backend], too_big);
        let mut others = Vec::new();
        // Cut off within the inner header.
        let mut cut = error.clone();
        cut.quoted.truncate(20 + 24);
        others.push(cut);
        // An outer header of somebody else.
        let mut foreign = error.clone();
        foreign.quoted[15] += 1;
        others.push(foreign);
        let mut elsewhere = error.clone();
        elsewhere.quoted[19] += 1;
        others.push(elsewhere);
        // A flow that there is not.
        let mut unknown = error.clone();
        unknown.quoted[20 + 21] += 1;
        others.push(unknown);
        // About a port and a source route that the outer packet has not.
        for code in [3, 5] {
            others.push(Error {
                head: ([3, code], [0; 4]),
                ..error.clone()
            });
        }
        // A router that does not say how much it takes.
        others.push(Error {
            head: ([3, 4], [0; 4]),
            ..error.clone()
        });
        for other in others {
            let frame = other.received(PODS);
            let outcome = lab.run(PODS, &frame);
            assert_eq!(outcome.action, Action::Pass, "{other:?}");
            assert_eq!(hex(&outcome.frame), hex(&frame), "{other:?}");
        }
        assert_eq!(error.to, std::net::IpAddr::from(SNAT_ADDR));
    });
}

/// The backend sends to the client past this node, but what the network says
/// about it comes to the VIP, here.
#[test]
fn errors_about_what_the_backend_sent_go_to_the_backend() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            dsr::one_backend(lab, family);
            let [client, vip, backend] = family.map(at);
            lab.send(&Segment::from_client(client, vip, SYN));
            let answer = Segment::from_backend(vip, client, ACK);
            let error = Error::too_big(client.ip(), vip.ip(), &answer.frame(), 48);
            let outcome = lab.run(WIRE, &error.received(WIRE));
            assert_eq!(outcome.action, Action::Redirect);
            let inner = Error {
                ttl: error.ttl - 1,
                ..error
            };
            let inner = inner.frame(CLIENT_MAC, WIRE_MAC);
            let overhead = if vip.is_ipv4() { 20 } else { 40 };
            assert_eq!(hex(&outcome.frame[14 + overhead..]), hex(&inner[14..]));
            let ends = match backend {
                SocketAddr::V4(_) => (14 + 16, 4),
                SocketAddr::V6(_) => (14 + 24, 16),
            };
            let to = &outcome.frame[ends.0..][..ends.1];
            match backend.ip() {
                std::net::IpAddr::V4(ip) => assert_eq!(to, ip.octets()),
                std::net::IpAddr::V6(ip) => assert_eq!(to, ip.octets()),
            }
        });
    }
}
