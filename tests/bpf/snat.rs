// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Source translation: ports, clashes, exhaustion.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
};

use gateway_common::{
    addr::Addr16,
    backend::{FORWARD_DNAT, FORWARD_SNAT},
    drop_reason::DropReason,
    flow::{DIR_TO_BACKEND, KIND_DNAT, KIND_SNAT, SLOT_FREE},
};

use crate::{
    lab::{Lab, at_both_hooks},
    maps::{PORTS, SNAT_ADDR, key},
    packet::{ACK, BACKEND, CLIENT, RST, SYN, SYN_ACK, Segment, VIP, at},
};

/// The source that the only flow from `client` was given.
fn source_of(lab: &mut Lab, client: SocketAddr, vip: SocketAddr) -> SocketAddr {
    let slot = lab.flow(&key(client, vip)).unwrap().slot;
    let dir = lab.slot(slot).dir[DIR_TO_BACKEND as usize];
    SocketAddr::new(dir.new_src.into(), u16::from_be(dir.new_src_port_be))
}

#[test]
fn both_addresses_are_rewritten_and_the_port_is_ours() {
    at_both_hooks(|lab| {
        lab.free_slots(0..8);
        lab.snat_backend(1, at(BACKEND));
        lab.service(at(VIP), &[1]);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        let syn = Segment::from_client(client, vip, SYN);
        let outcome = lab.send(&syn);
        let source = source_of(lab, client, vip);
        assert_eq!(source.ip(), IpAddr::from(SNAT_ADDR));
        assert!(PORTS.contains(&source.port()), "{source}");
        assert_eq!(outcome.frame, syn.forwarded(lab.hook, source, backend));
        assert_eq!(lab.slot(0).kind, KIND_SNAT);

        lab.expect_forwarded(
            &Segment::from_backend(backend, source, SYN_ACK),
            vip,
            client,
        );
        lab.expect_forwarded(&Segment::from_client(client, vip, ACK), source, backend);
    });
}

#[test]
fn sixteen_ports_serve_sixteen_flows_and_the_rest_is_refused() {
    at_both_hooks(|lab| {
        lab.free_slots(0..64);
        lab.snat_backend(1, at(BACKEND));
        lab.service(at(VIP), &[1]);
        let vip = at(VIP);
        let mut sources = HashSet::new();
        let mut refused = 0;
        for port in 40_000..40_048 {
            let client = SocketAddr::from(([192, 0, 2, 2], port));
            let syn = Segment::from_client(client, vip, SYN);
            let before = lab.drops(DropReason::SnatPortsExhausted);
            lab.send(&syn);
            if lab.drops(DropReason::SnatPortsExhausted) > before {
                refused += 1;
                assert_eq!(lab.flow(&key(client, vip)), None);
            } else {
                let source = source_of(lab, client, vip);
                assert!(sources.insert(source), "{source} given twice");
                // The reply finds its own client.
                lab.expect_forwarded(
                    &Segment::from_backend(at(BACKEND), source, SYN_ACK),
                    vip,
                    client,
                );
            }
        }
        assert_eq!(sources.len() + refused, 48);
        assert_eq!(sources.len(), PORTS.count(), "every port is found");
        assert_eq!(lab.service_stats().refused, refused as u64);
        assert_eq!(lab.backend_stats(1).refused, refused as u64);
        // Slots of refused flows are free again.
        assert_eq!(lab.flow_keys(), 2 * sources.len());
        let mut free = 0;
        while let Some(index) = lab.pop_free_slot() {
            assert_eq!(lab.slot(index).state, SLOT_FREE);
            free += 1;
        }
        assert_eq!(free, 64 - sources.len());
    });
}

/// Fills a range to the last port and says when the first flow was refused.
#[test]
fn ports_are_found_until_nearly_all_are_taken() {
    const RANGE: u16 = 3_000;
    at_both_hooks(|lab| {
        lab.free_slots(0..u32::from(RANGE));
        lab.snat_ports(61_000..=61_000 + RANGE - 1);
        lab.snat_backend(1, at(BACKEND));
        lab.service(at(VIP), &[1]);
        let mut refused = Vec::new();
        for number in 0..RANGE {
            let client = SocketAddr::from(([192, 0, 2, 2], 1_024 + number));
            lab.send(&Segment::from_client(client, at(VIP), SYN));
            let count = lab.drops(DropReason::SnatPortsExhausted) as usize;
            refused.resize(count, number);
        }
        println!(
            "of {RANGE} ports: refused {} of all, the first after {:?}",
            refused.len(),
            refused.first()
        );
        let taken = lab.flow_keys() / 2;
        assert_eq!(taken + refused.len(), usize::from(RANGE));
        // Nine tenths are given out without a refusal.
        assert!(refused.first().is_none_or(|first| *first > RANGE / 10 * 9));
        assert!(refused.len() < usize::from(RANGE / 20), "{}", refused.len());
    });
}

