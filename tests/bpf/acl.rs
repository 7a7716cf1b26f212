// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which sources may open flows.

use gateway_common::{
    counters::VerdictCounter, drop_reason::DropReason, flow::PROTOCOL_UDP, source::NO_SOURCE_LIST,
};

use crate::{
    lab::{Lab, at_both_hooks},
    packet::{ACK, BACKEND, BACKEND6, CLIENT, CLIENT6, SYN, Segment, VIP, VIP6, at},
};

/// A service with a list of id 5, in the family of `vip`.
fn guarded(lab: &mut Lab, vip: &str, backend: &str, prefixes: &[(&str, bool)]) {
    lab.free_slots(0..64);
    lab.dnat_backend(1, at(backend));
    lab.service_with(at(vip), &[1], |service| service.source_list = 5);
    for (prefix, allowed) in prefixes {
        lab.source(5, prefix, *allowed);
    }
}

fn syn(client: &str, vip: &str) -> Segment {
    Segment::from_client(at(client), at(vip), SYN)
}

/// Sends SYNs of `clients`, each from another port than 40000; how many flows
/// there are then.
fn flows_of(lab: &mut Lab, vip: &str, clients: &[&str]) -> usize {
    for client in clients {
        let _ = lab.send(&syn(client, vip));
    }
    lab.flow_keys() / 2
}

#[test]
fn the_longest_prefix_decides() {
    at_both_hooks(|lab| {
        let list = [
            ("192.0.2.0/24", true),
            ("192.0.2.2/32", false),
            ("192.0.2.0/25", false),
            ("192.0.2.3/32", true),
        ];
        guarded(lab, VIP, BACKEND, &list);
        lab.expect_dropped(&syn("192.0.2.2:40000", VIP));
        lab.expect_dropped(&syn("192.0.2.4:40000", VIP));
        assert_eq!(lab.flow_keys(), 0);
        let taken = ["192.0.2.3:40000", "192.0.2.129:40000"];
        assert_eq!(flows_of(lab, VIP, &taken), 2);
        // No prefix contains it.
        lab.expect_dropped(&syn("198.51.100.2:40000", VIP));
        assert_eq!(lab.drops(DropReason::SourceDenied), 3);
        assert_eq!(lab.service_stats().refused, 3);
        assert_eq!(lab.service_stats().flows, 2);
    });
}

#[test]
fn ipv6_sources_are_told_apart_by_the_same_list() {
    at_both_hooks(|lab| {
        let list = [
            ("2001:db8::/32", true),
            ("2001:db8::2/128", false),
            ("192.0.2.0/24", true),
        ];
        guarded(lab, VIP6, BACKEND6, &list);
        lab.expect_dropped(&syn(CLIENT6, VIP6));
        lab.expect_dropped(&syn("[2001:db9::2]:40000", VIP6));
        assert_eq!(lab.drops(DropReason::SourceDenied), 2);
        assert_eq!(flows_of(lab, VIP6, &["[2001:db8::3]:40000"]), 1);
    });
}

#[test]
fn a_list_that_is_not_there_takes_nobody() {
    at_both_hooks(|lab| {
        guarded(lab, VIP, BACKEND, &[]);
        // Another list's prefixes are not this one's.
        lab.source(4, "0.0.0.0/0", true);
        lab.source(6, "0.0.0.0/0", true);
        lab.expect_dropped(&syn(CLIENT, VIP));
        assert_eq!(lab.drops(DropReason::SourceDenied), 1);
        lab.service_with(at(VIP), &[1], |service| {
            service.source_list = NO_SOURCE_LIST;
        });
        lab.expect_forwarded(&syn(CLIENT, VIP), at(CLIENT), at(BACKEND));
    });
}

#[test]
fn a_flow_that_is_there_is_not_judged_again() {
    at_both_hooks(|lab| {
        guarded(lab, VIP, BACKEND, &[("192.0.2.0/24", true)]);
        let (client, backend) = (at(CLIENT), at(BACKEND));
        lab.expect_forwarded(&syn(CLIENT, VIP), client, backend);
        lab.source(5, "192.0.2.0/24", false);
        let ack = Segment::from_client(client, at(VIP), ACK);
        lab.expect_forwarded(&ack, client, backend);
        lab.expect_dropped(&syn("192.0.2.2:40001", VIP));
        assert_eq!(lab.verdicts(VerdictCounter::Forwarded), 2);
    });
}

#[test]
fn udp_services_have_lists_as_well() {
    at_both_hooks(|lab| {
        lab.free_slots(0..64);
        lab.dnat_backend(1, at(BACKEND));
        lab.service_of(PROTOCOL_UDP, at(VIP), &[1], |service| {
            service.source_list = 5;
        });
        lab.source(5, "192.0.2.3/32", true);
        let datagram = |client: &str| Segment::from_client(at(client), at(VIP), 0).udp();
        lab.expect_dropped(&datagram(CLIENT));
        assert_eq!(lab.drops(DropReason::SourceDenied), 1);
        let other = "192.0.2.3:40000";
        lab.expect_forwarded(&datagram(other), at(other), at(BACKEND));
    });
}
