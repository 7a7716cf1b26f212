// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What random packets have found of handed-off connections: each fault of the
//! programs as a case of its own.

use gateway_common::{
    drop_reason::DropReason,
    flow::{SLOT_ACTIVE, SLOT_CLOSING, SLOT_DEAD, SLOT_OBSERVE},
};

use crate::{
    handoff::{BOTH, Ends, SEQ, SLOT, TS, V4, V6, expect_translated, timestamps},
    icmp::Error,
    lab::{Action, PODS, WIRE, at_both_hooks},
    packet::{ACK, SYN, Segment, hex},
};

/// Behind more than 73 bytes of extension headers they were looked for elsewhere
/// in the packet.
#[test]
fn options_are_translated_behind_long_extension_headers() {
    at_both_hooks(|lab| {
        let ends = Ends::of(V6);
        ends.install(lab, SLOT_ACTIVE, BOTH);
        for len in [64, 72, 80, 128, 200, 232] {
            // One option of padding fills the header.
            let mut header = vec![0, (len / 8 - 1) as u8, 1, (len - 4) as u8];
            header.resize(len, 0);
            let segment = Segment {
                extensions: vec![(60, header)],
                // Not where nearly every segment has them.
                tcp_options: [timestamps(1, TS[1]), vec![1, 1]].concat(),
                ..ends.up(ACK)
            };
            let after = [timestamps(1 + TS[0], 0), vec![1, 1]];
            expect_translated(lab, ends, &segment, &after);
        }
    });
}

/// It ended the closing connection on its ports, though no socket ever saw it.
#[test]
fn a_syn_that_is_dropped_ends_no_closing_connection() {
    at_both_hooks(|lab| {
        for ends in [Ends::of(V4), Ends::of(V6)] {
            ends.install(lab, SLOT_CLOSING, BOTH);
            let syn = ends.up(SYN);
            lab.expect_dropped(&Segment {
                ttl: 1,
                ..syn.clone()
            });
            let mut cut = syn.frame();
            cut.pop();
            assert_eq!(lab.run(WIRE, &cut).action, Action::Drop);
            assert_eq!(lab.slot(SLOT).state, SLOT_CLOSING);
            lab.expect_untouched(&syn);
            assert_eq!(lab.slot(SLOT).state, SLOT_DEAD);
        }
        assert_eq!(lab.drops(DropReason::TtlExceeded), 2);
        assert_eq!(lab.drops(DropReason::Malformed), 2);
    });
}

/// Padding behind the error was taken for the number, and the checksum for one
/// that covers it.
#[test]
fn an_error_that_quotes_no_sequence_number_is_dropped() {
    at_both_hooks(|lab| {
        for ends in [Ends::of(V4), Ends::of(V6)] {
            ends.install(lab, SLOT_ACTIVE, BOTH);
            let sent = Segment {
                src: ends.ours,
                dst: ends.backend,
                ..ends.up(ACK)
            };
            let header = if ends.ours.is_ipv6() { 40 } else { 20 };
            let error = |quoted: usize| {
                let (from, to) = (ends.backend.ip(), ends.ours.ip());
                Error::too_big(from, to, &sent.frame(), header + quoted)
            };
            for quoted in 4..8 {
                let mut frame = error(quoted).received(PODS);
                frame.resize(frame.len() + 8, 0);
                assert_eq!(lab.run(PODS, &frame).action, Action::Drop, "{quoted}");
            }
            let outcome = lab.run(PODS, &error(8).received(PODS));
            assert_eq!(outcome.action, Action::Redirect);
            let was = Segment {
                seq: sent.seq.wrapping_sub(SEQ[0]),
                ..ends.up(ACK)
            };
            let own = &outcome.frame[outcome.frame.len() - 8..];
            assert_eq!(hex(own), hex(&was.frame()[14 + header..][..8]));
        }
        assert_eq!(lab.drops(DropReason::Malformed), 8);
    });
}

/// What no socket takes was noted down as what had been let through.
#[test]
fn a_malformed_segment_is_not_noted_down() {
    at_both_hooks(|lab| {
        for ends in [Ends::of(V4), Ends::of(V6)] {
            ends.install(lab, SLOT_OBSERVE, BOTH);
            let segment = ends.up(ACK);
            // A header longer than all of it, and one shorter than any.
            let offset = segment.frame().len() - segment.payload.len() - 20 + 12;
            for words in [15, 4] {
                let mut frame = segment.frame();
                frame[offset] = words << 4;
                lab.run(WIRE, &frame);
                let noted = lab.slot(SLOT).dir[0];
                assert_eq!((noted.seq_end, noted.tcp_flags_seen), (0, 0), "{words}");
            }
            lab.expect_untouched(&ends.up(ACK));
            assert_ne!(lab.slot(SLOT).dir[0].seq_end, 0);
        }
    });
}