/// A port whose connection has ended is given out again before one is refused.
#[test]
fn ports_of_flows_that_ended_are_taken_over() {
    at_both_hooks(|lab| {
        lab.free_slots(0..64);
        lab.snat_backend(1, at(BACKEND));
        lab.service(at(VIP), &[1]);
        let vip = at(VIP);
        let from = |port| SocketAddr::from(([192, 0, 2, 2], port));
        let ports = PORTS.count() as u16;
        for port in 40_000..40_000 + ports {
            lab.send(&Segment::from_client(from(port), vip, SYN));
        }
        assert_eq!(lab.flow_keys(), 2 * usize::from(ports));
        let ended = from(40_005);
        let source = source_of(lab, ended, vip);
        let refused = Segment {
            seq: 0,
            ack: Segment::from_client(ended, vip, SYN).seq + 1,
            ..Segment::from_backend(at(BACKEND), source, RST | ACK)
        };
        lab.expect_forwarded(&refused, vip, ended);

        let next = from(50_000);
        lab.send(&Segment::from_client(next, vip, SYN));
        assert_eq!(source_of(lab, next, vip), source);
        let reply = Segment::from_backend(at(BACKEND), source, SYN_ACK);
        lab.expect_forwarded(&reply, vip, next);
        // What is left of the first finds no flow.
        lab.expect_untouched(&Segment::from_client(ended, vip, ACK));
        // All others are live: the next flow is refused, and none is touched.
        lab.expect_dropped(&Segment::from_client(from(50_001), vip, SYN));
        assert_eq!(lab.drops(DropReason::SnatPortsExhausted), 1);
        lab.expect_forwarded(&reply, vip, next);
    });
}

#[test]
fn one_client_port_to_two_addresses_with_a_shared_backend() {
    let second_vip = "198.51.100.2:1883";
    at_both_hooks(|lab| {
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        let other_vip = at(second_vip);
        lab.free_slots(0..8);
        lab.dnat_backend(1, backend);
        lab.service(vip, &[1]);
        lab.service(other_vip, &[1]);
        lab.expect_forwarded(&Segment::from_client(client, vip, SYN), client, backend);

        // Without an address of ours the second flow is refused, whole.
        let second = Segment::from_client(client, other_vip, SYN);
        lab.expect_dropped(&second);
        assert_eq!(lab.drops(DropReason::ReplyTupleTaken), 1);
        assert_eq!(lab.flow_keys(), 2);

        // With one it gets another source; the first is not touched.
        lab.backend(1, backend, FORWARD_DNAT, Addr16::from_v4(SNAT_ADDR));
        let outcome = lab.send(&second);
        let source = source_of(lab, client, other_vip);
        assert_eq!(outcome.frame, second.forwarded(lab.hook, source, backend));
        lab.expect_forwarded(
            &Segment::from_backend(backend, source, SYN_ACK),
            other_vip,
            client,
        );
        lab.expect_forwarded(
            &Segment::from_backend(backend, client, SYN_ACK),
            vip,
            client,
        );
        assert_eq!(lab.slot(0).kind, KIND_DNAT);
    });
}

#[test]
fn a_backend_that_is_its_own_client_is_reached_from_our_address() {
    at_both_hooks(|lab| {
        let (client, vip, backend) = (at("10.1.0.11:40000"), at(VIP), at(BACKEND));
        lab.free_slots(0..8);
        lab.backend(1, backend, FORWARD_DNAT, Addr16::from_v4(SNAT_ADDR));
        lab.service(vip, &[1]);
        lab.send(&Segment::from_backend(client, vip, SYN));
        assert_eq!(lab.slot(0).kind, KIND_SNAT);
        assert_eq!(source_of(lab, client, vip).ip(), IpAddr::from(SNAT_ADDR));
    });
}

#[test]
fn without_an_address_of_ours_nothing_is_sent_from_nowhere() {
    at_both_hooks(|lab| {
        let (vip, backend) = (at(VIP), at(BACKEND));
        lab.free_slots(0..8);
        lab.service(vip, &[1]);
        lab.dnat_backend(1, backend);
        lab.expect_dropped(&Segment::from_backend(at("10.1.0.11:40000"), vip, SYN));
        assert_eq!(lab.drops(DropReason::ReplyTupleTaken), 1);
        lab.backend(1, backend, FORWARD_SNAT, Addr16::ANY);
        lab.expect_dropped(&Segment::from_client(at(CLIENT), vip, SYN));
        assert_eq!(lab.drops(DropReason::BadMapEntry), 1);
        assert_eq!(lab.flow_keys(), 0);
        assert_eq!(lab.slot(0).state, SLOT_FREE);
    });
}
