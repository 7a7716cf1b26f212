// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Services for a range of ports: one entry, the client's port kept.

use std::net::SocketAddr;

use gateway_common::{
    counters::VerdictCounter,
    drop_reason::DropReason,
    flow::{PROTOCOL_TCP, PROTOCOL_UDP},
    port_range::RANGES_OF_SERVICES,
};

use crate::{
    lab::at_both_hooks,
    maps::addr,
    packet::{ACK, FAMILIES, SYN, SYN_ACK, Segment, at},
};

fn with_port(address: SocketAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.ip(), port)
}

#[test]
fn every_port_of_a_range_is_forwarded_and_kept() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            let [client, vip, backend] = family.map(at);
            let vip = with_port(vip, 30_000);
            lab.free_slots(0..64);
            lab.dnat_backend(1, with_port(backend, 0));
            for proto in [PROTOCOL_TCP, PROTOCOL_UDP] {
                lab.service_of(proto, vip, &[1], |_| {});
                lab.widen_service(proto, vip, 39_999, &[(30_000, 39_999)]);
            }
            for port in [30_000, 30_001, 35_555, 39_999] {
                let (vip, backend) = (with_port(vip, port), with_port(backend, port));
                lab.expect_forwarded(&Segment::from_client(client, vip, SYN), client, backend);
                let answer = Segment::from_backend(backend, client, SYN_ACK);
                lab.expect_forwarded(&answer, vip, client);
                lab.expect_forwarded(&Segment::from_client(client, vip, ACK), client, backend);
                let datagram = Segment::from_client(client, vip, 0).udp();
                lab.expect_forwarded(&datagram, client, backend);
                let answer = Segment::from_backend(backend, client, 0).udp();
                lab.expect_forwarded(&answer, vip, client);
            }
            for port in [29_999, 40_000, 0, u16::MAX] {
                let vip = with_port(vip, port);
                lab.expect_untouched(&Segment::from_client(client, vip, SYN));
                lab.expect_untouched(&Segment::from_client(client, vip, 0).udp());
            }
            assert_eq!(lab.service_stats().flows, 8);
            assert_eq!(lab.verdicts(VerdictCounter::Passed), 8);
            assert_eq!(lab.all_drops(), 0);
        });
    }
}

#[test]
fn a_port_of_its_own_goes_before_the_range() {
    at_both_hooks(|lab| {
        let [client, vip, backend] = FAMILIES[0].map(at);
        let other = at("10.1.0.12:7777");
        lab.free_slots(0..8);
        lab.dnat_backend(1, with_port(backend, 0));
        lab.dnat_backend(2, other);
        // The rings of both start at chunk 0: the second one is as long as this.
        lab.service(with_port(vip, 100), &[1]);
        lab.widen_service(PROTOCOL_TCP, with_port(vip, 100), 200, &[(100, 200)]);
        let ranged = with_port(vip, 150);
        lab.expect_forwarded(
            &Segment::from_client(client, ranged, SYN),
            client,
            with_port(backend, 150),
        );
        lab.service(with_port(vip, 151), &[2]);
        let own = with_port(vip, 151);
        lab.expect_forwarded(&Segment::from_client(client, own, SYN), client, other);
    });
}

/// All ports of a client's flows lead to one port of the backend: the replies
/// of the second one would be taken for those of the first.
#[test]
fn a_port_of_the_backends_own_takes_all_of_the_range() {
    at_both_hooks(|lab| {
        let [client, vip, backend] = FAMILIES[0].map(at);
        lab.free_slots(0..8);
        lab.dnat_backend(1, backend);
        lab.service(vip, &[1]);
        lab.widen_service(PROTOCOL_TCP, vip, 1_900, &[(1_883, 1_900)]);
        lab.expect_forwarded(&Segment::from_client(client, vip, SYN), client, backend);
        let second = Segment::from_client(client, with_port(vip, 1_884), SYN);
        lab.expect_dropped(&second);
        assert_eq!(lab.drops(DropReason::ReplyTupleTaken), 1);
        let elsewhere = Segment {
            src: with_port(client, 40_001),
            ..second
        };
        lab.expect_forwarded(&elsewhere, elsewhere.src, backend);
    });
}

/// The index says a range that the service map does not have (any more).
#[test]
fn an_index_that_leads_nowhere_is_no_service() {
    at_both_hooks(|lab| {
        let [client, vip, backend] = FAMILIES[1].map(at);
        lab.free_slots(0..8);
        lab.dnat_backend(1, backend);
        lab.service(vip, &[1]);
        lab.widen_service(PROTOCOL_TCP, vip, 2_000, &[(1_883, 1_999)]);
        lab.expect_untouched(&Segment::from_client(client, with_port(vip, 1_900), SYN));
        lab.port_ranges(RANGES_OF_SERVICES, addr(vip), PROTOCOL_TCP, &[]);
        lab.expect_untouched(&Segment::from_client(client, with_port(vip, 1_900), SYN));
    });
}
