// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The next hop that is kept for a moment: whose it is, and for how long.

use std::{
    thread,
    time::{Duration, Instant},
};

use gateway_common::{
    counters::VerdictCounter,
    drop_reason::DropReason,
    flow::FlowRef,
    next_hop::{NEXT_HOP_NS, NEXT_HOPS},
};

use crate::{
    lab::{Action, Hook, PODS, at_both_hooks, ip},
    maps::key,
    packet::{ACK, BACKEND, CLIENT, SYN, Segment, VIP, at, hex, one_backend},
};

/// Longer than an answer is believed, with the clock's coarseness.
const EXPIRED: Duration = Duration::from_nanos(NEXT_HOP_NS + 50_000_000);

#[test]
fn a_route_that_goes_away_is_noticed() {
    at_both_hooks(|lab| {
        one_backend(lab);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        lab.expect_forwarded(&Segment::from_client(client, vip, SYN), client, backend);
        ip("route add blackhole 10.1.0.11/32");
        thread::sleep(EXPIRED);
        lab.expect_dropped(&Segment::from_client(client, vip, ACK));
        assert_eq!(lab.drops(DropReason::NoRoute), 1);
        ip("route del blackhole 10.1.0.11/32");
        // That there is no way is not kept.
        lab.expect_forwarded(&Segment::from_client(client, vip, ACK), client, backend);
    });
}

#[test]
fn a_kept_answer_is_used_and_its_mtu_holds() {
    at_both_hooks(|lab| {
        one_backend(lab);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        ip("link set pods mtu 1300");
        let with_payload = |len| Segment {
            payload: vec![7; len],
            ..Segment::from_client(client, vip, ACK)
        };
        lab.expect_forwarded(&Segment::from_client(client, vip, SYN), client, backend);
        lab.expect_forwarded(&with_payload(1260), client, backend);
        assert_eq!(lab.send(&with_payload(1261)).action, lab.to_client());
        assert_eq!(lab.drops(DropReason::PacketTooBig), 1);

        // Without a route no answer but a kept one sends a packet on. A machine
        // that stands still in between gets another try.
        let was_kept = (0..20).any(|_| {
            lab.expect_forwarded(&with_payload(0), client, backend);
            let since = Instant::now();
            ip("route add blackhole 10.1.0.11/32");
            let action = lab.send(&with_payload(0)).action;
            let took = since.elapsed();
            ip("route del blackhole 10.1.0.11/32");
            thread::sleep(EXPIRED);
            action == Action::Redirect && took < EXPIRED
        });
        assert!(was_kept, "every packet asks for its route");
    });
}

#[test]
fn flows_that_share_a_place_do_not_share_the_answer() {
    at_both_hooks(|lab| {
        // The packets of both flows to their backends look at one place.
        lab.free_slots([0, NEXT_HOPS / 2]);
        let (client, vip) = (at(CLIENT), at(VIP));
        lab.dnat_backend(1, at(BACKEND));
        lab.service(vip, &[1]);
        lab.send(&Segment::from_client(client, vip, SYN));
        // The second goes back over the wire.
        let neighbour = at("192.0.2.7:4001");
        lab.dnat_backend(1, at("192.0.2.2:99"));
        lab.send(&Segment::from_client(neighbour, vip, SYN));
        let back = match lab.hook {
            Hook::Tc => Action::Redirect,
            Hook::Xdp => Action::Back,
        };
        for _ in 0..3 {
            let there = lab.send(&Segment::from_client(client, vip, ACK));
            assert_eq!(there.action, Action::Redirect);
            let again = lab.send(&Segment::from_client(neighbour, vip, ACK));
            assert_eq!(again.action, back);
        }
    });
}

#[test]
fn a_new_flow_in_an_old_slot_asks_anew() {
    at_both_hooks(|lab| {
        one_backend(lab);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        lab.expect_forwarded(&Segment::from_client(client, vip, SYN), client, backend);
        let reference = lab.flow(&key(client, vip)).unwrap();
        // As the agent collects it.
        let mut slot = lab.slot(reference.slot);
        slot.generation += 1;
        lab.set_slot(reference.slot, slot);
        lab.set_flow(
            &key(client, vip),
            FlowRef {
                generation: slot.generation,
                ..reference
            },
        );
        ip("route add blackhole 10.1.0.11/32");
        lab.expect_dropped(&Segment::from_client(client, vip, ACK));
    });
}

/// A driver that has no way to send what XDP redirects to it loses that silently.
#[test]
fn the_stack_sends_where_xdp_cannot() {
    at_both_hooks(|lab| {
        one_backend(lab);
        lab.sends_redirected(PODS, false);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        for flags in [SYN, ACK] {
            let segment = Segment::from_client(client, vip, flags);
            if lab.hook == Hook::Tc {
                lab.expect_forwarded(&segment, client, backend);
                continue;
            }
            let outcome = lab.send(&segment);
            assert_eq!(outcome.action, Action::Pass);
            // The stack needs no MAC addresses.
            let expected = segment.forwarded(Hook::Tc, client, backend);
            assert_eq!(hex(&outcome.frame), hex(&expected));
        }
        let missed = if lab.hook == Hook::Tc { 0 } else { 2 };
        assert_eq!(lab.verdicts(VerdictCounter::EgressMiss), missed);
        // That it cannot is not kept.
        lab.sends_redirected(PODS, true);
        lab.expect_forwarded(&Segment::from_client(client, vip, ACK), client, backend);
        assert_eq!(lab.verdicts(VerdictCounter::EgressMiss), missed);
    });
}
