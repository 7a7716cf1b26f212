// SPDX-License-Identifier: Apache-2.0 OR MIT
//! IPv6 TCP: there, back, extension headers, and what is left alone.

use gateway_common::{counters::VerdictCounter, drop_reason::DropReason, flow::KIND_SNAT};

use crate::{
    lab::{Action, Hook, Lab, WIRE, at_both_hooks, ip},
    maps::{SNAT_ADDR6, key},
    packet::{ACK, BACKEND, BACKEND6, CLIENT, CLIENT6, SYN, SYN_ACK, Segment, VIP, VIP6, at, hex},
};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const OPTIONS: u8 = 60;

fn one_backend6(lab: &mut Lab) {
    lab.free_slots(0..64);
    lab.dnat_backend(1, at(BACKEND6));
    lab.service(at(VIP6), &[1]);
}

/// A header of `8 * (units + 1)` bytes, filled with padding options.
fn padding(number: u8, units: u8) -> (u8, Vec<u8>) {
    let len = 8 * (usize::from(units) + 1);
    let mut bytes = vec![0; len];
    (bytes[1], bytes[2], bytes[3]) = (units, 1, (len - 4) as u8);
    (number, bytes)
}

#[test]
fn a_new_flow_goes_to_the_backend_and_its_reply_comes_back() {
    at_both_hooks(|lab| {
        one_backend6(lab);
        let (client, vip, backend) = (at(CLIENT6), at(VIP6), at(BACKEND6));
        for flags in [SYN, ACK] {
            let request = Segment {
                class: 0xb9,
                ..Segment::from_client(client, vip, flags)
            };
            lab.expect_forwarded(&request, client, backend);
            let reply = Segment::from_backend(backend, client, SYN_ACK);
            lab.expect_forwarded(&reply, vip, client);
        }
        assert_eq!(lab.verdicts(VerdictCounter::Forwarded), 4);
        assert_eq!(lab.all_drops(), 0);
        let stats = lab.service_stats();
        assert_eq!((stats.flows, stats.refused), (1, 0));
        assert_eq!((stats.bytes_in, stats.bytes_out), (60 + 69, 70 + 70));
    });
}

#[test]
fn both_addresses_are_rewritten_with_a_port_of_ours() {
    at_both_hooks(|lab| {
        lab.free_slots(0..8);
        lab.snat_backend(1, at(BACKEND6));
        lab.service(at(VIP6), &[1]);
        let (client, vip, backend) = (at(CLIENT6), at(VIP6), at(BACKEND6));
        let syn = Segment::from_client(client, vip, SYN);
        let outcome = lab.send(&syn);
        let slot = lab.flow(&key(client, vip)).unwrap().slot;
        let slot = lab.slot(slot);
        assert_eq!(slot.kind, KIND_SNAT);
        let source = std::net::SocketAddr::new(
            slot.dir[0].new_src.into(),
            u16::from_be(slot.dir[0].new_src_port_be),
        );
        assert_eq!(source.ip(), SNAT_ADDR6);
        assert_eq!(outcome.frame, syn.forwarded(lab.hook, source, backend));
        lab.expect_forwarded(
            &Segment::from_backend(backend, source, SYN_ACK),
            vip,
            client,
        );
        lab.expect_forwarded(&Segment::from_client(client, vip, ACK), source, backend);
    });
}

