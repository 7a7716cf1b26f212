// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Direct return: the packet goes to the backend inside another one, whole.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header};
use gateway_common::{
    addr::Addr16,
    backend::FORWARD_DSR,
    counters::VerdictCounter,
    drop_reason::DropReason,
    flow::{KIND_DSR, KIND_SNAT, PROTOCOL_UDP, SLOT_ACTIVE, SLOT_CLOSING, SLOT_DEAD},
    tcp_state::{TCP_CLOSING, TCP_ESTABLISHED, TCP_RESET, TCP_SYN_SENT},
    udp_state::UDP_ONE_WAY,
};

use crate::{
    lab::{Action, Hook, Lab, WIRE, at_both_hooks, ip},
    maps::{SNAT_ADDR, SNAT_ADDR6, key},
    packet::{ACK, FAMILIES, FIN_ACK, RST, SYN, Segment, at, hex, macs_to},
};

/// The gateway's address towards a backend.
pub fn tunnel_source(backend: SocketAddr) -> IpAddr {
    match backend {
        SocketAddr::V4(_) => SNAT_ADDR.into(),
        SocketAddr::V6(_) => SNAT_ADDR6.into(),
    }
}

/// One service of the family, of TCP and of UDP, whose backend answers itself.
pub fn one_backend(lab: &mut Lab, [_, vip, backend]: [&str; 3]) {
    lab.free_slots(0..8);
    let backend = at(backend);
    lab.backend(
        1,
        backend,
        FORWARD_DSR,
        Addr16::from(tunnel_source(backend)),
    );
    lab.service(at(vip), &[1]);
    lab.service_of(PROTOCOL_UDP, at(vip), &[1], |_| {});
}

/// The segment as it leaves for `backend`.
pub fn wrapped(hook: Hook, segment: &Segment, backend: SocketAddr) -> Vec<u8> {
    let inner = Segment {
        ttl: segment.ttl - 1,
        ..segment.clone()
    }
    .frame();
    let source = tunnel_source(backend);
    let (src, dst) = match hook {
        Hook::Xdp => macs_to(backend.ip()),
        Hook::Tc => (segment.eth_src, segment.eth_dst),
    };
    let mut frame = [dst, src].concat();
    frame.extend(&inner[12..14]);
    let inner = &inner[14..];
    match (source, backend.ip()) {
        (IpAddr::V4(source), IpAddr::V4(backend)) => {
            let len = inner.len() as u16;
            let mut ip =
                Ipv4Header::new(len, 64, IpNumber::IPV4, source.octets(), backend.octets())
                    .unwrap();
            ip.dscp = (segment.class >> 2).try_into().unwrap();
            ip.ecn = (segment.class & 3).try_into().unwrap();
            ip.identification = 0x1234;
            ip.dont_fragment = !segment.more_fragments;
            ip.header_checksum = ip.calc_header_checksum();
            ip.write_raw(&mut frame).unwrap();
        }
        (IpAddr::V6(source), IpAddr::V6(backend)) => {
            let ip = Ipv6Header {
                traffic_class: segment.class,
                flow_label: Ipv6FlowLabel::try_new(0x5678a).unwrap(),
                payload_length: inner.len() as u16,
                next_header: IpNumber::IPV6,
                hop_limit: 64,
                source: source.octets(),
                destination: backend.octets(),
            };
            ip.write(&mut frame).unwrap();
        }
        other => panic!("{other:?}"),
    }
    frame.extend(inner);
    frame
}

#[track_caller]
fn expect_wrapped(lab: &mut Lab, segment: &Segment, backend: SocketAddr) {
    let outcome = lab.send(segment);
    assert_eq!(outcome.action, Action::Redirect, "{segment:?}");
    assert_eq!(
        hex(&outcome.frame),
        hex(&wrapped(lab.hook, segment, backend)),
        "{segment:?}"
    );
}

#[test]
fn a_connection_is_followed_by_what_the_client_says() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            one_backend(lab, family);
            let [client, vip, backend] = family.map(at);
            let packet = |flags| Segment::from_client(client, vip, flags);
            for (flags, state, tcp_state) in [
                (SYN, SLOT_ACTIVE, TCP_SYN_SENT),
                (SYN, SLOT_ACTIVE, TCP_SYN_SENT),
                (ACK, SLOT_ACTIVE, TCP_ESTABLISHED),
                (ACK, SLOT_ACTIVE, TCP_ESTABLISHED),
                (FIN_ACK, SLOT_CLOSING, TCP_CLOSING),
                (ACK, SLOT_CLOSING, TCP_CLOSING),
                (RST, SLOT_CLOSING, TCP_RESET),
            ] {
                expect_wrapped(lab, &packet(flags), backend);
                let slot = lab.slot(0);
                assert_eq!(
                    (slot.state, slot.tcp_state),
                    (state, tcp_state),
                    "{flags:#x}"
                );
            }
            let slot = lab.slot(0);
            assert_eq!(slot.kind, KIND_DSR);
            assert_eq!(slot.dir.map(|dir| dir.packets), [7, 0]);
            // No key for replies: none comes by.
            assert_eq!(lab.flow_keys(), 1);
            // The same ports again are another connection.
            expect_wrapped(lab, &packet(SYN), backend);
            assert_eq!(lab.slot(0).state, SLOT_DEAD);
            assert_eq!(lab.slot(1).tcp_state, TCP_SYN_SENT);
            assert_eq!(lab.service_stats().flows, 2);
            assert_eq!(lab.verdicts(VerdictCounter::Forwarded), 8);
            assert_eq!(lab.all_drops(), 0);
        });
    }
}

