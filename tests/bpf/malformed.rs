// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Headers that lie: never a wrong rewrite.

use etherparse::{SlicedPacket, TransportSlice};
use gateway_common::drop_reason::DropReason;

use crate::{
    lab::{Action, Hook, Lab, Outcome, WIRE, at_both_hooks},
    packet::{ACK, BACKEND, CLIENT, SYN, Segment, VIP, at, hex, one_backend},
};

fn one_flow(lab: &mut Lab) {
    let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
    one_backend(lab);
    lab.expect_forwarded(&Segment::from_client(client, vip, SYN), client, backend);
}

#[test]
fn truncated_at_every_length() {
    at_both_hooks(|lab| {
        one_flow(lab);
        for ip_options in [vec![], vec![1; 8]] {
            for (dst, flags) in [(VIP, ACK), (VIP, SYN), ("198.51.100.9:5", SYN)] {
                let whole = Segment {
                    ip_options: ip_options.clone(),
                    tcp_options: vec![1; 12],
                    ..Segment::from_client(at(CLIENT), at(dst), flags)
                }
                .frame();
                let l4 = 34 + ip_options.len();
                for len in shortest(lab)..whole.len() {
                    let outcome = lab.run(WIRE, &whole[..len]);
                    // With the ports in sight it is known to be ours.
                    let expected = if dst == VIP && len >= l4 + 4 {
                        Action::Drop
                    } else {
                        Action::Pass
                    };
                    assert_eq!(outcome.action, expected, "{dst} cut to {len}");
                    if expected == Action::Pass {
                        assert_eq!(hex(&outcome.frame), hex(&whole[..len]));
                    }
                }
            }
        }
        assert_eq!(lab.drops(DropReason::Malformed), lab.all_drops());
        assert_eq!(lab.flow_keys(), 2);
    });
}

#[test]
fn lengths_that_contradict_each_other() {
    at_both_hooks(|lab| {
        one_flow(lab);
        let mine = Segment::from_client(at(CLIENT), at(VIP), ACK).frame();
        let other = Segment::from_client(at(CLIENT), at("198.51.100.9:5"), ACK).frame();
        type Edit = fn(&mut [u8]);
        let edits: [(&str, Edit, bool); 9] = [
            ("version 6", |f| f[14] = 0x65, false),
            ("header of 16 bytes", |f| f[14] = 0x44, false),
            ("header of 0 bytes", |f| f[14] = 0x40, false),
            ("total length over the frame", |f| f[17] += 1, true),
            ("total length 0", |f| f[16..18].fill(0), true),
            ("total length without TCP", |f| f[17] = 20, true),
            ("total length within TCP", |f| f[17] = 39, true),
            ("data offset of 16 bytes", |f| f[46] = 0x40, true),
            ("data offset over the packet", |f| f[46] = 0xf0, true),
        ];
        for (name, edit, ours) in edits {
            let before = lab.drops(DropReason::Malformed);
            for (frame, forwarded) in [(&mine, true), (&other, false)] {
                let mut frame = frame.clone();
                edit(&mut frame);
                let outcome = lab.run(WIRE, &frame);
                if ours && forwarded {
                    assert_eq!(outcome.action, Action::Drop, "{name}");
                } else {
                    assert_eq!(outcome.action, Action::Pass, "{name}");
                    assert_eq!(hex(&outcome.frame), hex(&frame), "{name}");
                }
            }
            assert_eq!(
                lab.drops(DropReason::Malformed) - before,
                u64::from(ours),
                "{name}"
            );
        }
    });
}

#[test]
fn padding_behind_the_packet_stays() {
    at_both_hooks(|lab| {
        one_flow(lab);
        let segment = Segment {
            payload: Vec::new(),
            ..Segment::from_client(at(CLIENT), at(VIP), ACK)
        };
        let mut frame = segment.frame();
        let mut expected = segment.forwarded(lab.hook, at(CLIENT), at(BACKEND));
        frame.extend([0xaa; 6]);
        expected.extend([0xaa; 6]);
        let outcome = lab.run(WIRE, &frame);
        assert_eq!(outcome.action, Action::Redirect);
        assert_eq!(hex(&outcome.frame), hex(&expected));
        assert_eq!(lab.slot(0).dir[0].bytes, 80);
    });
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    at_both_hooks(|lab| {
        one_flow(lab);
        for offset in [24, 50] {
            let segment = Segment::from_client(at(CLIENT), at(VIP), ACK);
            let mut frame = segment.frame();
            frame[offset] ^= 0x10;
            let outcome = lab.run(WIRE, &frame);
            assert_eq!(outcome.action, Action::Redirect);
            assert!(!checksums_are_right(&outcome.frame));
        }
    });
}

/// Bytes of headers changed at random: what comes out is untouched, counted as
/// dropped, or translated with checksums as right as they came.
#[test]
fn mutated_headers_never_come_out_wrong() {
    at_both_hooks(|lab| {
        one_flow(lab);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for round in 0..20_000 {
            let flags = if round % 7 == 0 { SYN } else { ACK };
            let mut frame = Segment {
                ip_options: vec![1; 4 * (random.below(3))],
                tcp_options: vec![1; 4 * (random.below(4))],
                ..Segment::from_client(at(CLIENT), at(VIP), flags)
            }
            .frame();
            for _ in 0..1 + random.below(3) {
                // All but the MAC addresses, mostly headers.
                let offset = 12 + random.below(48);
                if offset < frame.len() {
                    frame[offset] = random.next() as u8;
                }
            }
            if random.below(4) == 0 {
                let shortest = shortest(lab);
                frame.truncate(shortest + random.below(frame.len() - shortest));
            }
            let right_before = checksums_are_right(&frame);
            let drops = lab.all_drops();
            let Outcome { action, frame: out } = lab.run(WIRE, &frame);
            match action {
                Action::Pass => assert_eq!(hex(&out), hex(&frame)),
                Action::Drop => assert_eq!(lab.all_drops(), drops + 1),
                Action::Redirect | Action::Back => {
                    assert_eq!(checksums_are_right(&out), right_before, "{:?}", hex(&frame));
                    assert_eq!(out[30..34], [10, 1, 0, 11]);
                    assert_eq!(out.len(), frame.len());
                }
            }
        }
    });
}

/// The shortest IPv4 frame that a run takes: at tc the kernel wants the header.
fn shortest(lab: &Lab) -> usize {
    match lab.hook {
        Hook::Tc => 34,
        Hook::Xdp => 15,
    }
}

/// Computes both checksums from scratch.
fn checksums_are_right(frame: &[u8]) -> bool {
    let Ok(sliced) = SlicedPacket::from_ethernet(frame) else {
        return false;
    };
    let Some(ip) = sliced.net.as_ref().and_then(|net| net.ipv4_ref()) else {
        return false;
    };
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
        return false;
    };
    let header = ip.header();
    header.header_checksum() == header.to_header().calc_header_checksum()
        && tcp.checksum()
            == tcp
                .calc_checksum_ipv4(header.source(), header.destination())
                .unwrap()
}

/// Marsaglia's xorshift64: the same rounds on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }
}
