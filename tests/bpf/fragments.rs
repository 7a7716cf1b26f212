// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Fragments follow the first of their packet.

use etherparse::Ipv4Header;
use gateway_common::{counters::VerdictCounter, drop_reason::DropReason, flow::PROTOCOL_UDP};

use crate::{
    lab::{Action, Lab, WIRE, at_both_hooks},
    packet::{ACK, FAMILIES, SYN, SYN_ACK, Segment, at, hex},
};

/// Splits the packet of `frame` into fragments with `size` bytes of its payload
/// each, a multiple of 8.
fn fragments(frame: &[u8], id: u16, size: usize) -> Vec<Vec<u8>> {
    let is_v6 = frame[12..14] == [0x86, 0xdd];
    let (header, payload) = frame[14..].split_at(if is_v6 { 40 } else { 20 });
    let count = payload.len().div_ceil(size);
    let pieces = payload.chunks(size).enumerate();
    pieces
        .map(|(index, piece)| {
            let more = u16::from(index + 1 < count);
            let units = (index * size / 8) as u16;
            let mut out = frame[..14].to_vec();
            if is_v6 {
                let mut header = header.to_vec();
                header[4..6].copy_from_slice(&(8 + piece.len() as u16).to_be_bytes());
                let next = std::mem::replace(&mut header[6], 44);
                out.extend(header);
                out.extend([next, 0]);
                out.extend((units << 3 | more).to_be_bytes());
                out.extend(u32::from(id).to_be_bytes());
            } else {
                let (mut ip, _) = Ipv4Header::from_slice(header).unwrap();
                ip.set_payload_len(piece.len()).unwrap();
                ip.identification = id;
                ip.dont_fragment = false;
                ip.more_fragments = more == 1;
                ip.fragment_offset = units.try_into().unwrap();
                ip.header_checksum = ip.calc_header_checksum();
                ip.write_raw(&mut out).unwrap();
            }
            out.extend(piece);
            out
        })
        .collect()
}

fn serve(lab: &mut Lab, [_, vip, backend]: [&str; 3], protocol: u8) {
    lab.free_slots(0..8);
    lab.dnat_backend(1, at(backend));
    lab.service_of(protocol, at(vip), &[1], |_| {});
}

/// A segment of 100 bytes, and it as it leaves the gateway.
fn long(lab: &Lab, segment: Segment, src: &str, dst: &str) -> (Vec<u8>, Vec<u8>) {
    let segment = Segment {
        payload: (0..100).map(|n: u8| n.wrapping_mul(3)).collect(),
        more_fragments: true,
        ..segment
    };
    (
        segment.frame(),
        segment.forwarded(lab.hook, at(src), at(dst)),
    )
}

fn expect_forwarded(lab: &mut Lab, interface: &str, frame: &[u8], expected: &[u8]) {
    let outcome = lab.run(interface, frame);
    assert_eq!(outcome.action, Action::Redirect, "{:?}", hex(frame));
    assert_eq!(hex(&outcome.frame), hex(expected));
}

fn expect_untouched(lab: &mut Lab, frame: &[u8]) {
    let outcome = lab.run(WIRE, frame);
    assert_eq!(outcome.action, Action::Pass, "{:?}", hex(frame));
    assert_eq!(hex(&outcome.frame), hex(frame));
}

#[test]
fn every_fragment_of_a_packet_is_rewritten_alike() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            let [client, vip, backend] = family;
            serve(lab, family, PROTOCOL_UDP);
            let request = Segment::from_client(at(client), at(vip), 0).udp();
            let (whole, expected) = long(lab, request, client, backend);
            for (id, size) in [(1, 8), (2, 24), (3, 104)] {
                let pairs = fragments(&whole, id, size)
                    .into_iter()
                    .zip(fragments(&expected, id, size));
                for (frame, expected) in pairs {
                    expect_forwarded(lab, WIRE, &frame, &expected);
                }
            }
            let reply = Segment::from_backend(at(backend), at(client), 0).udp();
            let (whole, expected) = long(lab, reply, vip, client);
            let pairs = fragments(&whole, 1, 64).into_iter();
            for (frame, expected) in pairs.zip(fragments(&expected, 1, 64)) {
                expect_forwarded(lab, crate::lab::PODS, &frame, &expected);
            }
            assert_eq!(lab.slot(0).dir.map(|dir| dir.packets), [14 + 5 + 2, 2]);
            assert_eq!(lab.all_drops(), 0);
        });
    }
}

#[test]
fn segments_in_fragments_are_tracked_like_whole_ones() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            let [client, vip, backend] = family;
            serve(lab, family, 6);
            for (flags, id) in [(SYN, 7), (ACK, 8)] {
                let segment = Segment::from_client(at(client), at(vip), flags);
                let (whole, expected) = long(lab, segment, client, backend);
                let pairs = fragments(&whole, id, 32).into_iter();
                for (frame, expected) in pairs.zip(fragments(&expected, id, 32)) {
                    expect_forwarded(lab, WIRE, &frame, &expected);
                }
                if flags == SYN {
                    let reply = Segment::from_backend(at(backend), at(client), SYN_ACK);
                    lab.expect_forwarded(&reply, at(vip), at(client));
                }
            }
            assert_eq!(
                lab.slot(0).tcp_state,
                gateway_common::tcp_state::TCP_ESTABLISHED
            );
            // A first fragment without the whole header (RFC 1858).
            let segment = Segment::from_client(at(client), at(vip), ACK);
            let (whole, _) = long(lab, segment, client, backend);
            let tiny = &fragments(&whole, 9, 8)[0];
            assert_eq!(lab.run(WIRE, tiny).action, Action::Drop);
            assert_eq!(lab.drops(DropReason::Malformed), 1);
        });
    }
}

#[test]
fn fragments_without_a_first_one_pass() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            let [client, vip, backend] = family;
            serve(lab, family, PROTOCOL_UDP);
            let request = Segment::from_client(at(client), at(vip), 0).udp();
            let (whole, expected) = long(lab, request, client, backend);
            let frames = fragments(&whole, 5, 48);
            // Before it comes; of another packet; of another sender.
            expect_untouched(lab, &frames[1]);
            let first = &fragments(&expected, 5, 48)[0];
            expect_forwarded(lab, WIRE, &frames[0], first);
            expect_untouched(lab, &fragments(&whole, 6, 48)[1]);
            let stranger = Segment::from_client(at(vip), at(client), 0).udp();
            let (other, _) = long(lab, stranger, client, backend);
            expect_untouched(lab, &fragments(&other, 5, 48)[1]);
            // Of no service of ours, from the first on.
            let elsewhere = if family == FAMILIES[0] {
                "198.51.100.9:9"
            } else {
                "[fd97::9]:9"
            };
            let segment = Segment::from_client(at(client), at(elsewhere), 0).udp();
            let (other, _) = long(lab, segment, client, backend);
            for frame in fragments(&other, 5, 48) {
                expect_untouched(lab, &frame);
            }
            assert_eq!(lab.verdicts(VerdictCounter::Forwarded), 1);
            assert_eq!(lab.all_drops(), 0);
            // Cut off, it is nobody's.
            let cut = &frames[1][..frames[1].len() - 1];
            assert_eq!(lab.run(WIRE, cut).action, Action::Drop);
            assert_eq!(lab.drops(DropReason::Malformed), 1);
        });
    }
}
