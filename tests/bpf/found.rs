// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What random packets have found: each disagreement between the programs and
//! their model that was the programs' fault, as a case of its own.

use std::net::{IpAddr, SocketAddr};

use gateway_common::{
    addr::Addr16,
    backend::{FORWARD_DNAT, FORWARD_SNAT},
    counters::VerdictCounter,
    drop_reason::DropReason,
    flow::{PROTOCOL_UDP, SLOT_ACTIVE, SLOT_CLOSING},
};

use crate::{
    dsr,
    icmp::Error,
    lab::{Action, CLIENT_MAC, Lab, PODS, PODS_MAC, WIRE, WIRE_MAC, at_both_hooks, ip},
    maps::{SNAT_ADDR, SNAT_ADDR6},
    model::parse::{ICMP, ICMPV6, Tuple},
    packet::{ACK, FAMILIES, RST, SYN, Segment, at, hex},
    property::draft::Draft,
};

/// One service with one backend, and the flow of a first packet.
fn one_flow(lab: &mut Lab, family: [&str; 3], protocol: u8) {
    let [client, vip, backend] = family.map(at);
    lab.free_slots(0..8);
    lab.dnat_backend(1, backend);
    lab.service_of(protocol, vip, &[1], |_| {});
    let first = Segment::from_client(client, vip, SYN);
    let first = if protocol == PROTOCOL_UDP {
        first.udp()
    } else {
        first
    };
    lab.expect_forwarded(&first, client, backend);
}

/// A packet in a frame to an interface.
fn frame(interface: &str, packet: &[u8]) -> Vec<u8> {
    let to = if interface == WIRE {
        WIRE_MAC
    } else {
        PODS_MAC
    };
    let ether_type: [u8; 2] = if packet[0] >> 4 == 6 {
        [0x86, 0xdd]
    } else {
        [8, 0]
    };
    [&to[..], &CLIENT_MAC, &ether_type, packet].concat()
}

/// Sets the length that an IP header claims.
fn claim(packet: &mut [u8], len: u16) {
    let at = if packet[0] >> 4 == 6 { 4 } else { 2 };
    packet[at..at + 2].copy_from_slice(&len.to_be_bytes());
}

fn tuple(protocol: u8, src: SocketAddr, dst: SocketAddr) -> Tuple {
    Tuple { protocol, src, dst }
}

#[track_caller]
fn expect_untouched(lab: &mut Lab, interface: &str, frame: &[u8]) {
    let outcome = lab.run(interface, frame);
    assert_eq!(outcome.action, Action::Pass, "{:?}", hex(frame));
    assert_eq!(hex(&outcome.frame), hex(frame));
}

/// Padding behind a packet is nobody's: it was taken for what an error quotes.
#[test]
fn an_error_quotes_nothing_behind_its_own_end() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            one_flow(lab, family, 6);
            let [client, _, backend] = family.map(at);
            let is_v6 = client.is_ipv6();
            let quoted = Draft::new(&tuple(6, client, backend)).whole();
            let (protocol, kind) = if is_v6 { (ICMPV6, 1) } else { (ICMP, 3) };
            let mut error = Draft::new(&tuple(protocol, backend, client));
            error.payload = [&[kind, 0, 0, 0, 0, 0, 0, 0], &quoted[..]].concat();
            let whole = error.whole();
            let sent = lab.run(PODS, &frame(PODS, &whole));
            assert_eq!(sent.action, Action::Redirect);
            // Up to within the quoted ports.
            let header = if is_v6 { 40 } else { 20 };
            for quoted_len in [0, header - 1, header, header + 3] {
                let mut cut = whole.clone();
                let len = if is_v6 { 8 } else { 28 } + quoted_len;
                claim(&mut cut, len as u16);
                expect_untouched(lab, PODS, &frame(PODS, &cut));
            }
            assert_eq!(lab.all_drops(), 0);
        });
    }
}

