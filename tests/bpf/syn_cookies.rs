// SPDX-License-Identifier: Apache-2.0 OR MIT
//! New flows under pressure: challenges that tell real sources from others.

use std::net::SocketAddr;

use gateway_common::{
    counters::VerdictCounter,
    drop_reason::DropReason,
    flow::PROTOCOL_UDP,
    guard::{Guard, SYN_COOKIES_ALWAYS, SYN_COOKIES_AUTO},
};

use crate::{
    lab::{Action, Hook, Lab, WIRE, at_both_hooks},
    packet::{ACK, BACKEND, CLIENT, FAMILIES, RST, SYN, Segment, VIP, at, hex},
};

pub const ALWAYS: Guard = Guard {
    is_on: 1,
    syn_cookies: SYN_COOKIES_ALWAYS,
    ..Guard::NONE
};
const AUTO: Guard = Guard {
    syn_cookies: SYN_COOKIES_AUTO,
    ..Guard::NONE
};

/// A guarded service with one backend and room for 64 flows.
pub fn guarded(lab: &mut Lab, [_, vip, backend]: [&str; 3], guard: Guard) {
    lab.free_slots(0..64);
    lab.dnat_backend(1, at(backend));
    lab.service_with(at(vip), &[1], |service| service.guard = guard);
}

/// The same client by another port.
pub fn port(client: &str, port: u16) -> SocketAddr {
    let mut client = at(client);
    client.set_port(port);
    client
}

pub fn syn(from: SocketAddr, vip: &str) -> Segment {
    Segment {
        // As a client's has them.
        tcp_options: vec![2, 4, 5, 0xb4, 1, 3, 3, 7],
        ..Segment::from_client(from, at(vip), SYN)
    }
}

/// The number that the challenge to a SYN acknowledges. The challenge is the SYN
/// with its addresses, ports and MAC addresses exchanged, as an acknowledgement.
pub fn challenge(lab: &mut Lab, syn: &Segment) -> u32 {
    let before = lab.verdicts(VerdictCounter::Challenged);
    let outcome = lab.run(WIRE, &syn.frame());
    let back = match lab.hook {
        Hook::Tc => Action::Redirect,
        Hook::Xdp => Action::Back,
    };
    assert_eq!(outcome.action, back);
    assert_eq!(lab.verdicts(VerdictCounter::Challenged), before + 1);
    let tcp = syn.frame().len() - syn.payload.len() - syn.tcp_options.len() - 20;
    let number = &outcome.frame[tcp + 8..tcp + 12];
    let number = u32::from_be_bytes(number.try_into().unwrap());
    let expected = Segment {
        eth_src: syn.eth_dst,
        eth_dst: syn.eth_src,
        src: syn.dst,
        dst: syn.src,
        flags: ACK,
        ack: number,
        ..syn.clone()
    };
    assert_eq!(hex(&outcome.frame), hex(&expected.frame()));
    number
}

/// A reset with a sequence number.
pub fn reset(from: SocketAddr, vip: &str, seq: u32) -> Segment {
    Segment {
        seq,
        ack: 0,
        payload: Vec::new(),
        ..Segment::from_client(from, at(vip), RST)
    }
}

/// Expects that a reset is taken for the answer to a challenge.
pub fn expect_verified(lab: &mut Lab, reset: &Segment) {
    let before = lab.verdicts(VerdictCounter::Verified);
    assert_eq!(lab.run(WIRE, &reset.frame()).action, Action::Drop);
    assert_eq!(lab.verdicts(VerdictCounter::Verified), before + 1);
}

