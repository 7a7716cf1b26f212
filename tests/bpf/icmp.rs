// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ICMP and ICMPv6: errors translated outside and inside, the rest left alone.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, icmpv4, icmpv6,
};
use gateway_common::{counters::VerdictCounter, drop_reason::DropReason, flow::PROTOCOL_UDP};

use crate::{
    lab::{Action, CLIENT_MAC, Hook, Lab, PODS, PODS_MAC, WIRE, WIRE_MAC, at_both_hooks},
    maps::key,
    packet::{ACK, FAMILIES, SYN, Segment, at, hex, macs_to},
};

/// An error with the packet it quotes.
#[derive(Clone, Debug)]
pub struct Error {
    pub from: IpAddr,
    pub to: IpAddr,
    pub ttl: u8,
    /// Identification of IPv4.
    pub id: u16,
    /// Type, code, and the four bytes that follow the checksum.
    pub head: ([u8; 2], [u8; 4]),
    /// The quoted packet, from its IP header on.
    pub quoted: Vec<u8>,
}

impl Error {
    /// "Too big" (RFC 1191, RFC 4443) about a packet of `frame`.
    pub fn too_big(from: IpAddr, to: IpAddr, frame: &[u8], quoted: usize) -> Self {
        let head = match to {
            IpAddr::V4(_) => ([3, 4], [0, 0, 0x05, 0x14]),
            IpAddr::V6(_) => ([2, 0], [0, 0, 0x05, 0x14]),
        };
        Self {
            from,
            to,
            ttl: 61,
            id: 0x4321,
            head,
            quoted: frame[14..][..quoted].to_vec(),
        }
    }

    pub fn frame(&self, src: [u8; 6], dst: [u8; 6]) -> Vec<u8> {
        let ([kind, code], detail) = self.head;
        let mut frame = [dst, src].concat();
        let len = 8 + self.quoted.len();
        let sum = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut ip = Ipv4Header::new(
                    len as u16,
                    self.ttl,
                    IpNumber::ICMP,
                    from.octets(),
                    to.octets(),
                )
                .unwrap();
                ip.identification = self.id;
                ip.header_checksum = ip.calc_header_checksum();
                frame.extend([8, 0]);
                ip.write_raw(&mut frame).unwrap();
                Icmpv4Type::Unknown {
                    type_u8: kind,
                    code_u8: code,
                    bytes5to8: detail,
                }
                .calc_checksum(&self.quoted)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let ip = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: len as u16,
                    next_header: IpNumber::IPV6_ICMP,
                    hop_limit: self.ttl,
                    source: from.octets(),
                    destination: to.octets(),
                };
                frame.extend([0x86, 0xdd]);
                ip.write(&mut frame).unwrap();
                Icmpv6Type::Unknown {
                    type_u8: kind,
                    code_u8: code,
                    bytes5to8: detail,
                }
                .calc_checksum(from.octets(), to.octets(), &self.quoted)
                .unwrap()
            }
            other => panic!("{other:?}"),
        };
        frame.extend([kind, code]);
        frame.extend(sum.to_be_bytes());
        frame.extend(detail);
        frame.extend(&self.quoted);
        frame
    }

    /// As it comes in by an interface.
    pub fn received(&self, interface: &str) -> Vec<u8> {
        if interface == WIRE {
            self.frame(CLIENT_MAC, WIRE_MAC)
        } else {
            self.frame([2, 0, 0, 0, 2, 11], PODS_MAC)
        }
    }

    /// As it leaves, having come in by an interface.
    pub fn sent(&self, hook: Hook, came_by: &str) -> Vec<u8> {
        let (src, dst) = match hook {
            Hook::Xdp => macs_to(self.to),
            Hook::Tc if came_by == WIRE => (CLIENT_MAC, WIRE_MAC),
            Hook::Tc => ([2, 0, 0, 0, 2, 11], PODS_MAC),
        };
        self.frame(src, dst)
    }
}

fn expect(lab: &mut Lab, interface: &str, error: &Error, expected: &Error) {
    let outcome = lab.run(interface, &error.received(interface));
    assert_eq!(outcome.action, Action::Redirect, "{error:?}");
    assert_eq!(
        hex(&outcome.frame),
        hex(&expected.sent(lab.hook, interface)),
        "{error:?}"
    );
}

#[track_caller]
fn expect_untouched(lab: &mut Lab, interface: &str, error: &Error) {
    let frame = error.received(interface);
    let outcome = lab.run(interface, &frame);
    assert_eq!(outcome.action, Action::Pass, "{error:?}");
    assert_eq!(hex(&outcome.frame), hex(&frame), "{error:?}");
}

