// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Limits of new flows.

use std::net::SocketAddr;

use gateway_common::{
    drop_reason::DropReason,
    flow::{DIR_TO_BACKEND, PROTOCOL_UDP},
    guard::{Guard, HALF_OPEN_NODE, half_open_index},
    limit::SourceMask,
};

use crate::{
    lab::{Action, Lab, PODS, WIRE, at_both_hooks},
    maps::SERVICE_ID,
    packet::{ACK, BACKEND, CLIENT, FAMILIES, FIN_ACK, RST, SYN, SYN_ACK, Segment, VIP, at},
};

/// A guarded service with one backend and room for 64 flows.
fn guarded(lab: &mut Lab, [_, vip, backend]: [&str; 3], guard: Guard) {
    lab.free_slots(0..64);
    lab.dnat_backend(1, at(backend));
    lab.service_with(at(vip), &[1], |service| {
        service.guard = Guard { is_on: 1, ..guard };
    });
}

/// The same client by another port.
fn port(client: &str, port: u16) -> SocketAddr {
    let mut client = at(client);
    client.set_port(port);
    client
}

fn syn(from: SocketAddr, vip: &str) -> Segment {
    Segment::from_client(from, at(vip), SYN)
}

/// Expects that a SYN is refused, for a reason, and counted at the service.
fn expect_refused(lab: &mut Lab, segment: &Segment, reason: DropReason) {
    let before = (lab.drops(reason), lab.service_stats().refused);
    lab.expect_dropped(segment);
    let after = (lab.drops(reason), lab.service_stats().refused);
    assert_eq!(after, (before.0 + 1, before.1 + 1));
}

fn half_open(lab: &mut Lab) -> [i64; 2] {
    [HALF_OPEN_NODE, half_open_index(SERVICE_ID)].map(|index| lab.half_open(index))
}

#[test]
fn a_source_opens_as_many_flows_as_its_bucket_has_tokens() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            let guard = Guard {
                source_rate: 1,
                source_burst: 3,
                ..Guard::NONE
            };
            guarded(lab, family, guard);
            let [client, vip, backend] = family;
            for number in 1..=3 {
                let from = port(client, number);
                lab.expect_forwarded(&syn(from, vip), from, at(backend));
            }
            expect_refused(lab, &syn(port(client, 4), vip), DropReason::SourceRate);
            assert_eq!(lab.flow_keys(), 6);
            // Known flows, and what opens none, are no matter of it.
            let known = Segment::from_client(port(client, 1), at(vip), ACK);
            lab.expect_forwarded(&known, port(client, 1), at(backend));
            let stray = Segment::from_client(port(client, 5), at(vip), ACK);
            assert_eq!(lab.run(WIRE, &stray.frame()).action, Action::Pass);
        });
    }
}

#[test]
fn a_bucket_fills_up_again() {
    at_both_hooks(|lab| {
        let guard = Guard {
            source_rate: 1_000,
            source_burst: 1,
            ..Guard::NONE
        };
        guarded(lab, FAMILIES[0], guard);
        // A token a millisecond: there is one soon, however slow this runs.
        for number in 1..=5 {
            let segment = syn(port(CLIENT, number), VIP);
            let taken =
                (0..1_000_000).any(|_| lab.run(WIRE, &segment.frame()).action != Action::Drop);
            assert!(taken, "{number}");
        }
    });
}

#[test]
fn a_source_has_as_many_flows_as_it_may() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            let guard = Guard {
                source_flows: 2,
                ..Guard::NONE
            };
            guarded(lab, family, guard);
            let [client, vip, backend] = family;
            for number in [1, 2] {
                let from = port(client, number);
                lab.expect_forwarded(&syn(from, vip), from, at(backend));
            }
            expect_refused(lab, &syn(port(client, 3), vip), DropReason::SourceFlows);
            // One of them ends, and makes room for one.
            close(lab, port(client, 1), vip, backend);
            let from = port(client, 3);
            lab.expect_forwarded(&syn(from, vip), from, at(backend));
            expect_refused(lab, &syn(port(client, 4), vip), DropReason::SourceFlows);
            assert_eq!(lab.all_source_flows(), 2);
        });
    }
}