/// A SYN gave up the ended flow on its tuple before anybody had looked whether
/// it can be forwarded.
#[test]
fn a_syn_that_is_dropped_gives_no_flow_up() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            one_flow(lab, family, 6);
            let [client, vip, backend] = family.map(at);
            lab.send(&Segment::from_backend(backend, client, RST));
            let mut slot = lab.slot(0);
            slot.state = SLOT_CLOSING;
            lab.set_slot(0, slot);
            let syn = Segment::from_client(client, vip, SYN);
            lab.expect_dropped(&Segment {
                ttl: 1,
                ..syn.clone()
            });
            assert_eq!(lab.drops(DropReason::TtlExceeded), 1);
            let mut frame = syn.frame();
            frame.pop();
            assert_eq!(lab.run(WIRE, &frame).action, Action::Drop);
            assert_eq!(lab.drops(DropReason::Malformed), 1);
            assert_eq!(lab.slot(0).state, SLOT_CLOSING);
            lab.expect_forwarded(&syn, client, backend);
            assert_eq!(lab.slot(1).state, SLOT_ACTIVE);
        });
    }
}

/// SYN with RST took a slot, and started a new flow over one that had ended.
#[test]
fn a_reset_opens_nothing() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            one_flow(lab, family, 6);
            let [client, vip, backend] = family.map(at);
            let other = SocketAddr::new(client.ip(), client.port() + 1);
            lab.expect_untouched(&Segment::from_client(other, vip, SYN | RST));
            assert_eq!(lab.verdicts(VerdictCounter::NoFlow), 1);
            let mut slot = lab.slot(0);
            slot.state = SLOT_CLOSING;
            lab.set_slot(0, slot);
            let late = Segment::from_client(client, vip, SYN | RST);
            lab.expect_forwarded(&late, client, backend);
            assert_eq!(lab.slot(0).state, SLOT_CLOSING);
            assert_eq!(lab.service_stats().flows, 1);
        });
    }
}

/// An address of the other family was cut down or filled up to fit.
#[test]
fn a_backend_of_the_other_family_is_refused() {
    for (family, other) in FAMILIES.into_iter().zip(FAMILIES.into_iter().rev()) {
        at_both_hooks(|lab| {
            let [client, vip, backend] = family.map(at);
            lab.free_slots(0..8);
            lab.service(vip, &[1]);
            let [ours, theirs] = if vip.is_ipv4() {
                [IpAddr::from(SNAT_ADDR), SNAT_ADDR6.into()]
            } else {
                [SNAT_ADDR6.into(), IpAddr::from(SNAT_ADDR)]
            }
            .map(Addr16::from);
            let syn = Segment::from_client(client, vip, SYN);
            for (endpoint, forwarding, source) in [
                (at(other[2]), FORWARD_DNAT, Addr16::ANY),
                (at(other[2]), FORWARD_SNAT, ours),
                (backend, FORWARD_SNAT, theirs),
                (backend, FORWARD_DNAT, theirs),
            ] {
                lab.backend(1, endpoint, forwarding, source);
                lab.expect_dropped(&syn);
            }
            assert_eq!(lab.drops(DropReason::BadMapEntry), 4);
            assert_eq!(lab.flow_keys(), 0);
        });
    }
}

/// A ring said to start behind the last chunk went on with the first one.
#[test]
fn a_ring_does_not_go_round_the_array() {
    at_both_hooks(|lab| {
        let [client, vip, backend] = FAMILIES[0].map(at);
        lab.free_slots(0..64);
        lab.dnat_backend(1, backend);
        lab.service_with(vip, &[1; 64], |service| service.ring_chunk = u32::MAX);
        for port in 0..32 {
            let other = SocketAddr::new(client.ip(), client.port() + port);
            lab.expect_dropped(&Segment::from_client(other, vip, SYN));
        }
        assert_eq!(lab.drops(DropReason::BadMapEntry), 32);
    });
}