/// A flow of the family; the source its backend sees.
fn flow(lab: &mut Lab, [client, vip, backend]: [&str; 3], snat: bool, udp: bool) -> SocketAddr {
    lab.free_slots(0..8);
    if snat {
        lab.snat_backend(1, at(backend));
    } else {
        lab.dnat_backend(1, at(backend));
    }
    let first = Segment::from_client(at(client), at(vip), SYN);
    let (first, protocol) = if udp {
        (first.udp(), PROTOCOL_UDP)
    } else {
        (first, 6)
    };
    lab.service_of(protocol, at(vip), &[1], |_| {});
    assert_eq!(lab.send(&first).action, Action::Redirect);
    let direction = lab.slot(0).dir[0];
    SocketAddr::new(
        direction.new_src.into(),
        u16::from_be(direction.new_src_port_be),
    )
}

/// A packet as its sender saw it.
fn seen(src: SocketAddr, dst: SocketAddr, udp: bool) -> Segment {
    let segment = Segment::from_client(src, dst, ACK);
    if udp { segment.udp() } else { segment }
}

/// The lengths of IP packet that are quoted: all of it, the header and eight
/// bytes (RFC 792), and up to the middle of TCP's checksum.
fn lengths(frame: &[u8], is_v6: bool) -> [usize; 3] {
    let header = if is_v6 { 40 } else { 20 };
    [
        frame.len() - 14,
        header + 8,
        (header + 17).min(frame.len() - 14),
    ]
}

fn router(is_v6: bool, last: u8) -> IpAddr {
    if is_v6 {
        format!("2001:db8:9::{last}").parse().unwrap()
    } else {
        IpAddr::from([203, 0, 113, last])
    }
}

fn each_flow(case: impl Fn(&mut Lab, [SocketAddr; 3], SocketAddr, bool, bool)) {
    for family in FAMILIES {
        for (snat, udp) in [(false, false), (false, true), (true, false), (true, true)] {
            at_both_hooks(|lab| {
                let source = flow(lab, family, snat, udp);
                case(lab, family.map(at), source, snat, udp);
            });
        }
    }
}

#[test]
fn an_error_about_a_packet_to_the_backend_reaches_the_client() {
    each_flow(|lab, [client, vip, backend], source, _, udp| {
        let is_v6 = client.is_ipv6();
        // What the backend's side saw, and what the client had sent.
        let rewritten = seen(source, backend, udp).frame();
        let original = seen(client, vip, udp).frame();
        for sender in [backend.ip(), router(is_v6, 7)] {
            for len in lengths(&rewritten, is_v6) {
                let error = Error::too_big(sender, source.ip(), &rewritten, len);
                let expected = Error {
                    id: 0x4321,
                    // The client knows nobody behind the gateway.
                    from: vip.ip(),
                    to: client.ip(),
                    ttl: error.ttl - 1,
                    head: error.head,
                    // An incomplete checksum is not touched.
                    quoted: quoted(&rewritten, &original, len, is_v6, udp),
                };
                expect(lab, PODS, &error, &expected);
            }
        }
        assert_eq!(lab.slot(0).dir.map(|dir| dir.packets), [1, 0]);
        assert_eq!(lab.verdicts(VerdictCounter::Forwarded), 7);
        assert_eq!(lab.all_drops(), 0);
    });
}

#[test]
fn an_error_about_a_packet_to_the_client_reaches_the_backend() {
    each_flow(|lab, [client, vip, backend], source, snat, udp| {
        let is_v6 = client.is_ipv6();
        let rewritten = seen(vip, client, udp).frame();
        let original = seen(backend, source, udp).frame();
        for sender in [client.ip(), router(is_v6, 8)] {
            for len in lengths(&rewritten, is_v6) {
                let error = Error::too_big(sender, vip.ip(), &rewritten, len);
                let expected = Error {
                    id: 0x4321,
                    from: if snat { source.ip() } else { sender },
                    to: backend.ip(),
                    ttl: error.ttl - 1,
                    head: error.head,
                    quoted: quoted(&rewritten, &original, len, is_v6, udp),
                };
                expect(lab, WIRE, &error, &expected);
            }
        }
        assert_eq!(lab.all_drops(), 0);
    });
}

/// `len` bytes of `after`, but of TCP's checksum only what is quoted whole.
fn quoted(before: &[u8], after: &[u8], len: usize, is_v6: bool, udp: bool) -> Vec<u8> {
    let mut bytes = after[14..][..len].to_vec();
    let check = if is_v6 { 40 + 16 } else { 20 + 16 };
    if !udp && len == check + 1 {
        bytes[check] = before[14 + check];
    }
    bytes
}

