// SPDX-License-Identifier: Apache-2.0 OR MIT
//! UDP of both families: sessions, and the checksum that may be missing.

use gateway_common::{
    counters::VerdictCounter,
    drop_reason::DropReason,
    flow::{PROTOCOL_UDP, SLOT_ACTIVE},
    tcp_state::TCP_SYN_SENT,
    udp_state::{UDP_ONE_WAY, UDP_TWO_WAY},
};

use crate::{
    lab::{Action, Lab, WIRE, at_both_hooks},
    maps::{key, key_of},
    packet::{ACK, CLIENT, FAMILIES, SYN, Segment, VIP, at, hex},
};

fn one_backend(lab: &mut Lab, [_, vip, backend]: [&str; 3]) {
    lab.free_slots(0..8);
    lab.dnat_backend(1, at(backend));
    lab.service_of(PROTOCOL_UDP, at(vip), &[1], |_| {});
}

#[test]
fn a_session_starts_with_its_first_packet_and_is_answered() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            one_backend(lab, family);
            let [client, vip, backend] = family.map(at);
            for payload in [b"".to_vec(), b"odd".to_vec(), vec![7; 1400]] {
                let request = Segment {
                    payload,
                    ..Segment::from_client(client, vip, 0).udp()
                };
                lab.expect_forwarded(&request, client, backend);
                assert_eq!(lab.slot(0).tcp_state, UDP_ONE_WAY);
            }
            let reply = Segment::from_backend(backend, client, 0).udp();
            lab.expect_forwarded(&reply, vip, client);
            lab.expect_forwarded(&reply, vip, client);
            lab.expect_forwarded(&Segment::from_client(client, vip, 0).udp(), client, backend);
            let slot = lab.slot(0);
            assert_eq!((slot.state, slot.tcp_state), (SLOT_ACTIVE, UDP_TWO_WAY));
            assert_eq!(slot.dir.map(|dir| dir.packets), [4, 2]);
            assert_eq!(lab.service_stats().flows, 1);
            assert_eq!(lab.flow_keys(), 2);
            assert_eq!(lab.all_drops(), 0);
        });
    }
}

#[test]
fn a_missing_checksum_stays_missing() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            one_backend(lab, family);
            let [client, vip, backend] = family.map(at);
            let without = |segment: Segment| Segment {
                no_checksum: true,
                ..segment.udp()
            };
            lab.expect_forwarded(
                &without(Segment::from_client(client, vip, 0)),
                client,
                backend,
            );
            lab.expect_forwarded(
                &without(Segment::from_backend(backend, client, 0)),
                vip,
                client,
            );
        });
    }
}

/// A sum of zero is written as 0xffff: zero would say that there is none
/// (RFC 768). Every value of a word meets it once, before or after.
#[test]
fn checksums_are_right_for_every_value_they_take() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            one_backend(lab, family);
            let [client, vip, backend] = family.map(at);
            let (mut before, mut after) = (0, 0);
            for word in 0..=u16::MAX {
                let request = Segment {
                    payload: word.to_be_bytes().to_vec(),
                    ..Segment::from_client(client, vip, 0).udp()
                };
                // The checksum is the last word but one.
                let is_zero = |frame: &[u8]| frame[frame.len() - 4..][..2] == [0xff, 0xff];
                let zero_before = is_zero(&request.frame());
                let zero_after = is_zero(&request.forwarded(lab.hook, client, backend));
                before += u32::from(zero_before);
                after += u32::from(zero_after);
                if word % 13 == 0 || zero_before || zero_after {
                    lab.expect_forwarded(&request, client, backend);
                }
            }
            assert!(before >= 1 && after >= 1, "{before} {after}");
        });
    }
}

#[test]
fn tcp_and_udp_of_one_port_are_different_services() {
    at_both_hooks(|lab| {
        one_backend(lab, FAMILIES[0]);
        let (client, vip) = (at(CLIENT), at(VIP));
        let backend = at(FAMILIES[0][2]);
        lab.expect_untouched(&Segment::from_client(client, vip, SYN));
        lab.expect_forwarded(&Segment::from_client(client, vip, 0).udp(), client, backend);
        lab.expect_untouched(&Segment::from_client(client, vip, ACK));
        lab.service(vip, &[1]);
        lab.expect_forwarded(&Segment::from_client(client, vip, SYN), client, backend);
        let [udp, tcp] = [key_of(PROTOCOL_UDP, client, vip), key(client, vip)]
            .map(|key| lab.flow(&key).unwrap().slot);
        assert_ne!(udp, tcp);
        assert_eq!(lab.slot(udp).tcp_state, UDP_ONE_WAY);
        assert_eq!(lab.slot(tcp).tcp_state, TCP_SYN_SENT);
    });
}

#[test]
fn lengths_that_contradict_each_other() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            one_backend(lab, family);
            let [client, vip, _] = family.map(at);
            let frame = Segment::from_client(client, vip, 0).udp().frame();
            let udp = frame.len() - 9 - 8;
            for len in [0, 7, 18, 0xffff_u16] {
                let mut frame = frame.clone();
                frame[udp + 4..][..2].copy_from_slice(&len.to_be_bytes());
                assert_eq!(lab.run(WIRE, &frame).action, Action::Drop, "{len}");
            }
            // Cut within its header, and within its payload.
            for len in [udp + 4, udp + 7, udp + 8, udp + 16] {
                assert_eq!(lab.run(WIRE, &frame[..len]).action, Action::Drop, "{len}");
            }
            assert_eq!(lab.drops(DropReason::Malformed), 8);
            assert_eq!(lab.flow_keys(), 0);
            let outcome = lab.run(WIRE, &frame[..udp + 3]);
            assert_eq!(outcome.action, Action::Pass);
            assert_eq!(hex(&outcome.frame), hex(&frame[..udp + 3]));
            // Less than the IP packet holds is allowed (RFC 9868).
            let mut frame = frame;
            frame[udp + 4..][..2].copy_from_slice(&16_u16.to_be_bytes());
            assert_eq!(lab.run(WIRE, &frame).action, Action::Redirect);
            assert_eq!(lab.verdicts(VerdictCounter::Forwarded), 1);
        });
    }
}