/// Later fragments were sent on though they were shorter than their headers.
#[test]
fn a_later_fragment_is_no_shorter_than_its_headers() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            one_flow(lab, family, PROTOCOL_UDP);
            let [client, vip, _] = family.map(at);
            let is_v6 = client.is_ipv6();
            let mut draft = Draft::new(&tuple(PROTOCOL_UDP, client, vip));
            draft.payload = vec![3; 60];
            draft.options = vec![1; if is_v6 { 0 } else { 8 }];
            let pieces = draft.fragments(32);
            let first = lab.run(WIRE, &frame(WIRE, &pieces[0]));
            assert_eq!(first.action, Action::Redirect);
            // Without its options, without its fragment header.
            for len in if is_v6 { [0, 7] } else { [0, 27] } {
                let mut short = pieces[1].clone();
                claim(&mut short, len);
                assert_eq!(lab.run(WIRE, &frame(WIRE, &short)).action, Action::Drop);
            }
            assert_eq!(lab.drops(DropReason::Malformed), 2);
            let whole = lab.run(WIRE, &frame(WIRE, &pieces[1]));
            assert_eq!(whole.action, Action::Redirect);
        });
    }
}

/// The bounds of the walk held for the first fragment only.
#[test]
fn extension_headers_are_bounded_in_front_of_later_fragments_too() {
    at_both_hooks(|lab| {
        one_flow(lab, FAMILIES[1], PROTOCOL_UDP);
        let [client, vip, _] = FAMILIES[1].map(at);
        let mut draft = Draft::new(&tuple(PROTOCOL_UDP, client, vip));
        draft.payload = vec![3; 60];
        let first = &draft.fragments(32)[0];
        let outcome = lab.run(WIRE, &frame(WIRE, first));
        assert_eq!(outcome.action, Action::Redirect);
        for (headers, units, is_walked) in
            [(5, 0, true), (6, 0, false), (1, 29, true), (1, 30, false)]
        {
            let mut header = vec![0, units, 1, 4];
            header.resize((usize::from(units) + 1) * 8, 0);
            draft.extensions = vec![(60, header); headers];
            let later = frame(WIRE, &draft.fragments(32)[1]);
            if is_walked {
                assert_eq!(lab.run(WIRE, &later).action, Action::Redirect);
            } else {
                expect_untouched(lab, WIRE, &later);
            }
        }
        assert_eq!(lab.all_drops(), 0);
        // The flow is not disturbed.
        lab.send(&Segment::from_client(client, vip, ACK).udp());
        assert_eq!(lab.slot(0).dir[0].packets, 5);
    });
}

/// It passed as a packet of nobody: the program that answers what is too long took
/// it for an error about a packet of its own.
#[test]
fn an_error_that_does_not_fit_once_it_is_wrapped_is_dropped() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            dsr::one_backend(lab, family);
            let [client, vip, _] = family.map(at);
            ip("link set pods mtu 1300");
            lab.send(&Segment::from_client(client, vip, SYN));
            let answer = Segment {
                payload: vec![7; 1_230],
                ..Segment::from_backend(vip, client, ACK)
            }
            .frame();
            let error = Error::too_big(client.ip(), vip.ip(), &answer, 1_260);
            let outcome = lab.run(WIRE, &error.received(WIRE));
            assert_eq!(outcome.action, Action::Drop);
            assert_eq!(lab.drops(DropReason::PacketTooBig), 1);
        });
    }
}

/// The outer header's version was taken for granted.
#[test]
fn an_error_quotes_a_header_of_its_own_family() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            dsr::one_backend(lab, family);
            let [client, vip, backend] = family.map(at);
            lab.send(&Segment::from_client(client, vip, SYN));
            let data = Segment::from_client(client, vip, ACK);
            let sent = dsr::wrapped(lab.hook, &data, backend);
            let source = dsr::tunnel_source(backend);
            let mut error = Error::too_big(backend.ip(), source, &sent, sent.len() - 14);
            error.quoted[0] ^= 0x10;
            expect_untouched(lab, PODS, &error.received(PODS));
        });
    }
}