#[test]
fn whatever_is_inside_stays_as_it_is() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            one_backend(lab, family);
            let [client, vip, backend] = family.map(at);
            let syn = Segment::from_client(client, vip, SYN);
            expect_wrapped(lab, &syn, backend);
            for class in [0, 0b1011_1001, 0xff] {
                for payload_len in [0, 1, 700, 1301] {
                    let segment = Segment {
                        class,
                        ttl: 2 + class / 2,
                        tcp_options: [1; 8].to_vec(),
                        ip_options: if vip.is_ipv4() { vec![1; 40] } else { vec![] },
                        payload: (0..payload_len).map(|i| (i * 7) as u8).collect(),
                        ..Segment::from_client(client, vip, ACK)
                    };
                    expect_wrapped(lab, &segment, backend);
                    expect_wrapped(lab, &segment.udp(), backend);
                }
            }
            let udp = key_of_udp(lab, client, vip);
            assert_eq!(lab.slot(udp).tcp_state, UDP_ONE_WAY);
            assert_eq!(lab.all_drops(), 0);
        });
    }
}

fn key_of_udp(lab: &Lab, client: SocketAddr, vip: SocketAddr) -> u32 {
    let key = crate::maps::key_of(PROTOCOL_UDP, client, vip);
    lab.flow(&key).unwrap().slot
}

/// What is not to be fragmented must not be inside either (RFC 2003 section 3.1).
#[test]
fn fragments_go_the_way_of_the_first_one() {
    at_both_hooks(|lab| {
        let family = FAMILIES[0];
        one_backend(lab, family);
        let [client, vip, backend] = family.map(at);
        let first = Segment {
            more_fragments: true,
            payload: vec![5; 64],
            ..Segment::from_client(client, vip, 0).udp()
        };
        expect_wrapped(lab, &first, backend);
        let mut later = first.frame();
        later[20..22].copy_from_slice(&9_u16.to_be_bytes());
        // The header's sum follows the field.
        let old = u16::from_be_bytes([later[24], later[25]]);
        let sum = u32::from(!old) + u32::from(!0x2000_u16) + 9;
        let new = !((sum & 0xffff) as u16).wrapping_add((sum >> 16) as u16);
        later[24..26].copy_from_slice(&new.to_be_bytes());
        let outcome = lab.run(WIRE, &later);
        assert_eq!(outcome.action, Action::Redirect);
        assert_eq!(outcome.frame.len(), later.len() + 20);
        assert_eq!(outcome.frame[23], 4, "IPv4 inside");
        // The inner packet, but for its time to live and sum.
        assert_eq!(hex(&outcome.frame[54..]), hex(&later[34..]));
        assert_eq!(outcome.frame[40..42], later[20..22]);
    });
}

#[test]
fn a_packet_that_does_not_fit_once_it_is_wrapped() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            one_backend(lab, family);
            let [client, vip, backend] = family.map(at);
            ip("link set pods mtu 1400");
            let overhead = if vip.is_ipv4() { 20 } else { 40 };
            let headers = overhead + 20;
            let of_len = |len: usize| Segment {
                payload: vec![9; len - headers],
                ..Segment::from_client(client, vip, ACK)
            };
            expect_wrapped(lab, &Segment::from_client(client, vip, SYN), backend);
            expect_wrapped(lab, &of_len(1400 - overhead), backend);
            let outcome = lab.send(&of_len(1401 - overhead));
            assert_eq!(outcome.action, lab.to_client());
            assert_eq!(lab.drops(DropReason::PacketTooBig), 1);
        });
    }
}

/// A backend would not take a packet that says to come from itself.
#[test]
fn a_backend_that_calls_its_own_service_is_translated() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            one_backend(lab, family);
            let [_, vip, backend] = family.map(at);
            let caller = SocketAddr::new(backend.ip(), 45_678);
            let syn = Segment::from_backend(caller, vip, SYN);
            let outcome = lab.send(&syn);
            assert!(matches!(outcome.action, Action::Redirect | Action::Back));
            assert_eq!(lab.slot(0).kind, KIND_SNAT);
            assert_eq!(lab.flow_keys(), 2);
            assert!(lab.flow(&key(caller, vip)).is_some());
        });
    }
}

#[test]
fn a_time_to_live_that_runs_out_here_ends_here() {
    at_both_hooks(|lab| {
        let family = FAMILIES[0];
        one_backend(lab, family);
        let [client, vip, backend] = family.map(at);
        expect_wrapped(lab, &Segment::from_client(client, vip, SYN), backend);
        for ttl in [0, 1] {
            lab.expect_dropped(&Segment {
                ttl,
                ..Segment::from_client(client, vip, ACK)
            });
        }
        assert_eq!(lab.drops(DropReason::TtlExceeded), 2);
    });
}
