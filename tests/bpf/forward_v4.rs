// SPDX-License-Identifier: Apache-2.0 OR MIT
//! IPv4 TCP through DNAT: there, back, and what is left alone.

use gateway_common::{counters::VerdictCounter, drop_reason::DropReason};
use gateway_tests::budget::BUDGETS;

use crate::{
    lab::{Action, Hook, WIRE, at_both_hooks, ip, program_info, set_forwarding},
    maps::SERVICE_ID,
    packet::{ACK, BACKEND, CLIENT, SYN, SYN_ACK, Segment, VIP, at, hex, one_backend},
};

#[test]
fn a_new_flow_goes_to_the_backend_and_its_reply_comes_back() {
    at_both_hooks(|lab| {
        one_backend(lab);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        let syn = Segment::from_client(client, vip, SYN);
        lab.expect_forwarded(&syn, client, backend);
        let syn_ack = Segment::from_backend(backend, client, SYN_ACK);
        lab.expect_forwarded(&syn_ack, vip, client);
        let request = Segment::from_client(client, vip, ACK);
        lab.expect_forwarded(&request, client, backend);
        let answer = Segment::from_backend(backend, client, ACK);
        lab.expect_forwarded(&answer, vip, client);

        assert_eq!(lab.verdicts(VerdictCounter::Forwarded), 4);
        assert_eq!(lab.all_drops(), 0);
        for stats in [lab.service_stats(), lab.backend_stats(1)] {
            assert_eq!((stats.flows, stats.refused), (1, 0));
            assert_eq!((stats.packets_in, stats.packets_out), (2, 2));
            assert_eq!((stats.bytes_in, stats.bytes_out), (40 + 49, 50 + 50));
        }
        let slot = lab.slot(0);
        assert_eq!((slot.service_id, slot.backend_id), (SERVICE_ID, 1));
        assert_eq!(
            (slot.config_generation, slot.established_timeout_s),
            (3, 900)
        );
        assert_eq!(slot.dir.map(|dir| dir.packets), [2, 2]);
        assert_eq!(slot.dir.map(|dir| dir.bytes), [89, 100]);
        assert!(slot.created_ns > 0 && slot.dir[1].last_seen_ns >= slot.created_ns);
    });
}

#[test]
fn options_of_ip_and_tcp_and_odd_payloads_survive() {
    at_both_hooks(|lab| {
        one_backend(lab);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        let tcp_options = [2, 4, 5, 180, 1, 3, 3, 7, 4, 2, 1, 1].to_vec();
        for ip_options in [vec![], vec![1; 4], vec![148, 4, 0, 0], vec![1; 40]] {
            for payload_len in [0, 1, 2, 3, 1399] {
                let syn = Segment {
                    ip_options: ip_options.clone(),
                    tcp_options: tcp_options.clone(),
                    payload: (0..payload_len).map(|i| (i * 7) as u8).collect(),
                    ..Segment::from_client(client, vip, SYN)
                };
                lab.expect_forwarded(&syn, client, backend);
                let reply = Segment {
                    ip_options: ip_options.clone(),
                    payload: syn.payload.clone(),
                    ..Segment::from_backend(backend, client, ACK)
                };
                lab.expect_forwarded(&reply, vip, client);
            }
        }
    });
}

#[test]
fn checksums_are_right_for_every_value_they_take() {
    at_both_hooks(|lab| {
        one_backend(lab);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        lab.expect_forwarded(&Segment::from_client(client, vip, SYN), client, backend);
        for word in (0..=u16::MAX).step_by(13).chain([0xfffe, 0xffff]) {
            let request = Segment {
                payload: word.to_be_bytes().to_vec(),
                ..Segment::from_client(client, vip, ACK)
            };
            lab.expect_forwarded(&request, client, backend);
        }
    });
}

#[test]
fn what_is_not_ours_passes_untouched() {
    at_both_hooks(|lab| {
        one_backend(lab);
        let (client, vip) = (at(CLIENT), at(VIP));
        for segment in [
            Segment::from_client(client, at("198.51.100.1:1884"), SYN),
            Segment::from_client(client, at("198.51.100.2:1883"), SYN),
            Segment::from_client(vip, client, ACK),
            Segment::from_backend(at(BACKEND), client, SYN_ACK),
        ] {
            lab.expect_untouched(&segment);
        }
        assert_eq!(lab.verdicts(VerdictCounter::Passed), 4);

        let mut frames = Vec::new();
        let syn = Segment::from_client(client, vip, SYN).frame();
        let mut arp = syn.clone();
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        frames.push(arp);
        let mut udp = syn.clone();
        udp[23] = 17;
        frames.push(udp);
        // IEEE 802.1Q, 802.1ad, and one within the other: the VLAN's interface
        // gets them without.
        for tags in [
            &[0x81, 0x00, 0x00, 0x05][..],
            &[0x88, 0xa8, 0x00, 0x05],
            &[0x88, 0xa8, 0x00, 0x05, 0x81, 0x00, 0x00, 0x06],
        ] {
            let mut tagged = syn.clone();
            tagged.splice(12..12, tags.iter().copied());
            frames.push(tagged);
        }
        let mut broadcast = syn.clone();
        broadcast[..6].copy_from_slice(&[0xff; 6]);
        frames.push(broadcast);
        for frame in frames {
            let outcome = lab.run(WIRE, &frame);
            assert_eq!(outcome.action, Action::Pass);
            assert_eq!(hex(&outcome.frame), hex(&frame));
        }
        assert_eq!(lab.flow_keys(), 0);
    });
}