#[test]
fn a_source_that_answers_its_challenge_is_let_in() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            guarded(lab, family, ALWAYS);
            let [client, vip, backend] = family;
            let first = syn(at(client), vip);
            let number = challenge(lab, &first);
            assert_eq!(lab.flow_keys(), 0);

            // A number that was not sent, one sent to another port, an
            // acknowledgement: none of them shows anything.
            for wrong in [
                reset(at(client), vip, number ^ 0x100),
                reset(port(client, 1), vip, number),
                Segment {
                    flags: ACK,
                    ..reset(at(client), vip, number)
                },
            ] {
                assert_eq!(lab.run(WIRE, &wrong.frame()).action, Action::Pass);
            }
            challenge(lab, &first);
            assert_eq!(lab.verdicts(VerdictCounter::Verified), 0);

            expect_verified(lab, &reset(at(client), vip, number));
            lab.expect_forwarded(&first, at(client), at(backend));
            // By any port, for a while.
            let next = syn(port(client, 2), vip);
            lab.expect_forwarded(&next, port(client, 2), at(backend));
            assert_eq!(lab.flow_keys(), 4);
            assert_eq!(lab.all_drops(), 0);
            assert_eq!(lab.service_stats().refused, 0);
        });
    }
}

#[test]
fn a_challenge_to_a_syn_with_data_is_answered_too() {
    at_both_hooks(|lab| {
        guarded(lab, FAMILIES[0], ALWAYS);
        let first = Segment {
            payload: b"GET / HTTP/1.1".to_vec(),
            ..syn(at(CLIENT), VIP)
        };
        let number = challenge(lab, &first);
        expect_verified(lab, &reset(at(CLIENT), VIP, number));
    });
}

#[test]
fn half_open_flows_above_a_limit_ask_for_an_answer() {
    for by_node in [false, true] {
        at_both_hooks(|lab| {
            let limit = if by_node { 0 } else { 2 };
            let guard = Guard {
                is_on: u32::from(!by_node),
                half_open: limit,
                ..AUTO
            };
            guarded(lab, FAMILIES[0], guard);
            if by_node {
                lab.change_settings(|settings| settings.limits.max_half_open = 2);
            }
            for number in [1, 2] {
                let from = port(CLIENT, number);
                lab.expect_forwarded(&syn(from, VIP), from, at(BACKEND));
            }
            let number = challenge(lab, &syn(port(CLIENT, 3), VIP));
            expect_verified(lab, &reset(port(CLIENT, 3), VIP, number));
            // A source that is there has room for as many again, and no more.
            for number in [3, 4] {
                let from = port(CLIENT, number);
                lab.expect_forwarded(&syn(from, VIP), from, at(BACKEND));
            }
            lab.expect_dropped(&syn(port(CLIENT, 5), VIP));
            assert_eq!(lab.drops(DropReason::HalfOpenFull), 1);
            assert_eq!(lab.service_stats().refused, 1);
        });
    }
}

#[test]
fn a_flood_of_new_flows_leaves_known_ones_alone() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            guarded(lab, family, AUTO);
            let [client, vip, backend] = family;
            lab.service_of(PROTOCOL_UDP, at(vip), &[1], |_| {});
            lab.change_settings(|settings| {
                settings.limits.new_flow_rate = 1;
                settings.limits.new_flow_burst = 1;
            });
            let first = syn(port(client, 1), vip);
            lab.expect_forwarded(&first, port(client, 1), at(backend));
            lab.empty_new_flow_bucket();
            let number = challenge(lab, &syn(port(client, 2), vip));
            let datagram = Segment::from_client(port(client, 3), at(vip), 0).udp();
            lab.expect_dropped(&datagram);
            assert_eq!(lab.drops(DropReason::NewFlowFlood), 1);
            let known = Segment::from_client(port(client, 1), at(vip), ACK);
            lab.expect_forwarded(&known, port(client, 1), at(backend));
            expect_verified(lab, &reset(port(client, 2), vip, number));
            for number in [2, 4, 5] {
                let from = port(client, number);
                lab.expect_forwarded(&syn(from, vip), from, at(backend));
            }
        });
    }
}

#[test]
fn without_challenges_a_flood_is_dropped() {
    at_both_hooks(|lab| {
        guarded(lab, FAMILIES[0], Guard::NONE);
        lab.change_settings(|settings| {
            settings.limits.new_flow_rate = 1;
            settings.limits.new_flow_burst = 1;
        });
        let from = port(CLIENT, 1);
        lab.expect_forwarded(&syn(from, VIP), from, at(BACKEND));
        lab.empty_new_flow_bucket();
        lab.expect_dropped(&syn(port(CLIENT, 2), VIP));
        assert_eq!(lab.drops(DropReason::NewFlowFlood), 1);
    });
}