#[test]
fn every_kind_of_error_is_translated_and_nothing_else() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            let source = flow(lab, family, false, false);
            let [client, vip, backend] = family.map(at);
            let is_v6 = client.is_ipv6();
            let rewritten = seen(source, backend, false).frame();
            let original = seen(client, vip, false).frame();
            let errors: &[u8] = if is_v6 { &[1, 2, 3, 4] } else { &[3, 11, 12] };
            let mut passed = 0;
            for kind in 0..=255 {
                let mut error =
                    Error::too_big(backend.ip(), client.ip(), &rewritten, rewritten.len() - 14);
                error.head = ([kind, 1], [1, 2, 3, 4]);
                if errors.contains(&kind) {
                    let expected = Error {
                        from: vip.ip(),
                        ttl: error.ttl - 1,
                        quoted: original[14..].to_vec(),
                        ..error.clone()
                    };
                    expect(lab, PODS, &error, &expected);
                } else {
                    expect_untouched(lab, PODS, &error);
                    passed += 1;
                }
            }
            assert_eq!(lab.verdicts(VerdictCounter::Passed), passed);
        });
    }
}

#[test]
fn errors_about_strangers_pass_and_lies_are_not_followed() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            let source = flow(lab, family, false, false);
            let [client, vip, backend] = family.map(at);
            let is_v6 = client.is_ipv6();
            let whole = |src, dst| seen(src, dst, false).frame();
            let other = SocketAddr::new(client.ip(), 1);
            let to = client.ip();
            let ours = whole(source, backend);
            for (to, frame) in [
                // No such flow, one of another protocol, one turned round.
                (to, whole(other, backend)),
                (to, seen(source, backend, true).frame()),
                (to, whole(backend, source)),
                // Not sent to where the quoted packet came from.
                (router(is_v6, 9), ours.clone()),
                (vip.ip(), ours.clone()),
            ] {
                let error = Error::too_big(backend.ip(), to, &frame, frame.len() - 14);
                expect_untouched(lab, PODS, &error);
            }
            // Cut within the quoted header or ports.
            let header = if is_v6 { 40 } else { 20 };
            for len in [0, 1, header - 1, header, header + 3] {
                let error = Error::too_big(backend.ip(), to, &ours, len);
                expect_untouched(lab, PODS, &error);
            }
            assert!(lab.flow(&key(client, vip)).is_some());
            assert_eq!(lab.all_drops(), 0);
            // A packet longer than its frame, and one at the end of its way.
            let error = Error::too_big(backend.ip(), to, &ours, ours.len() - 14);
            let mut frame = error.received(PODS);
            frame.pop();
            assert_eq!(lab.run(PODS, &frame).action, Action::Drop);
            assert_eq!(lab.drops(DropReason::Malformed), 1);
            let error = Error { ttl: 1, ..error };
            assert_eq!(lab.run(PODS, &error.received(PODS)).action, Action::Drop);
            assert_eq!(lab.drops(DropReason::TtlExceeded), 1);
        });
    }
}

/// Every sum of a quoted checksum, and so of ICMP's: the carry goes right.
#[test]
fn checksums_are_right_for_every_value_they_take() {
    for (family, udp) in FAMILIES.into_iter().zip([false, true]) {
        at_both_hooks(|lab| {
            let source = flow(lab, family, true, udp);
            let [client, vip, backend] = family.map(at);
            for word in (0..=u16::MAX).step_by(61).chain([0xfffe, 0xffff]) {
                let with = |src, dst| {
                    let payload = word.to_be_bytes().to_vec();
                    Segment {
                        payload,
                        ..seen(src, dst, udp)
                    }
                    .frame()
                };
                let (rewritten, original) = (with(source, backend), with(client, vip));
                let error =
                    Error::too_big(backend.ip(), source.ip(), &rewritten, rewritten.len() - 14);
                let expected = Error {
                    id: 0x4321,
                    from: vip.ip(),
                    to: client.ip(),
                    ttl: error.ttl - 1,
                    head: error.head,
                    quoted: original[14..].to_vec(),
                };
                expect(lab, PODS, &error, &expected);
            }
        });
    }
}

#[test]
fn echo_is_left_to_the_stack() {
    for [client, vip, _] in FAMILIES {
        at_both_hooks(|lab| {
            let (client, vip) = (at(client), at(vip));
            lab.service(vip, &[1]);
            let kind = if client.is_ipv4() {
                icmpv4::TYPE_ECHO_REQUEST
            } else {
                icmpv6::TYPE_ECHO_REQUEST
            };
            let echo = Error {
                id: 0x4321,
                from: client.ip(),
                to: vip.ip(),
                ttl: 64,
                head: ([kind, 0], [0, 1, 0, 1]),
                quoted: vec![7; 56],
            };
            expect_untouched(lab, WIRE, &echo);
        });
    }
}