#[test]
fn checksums_are_right_for_every_value_they_take() {
    at_both_hooks(|lab| {
        one_backend6(lab);
        let (client, vip, backend) = (at(CLIENT6), at(VIP6), at(BACKEND6));
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
fn extension_headers_are_walked_and_kept() {
    // The one and only fragment (RFC 6946), and a routing header that is done.
    let atomic = (FRAGMENT, vec![0, 0, 0, 0, 1, 2, 3, 4]);
    let routed = (
        ROUTING,
        vec![
            0, 2, 4, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9,
        ],
    );
    let six = vec![padding(OPTIONS, 0); 6];
    let chains = [
        vec![padding(HOP_BY_HOP, 0)],
        vec![padding(OPTIONS, 3)],
        vec![atomic.clone()],
        vec![routed.clone()],
        vec![
            padding(HOP_BY_HOP, 1),
            padding(OPTIONS, 0),
            routed,
            atomic,
            padding(OPTIONS, 2),
        ],
        six.clone(),
        vec![padding(OPTIONS, 30)],
    ];
    at_both_hooks(|lab| {
        one_backend6(lab);
        let (client, vip, backend) = (at(CLIENT6), at(VIP6), at(BACKEND6));
        for chain in &chains {
            for flags in [SYN, ACK] {
                let request = Segment {
                    extensions: chain.clone(),
                    tcp_options: vec![1; 12],
                    ..Segment::from_client(client, vip, flags)
                };
                lab.expect_forwarded(&request, client, backend);
            }
            let reply = Segment {
                extensions: chain.clone(),
                ..Segment::from_backend(backend, client, ACK)
            };
            lab.expect_forwarded(&reply, vip, client);
        }
        assert_eq!(lab.all_drops(), 0);
    });
}

#[test]
fn chains_that_are_not_walked_to_their_end_pass() {
    let chains = [
        // One too many, one too long, together too long.
        vec![padding(OPTIONS, 0); 7],
        vec![padding(OPTIONS, 31)],
        vec![padding(OPTIONS, 20), padding(OPTIONS, 20)],
        // Not in its place; with a stop left; covered by a signature.
        vec![padding(OPTIONS, 0), padding(HOP_BY_HOP, 0)],
        vec![(ROUTING, vec![0, 0, 4, 1, 0, 0, 0, 0])],
        vec![(AUTHENTICATION, vec![0; 16])],
        // Later fragments; nothing after; encrypted; mobility; HIP.
        vec![(FRAGMENT, vec![0, 0, 0, 8, 1, 2, 3, 4])],
        vec![(FRAGMENT, vec![0, 0, 0, 9, 1, 2, 3, 4])],
        vec![padding(59, 0)],
        vec![padding(50, 0)],
        vec![padding(135, 0)],
        vec![padding(139, 0)],
    ];
    at_both_hooks(|lab| {
        one_backend6(lab);
        for chain in &chains {
            lab.expect_untouched(&Segment {
                extensions: chain.clone(),
                ..Segment::from_client(at(CLIENT6), at(VIP6), SYN)
            });
        }
        assert_eq!(lab.flow_keys(), 0);
        assert_eq!(lab.all_drops(), 0);
    });
}

#[test]
fn what_is_not_ours_passes_untouched() {
    at_both_hooks(|lab| {
        one_backend6(lab);
        lab.service(at(VIP), &[1]);
        let client = at(CLIENT6);
        for segment in [
            Segment::from_client(client, at("[fd97::1]:1884"), SYN),
            Segment::from_client(client, at("[fd97::2]:1883"), SYN),
            Segment::from_backend(at(BACKEND6), client, SYN_ACK),
            // IPv4 addresses in IPv6's clothes reach no service of IPv4, nor
            // one of its flows.
            Segment::from_client(client, at("[::ffff:198.51.100.1]:1883"), SYN),
            Segment::from_client(at("[::ffff:192.0.2.2]:40000"), at(VIP6), SYN),
            Segment::from_client(
                at("[::ffff:192.0.2.2]:40000"),
                at("[::ffff:198.51.100.1]:1883"),
                SYN,
            ),
        ] {
            lab.expect_untouched(&segment);
        }
        lab.dnat_backend(1, at(BACKEND));
        lab.expect_forwarded(
            &Segment::from_client(at(CLIENT), at(VIP), SYN),
            at(CLIENT),
            at(BACKEND),
        );
        lab.expect_untouched(&Segment::from_client(
            at("[::ffff:192.0.2.2]:40000"),
            at("[::ffff:198.51.100.1]:1883"),
            ACK,
        ));
        lab.expect_untouched(&Segment::from_client(client, at(VIP6), ACK));
        assert_eq!(lab.verdicts(VerdictCounter::NoFlow), 1);
        assert_eq!(lab.flow_keys(), 2);
    });
}

#[test]
fn truncated_at_every_length() {
    at_both_hooks(|lab| {
        one_backend6(lab);
        for chain in [vec![], vec![padding(HOP_BY_HOP, 0), padding(OPTIONS, 1)]] {
            let whole = Segment {
                extensions: chain,
                tcp_options: vec![1; 12],
                ..Segment::from_client(at(CLIENT6), at(VIP6), SYN)
            }
            .frame();
            let l4 = whole.len() - 32;
            for len in 54..whole.len() {
                let outcome = lab.run(WIRE, &whole[..len]);
                let expected = if len >= l4 + 4 {
                    Action::Drop
                } else {
                    Action::Pass
                };
                assert_eq!(outcome.action, expected, "cut to {len}");
                if expected == Action::Pass {
                    assert_eq!(hex(&outcome.frame), hex(&whole[..len]));
                }
            }
        }
        assert_eq!(lab.drops(DropReason::Malformed), lab.all_drops());
        assert_eq!(lab.flow_keys(), 0);
    });
}

#[test]
fn lengths_that_contradict_each_other() {
    at_both_hooks(|lab| {
        one_backend6(lab);
        let frame = Segment::from_client(at(CLIENT6), at(VIP6), SYN).frame();
        type Edit = fn(&mut [u8]);
        let edits: [(&str, Edit, Action); 7] = [
            ("version 4", |f| f[14] = 0x40, Action::Pass),
            ("version 15", |f| f[14] = 0xf0, Action::Pass),
            ("payload over the frame", |f| f[19] += 1, Action::Drop),
            ("no payload", |f| f[18..20].fill(0), Action::Drop),
            ("payload within TCP", |f| f[19] = 19, Action::Drop),
            ("data offset of 16 bytes", |f| f[66] = 0x40, Action::Drop),
            (
                "data offset over the packet",
                |f| f[66] = 0xf0,
                Action::Drop,
            ),
        ];
        for (name, edit, expected) in edits {
            let mut frame = frame.clone();
            edit(&mut frame);
            let outcome = lab.run(WIRE, &frame);
            assert_eq!(outcome.action, expected, "{name}");
            if expected == Action::Pass {
                assert_eq!(hex(&outcome.frame), hex(&frame), "{name}");
            }
        }
        assert_eq!(lab.drops(DropReason::Malformed), 5);
        assert_eq!(lab.flow_keys(), 0);
    });
}

#[test]
fn the_hop_limit_ends_here_at_one() {
    at_both_hooks(|lab| {
        one_backend6(lab);
        let (client, vip, backend) = (at(CLIENT6), at(VIP6), at(BACKEND6));
        for (ttl, forwarded) in [(0, false), (1, false), (2, true)] {
            let syn = Segment {
                ttl,
                ..Segment::from_client(client, vip, SYN)
            };
            if forwarded {
                lab.expect_forwarded(&syn, client, backend);
            } else {
                lab.expect_dropped(&syn);
            }
        }
        assert_eq!(lab.drops(DropReason::TtlExceeded), 2);
    });
}

#[test]
fn the_way_out_is_that_of_ipv6() {
    at_both_hooks(|lab| {
        one_backend6(lab);
        let (client, vip, backend) = (at(CLIENT6), at(VIP6), at(BACKEND6));
        let with_payload = |len| Segment {
            payload: vec![7; len],
            ..Segment::from_client(client, vip, SYN)
        };
        ip("link set pods mtu 1300");
        lab.expect_forwarded(&with_payload(1240), client, backend);
        // The kernel grants a frame at tc four bytes for a VLAN tag.
        assert_eq!(lab.send(&with_payload(1245)).action, lab.to_client());
        assert_eq!(lab.drops(DropReason::PacketTooBig), 1);

        // No neighbour known: at tc the redirect resolves it, at XDP the stack.
        lab.dnat_backend(1, at("[fd01::c]:11883"));
        let other = at("[2001:db8::2]:40001");
        let syn = Segment::from_client(other, vip, SYN);
        let outcome = lab.send(&syn);
        let expected = match lab.hook {
            Hook::Tc => Action::Redirect,
            Hook::Xdp => Action::Pass,
        };
        assert_eq!(outcome.action, expected);
        assert_eq!(
            hex(&outcome.frame),
            hex(&syn.forwarded(Hook::Tc, other, at("[fd01::c]:11883")))
        );

        ip("route add blackhole fd01::d/128");
        lab.dnat_backend(1, at("[fd01::d]:11883"));
        lab.expect_dropped(&Segment::from_client(at("[2001:db8::2]:40002"), vip, SYN));
        assert_eq!(lab.drops(DropReason::NoRoute), 1);
    });
}