#[test]
fn a_packet_without_a_flow_is_left_to_the_stack() {
    at_both_hooks(|lab| {
        one_backend(lab);
        for flags in [ACK, SYN_ACK, 0] {
            lab.expect_untouched(&Segment::from_client(at(CLIENT), at(VIP), flags));
        }
        assert_eq!(lab.verdicts(VerdictCounter::NoFlow), 3);
        assert_eq!(lab.flow_keys(), 0);
    });
}

#[test]
fn time_to_live_ends_here_at_one() {
    at_both_hooks(|lab| {
        one_backend(lab);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        let with_ttl = |ttl, flags| Segment {
            ttl,
            ..Segment::from_client(client, vip, flags)
        };
        lab.expect_dropped(&with_ttl(1, SYN));
        lab.expect_dropped(&with_ttl(0, SYN));
        assert_eq!(lab.flow_keys(), 0);
        lab.expect_forwarded(&with_ttl(2, SYN), client, backend);
        lab.expect_dropped(&with_ttl(1, ACK));
        assert_eq!(lab.drops(DropReason::TtlExceeded), 3);
        assert_eq!(lab.slot(0).dir[0].packets, 1);
    });
}

#[test]
fn without_a_route_packets_are_dropped_or_left_to_the_stack() {
    at_both_hooks(|lab| {
        one_backend(lab);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        set_forwarding(false);
        lab.expect_dropped(&Segment::from_client(client, vip, SYN));
        assert_eq!(lab.drops(DropReason::NoRoute), 1);
        set_forwarding(true);
        ip("route add blackhole 10.1.0.11/32");
        lab.expect_dropped(&Segment::from_client(client, vip, SYN));
        assert_eq!(lab.drops(DropReason::NoRoute), 2);
        ip("route del blackhole 10.1.0.11/32");

        // A backend on this node: the stack delivers the rewritten packet.
        ip("addr add 10.1.0.11/32 dev lo");
        let syn = Segment::from_client(client, vip, SYN);
        let outcome = lab.send(&syn);
        assert_eq!(outcome.action, Action::Pass);
        assert_eq!(
            hex(&outcome.frame),
            hex(&syn.forwarded(Hook::Tc, client, backend))
        );
        assert_eq!(lab.verdicts(VerdictCounter::LocalDelivery), 1);
    });
}

#[test]
fn an_unknown_neighbour_is_left_to_the_kernel() {
    at_both_hooks(|lab| {
        lab.free_slots(0..64);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at("10.1.0.99:11883"));
        lab.dnat_backend(1, backend);
        lab.service(vip, &[1]);
        let syn = Segment::from_client(client, vip, SYN);
        let outcome = lab.send(&syn);
        // At tc the redirect resolves it; at XDP the stack does.
        let expected = match lab.hook {
            Hook::Tc => Action::Redirect,
            Hook::Xdp => Action::Pass,
        };
        assert_eq!(outcome.action, expected);
        assert_eq!(
            hex(&outcome.frame),
            hex(&syn.forwarded(Hook::Tc, client, backend))
        );
        assert_eq!(
            lab.verdicts(VerdictCounter::NeighbourMiss),
            u64::from(lab.hook == Hook::Xdp)
        );
    });
}

#[test]
fn a_backend_on_the_wire_is_answered_out_of_the_same_interface() {
    at_both_hooks(|lab| {
        lab.free_slots(0..64);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at("192.0.2.2:99"));
        lab.dnat_backend(1, backend);
        lab.service(vip, &[1]);
        let client = at(&client.to_string().replace("192.0.2.2", "192.0.2.7"));
        let outcome = lab.send(&Segment::from_client(client, vip, SYN));
        let expected = match lab.hook {
            Hook::Tc => Action::Redirect,
            Hook::Xdp => Action::Back,
        };
        assert_eq!(outcome.action, expected);
    });
}

#[test]
fn a_packet_over_the_mtu_of_the_way_out_is_answered() {
    at_both_hooks(|lab| {
        one_backend(lab);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        ip("link set pods mtu 1300");
        let with_payload = |len| Segment {
            payload: vec![7; len],
            ..Segment::from_client(client, vip, SYN)
        };
        lab.expect_forwarded(&with_payload(1260), client, backend);
        assert_eq!(lab.send(&with_payload(1261)).action, lab.to_client());
        assert_eq!(lab.drops(DropReason::PacketTooBig), 1);

        if lab.hook == Hook::Tc {
            let frame = with_payload(2500);
            let outcome = lab.run_segmented(WIRE, &frame.frame(), 1250);
            assert_eq!(outcome.action, Action::Redirect);
            assert_eq!(
                hex(&outcome.frame),
                hex(&frame.forwarded(lab.hook, client, backend))
            );
            let outcome = lab.run_segmented(WIRE, &frame.frame(), 1261);
            assert_eq!(outcome.action, lab.to_client());
            assert_eq!(lab.drops(DropReason::PacketTooBig), 2);
        }
    });
}

#[test]
fn programs_stay_within_their_budget_of_instructions() {
    at_both_hooks(|lab| {
        for budget in &BUDGETS {
            let (name, budget) = (budget.program, budget.walked);
            let info = program_info(lab, name);
            let walked = u64::from(info.verified_instruction_count().unwrap());
            println!("{name}: {walked} instructions walked");
            assert!(walked <= budget, "{name}: {walked} over {budget}");
        }
    });
}