#[test]
fn sources_are_prefixes_and_each_has_its_own_count() {
    for ([client, vip, backend], near, far) in [
        (FAMILIES[0], "192.0.2.77:1", "192.0.3.2:1"),
        (FAMILIES[1], "[2001:db8::77]:1", "[2001:db8:0:1::2]:1"),
    ] {
        at_both_hooks(|lab| {
            let guard = Guard {
                source_flows: 1,
                ..Guard::NONE
            };
            guarded(lab, [client, vip, backend], guard);
            lab.change_settings(|settings| {
                settings.limits.source_mask = SourceMask::new(24, 64);
                settings.limits.source_key = [1, 2];
            });
            lab.expect_forwarded(&syn(at(client), vip), at(client), at(backend));
            expect_refused(lab, &syn(at(near), vip), DropReason::SourceFlows);
            // Routed by the wire's gateway, as `far` is no neighbour.
            assert_ne!(
                lab.run(WIRE, &syn(at(far), vip).frame()).action,
                Action::Drop
            );
            assert_eq!(lab.all_source_flows(), 2);
        });
    }
}

#[test]
fn a_source_without_a_free_place_is_not_counted() {
    at_both_hooks(|lab| {
        let guard = Guard {
            source_flows: 1,
            ..Guard::NONE
        };
        guarded(lab, FAMILIES[0], guard);
        lab.fill_source_flows();
        let before = lab.all_source_flows();
        for number in [1, 2, 3] {
            let from = port(CLIENT, number);
            lab.expect_forwarded(&syn(from, VIP), from, at(BACKEND));
        }
        assert_eq!(lab.all_source_flows(), before);
        close(lab, port(CLIENT, 1), VIP, BACKEND);
        assert_eq!(lab.all_source_flows(), before);
    });
}

#[test]
fn half_open_flows_are_counted_until_they_open_or_end() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            let guard = Guard {
                half_open: 2,
                ..Guard::NONE
            };
            guarded(lab, family, guard);
            let [client, vip, backend] = family;
            for number in [1, 2] {
                let from = port(client, number);
                lab.expect_forwarded(&syn(from, vip), from, at(backend));
            }
            // Again, as clients do: the same flow.
            let from = port(client, 2);
            lab.expect_forwarded(&syn(from, vip), from, at(backend));
            assert_eq!(half_open(lab), [2, 2]);
            expect_refused(lab, &syn(port(client, 3), vip), DropReason::HalfOpenFull);
            // One opens, the other one is refused by the backend.
            let answer = Segment::from_backend(at(backend), port(client, 1), SYN_ACK);
            assert_ne!(lab.run(PODS, &answer.frame()).action, Action::Drop);
            assert_eq!(half_open(lab), [2, 2]);
            let ack = Segment::from_client(port(client, 1), at(vip), ACK);
            lab.expect_forwarded(&ack, port(client, 1), at(backend));
            assert_eq!(half_open(lab), [1, 1]);
            let syn_end = lab.slot(1).dir[DIR_TO_BACKEND as usize].seq_end;
            let refusal = Segment {
                ack: syn_end,
                ..Segment::from_backend(at(backend), port(client, 2), RST | ACK)
            };
            assert_ne!(lab.run(PODS, &refusal.frame()).action, Action::Drop);
            assert_eq!(half_open(lab), [0, 0]);
            let from = port(client, 3);
            lab.expect_forwarded(&syn(from, vip), from, at(backend));
            assert_eq!(half_open(lab), [1, 1]);
        });
    }
}

#[test]
fn the_node_has_a_limit_of_half_open_flows_of_its_own() {
    at_both_hooks(|lab| {
        guarded(lab, FAMILIES[0], Guard::NONE);
        lab.service(at(VIP), &[1]);
        lab.change_settings(|settings| settings.limits.max_half_open = 1);
        lab.expect_forwarded(&syn(port(CLIENT, 1), VIP), port(CLIENT, 1), at(BACKEND));
        expect_refused(lab, &syn(port(CLIENT, 2), VIP), DropReason::HalfOpenFull);
        // Datagrams have no handshake.
        lab.service_of(PROTOCOL_UDP, at(VIP), &[1], |_| {});
        let datagram = syn(port(CLIENT, 3), VIP).udp();
        assert_ne!(lab.run(WIRE, &datagram.frame()).action, Action::Drop);
    });
}

/// Takes a connection through its life.
fn close(lab: &mut Lab, client: SocketAddr, vip: &str, backend: &str) {
    for flags in [SYN_ACK, FIN_ACK] {
        let answer = Segment::from_backend(at(backend), client, flags);
        assert_ne!(lab.run(PODS, &answer.frame()).action, Action::Drop);
        let back = Segment::from_client(client, at(vip), flags & !SYN);
        assert_ne!(lab.run(WIRE, &back.frame()).action, Action::Drop);
    }
}
