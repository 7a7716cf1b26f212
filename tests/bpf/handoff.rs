// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Handed-off connections: two sequence spaces, two clocks, two window scales
//! in one flow, and what is let through while they are made one.

use std::net::SocketAddr;

use gateway_common::{
    checksum::{diff_address, diff16, fold},
    drop_reason::DropReason,
    flow::{
        DIR_TO_BACKEND, DIR_TO_CLIENT, FlowDirection, FlowKey, FlowRef, FlowSlot, KIND_HANDOFF,
        SEEN_TIMESTAMP, SLOT_ACTIVE, SLOT_CLOSING, SLOT_DEAD, SLOT_HOLD, SLOT_OBSERVE,
    },
    tcp_splice::{KEEP_SACK, KEEP_TIMESTAMPS},
    tcp_state::{
        FLAG_ACK, FLAG_FIN, FLAG_RST, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT, TCP_RESET,
    },
};

use crate::{
    lab::{Action, Lab, at_both_hooks},
    maps::{addr, key},
    packet::{
        ACK, BACKEND, BACKEND6, CLIENT, CLIENT6, FIN_ACK, RST, SYN, Segment, VIP, VIP6, at, hex,
    },
};

/// The agent's end of the connection to the backend.
const OURS: &str = "10.1.0.1:63000";
const OURS6: &str = "[fd01::1]:63000";

/// Where connections of cases stand in the table.
pub const SLOT: u32 = 5;

/// What is added to sequence numbers and to timestamps of each direction: numbers
/// of the segments below pass 2^32 by it, and do not.
pub const SEQ: [u32; 2] = [0xff00_0000, 0x1234_5678];
pub const TS: [u32; 2] = [0x8000_0001, 0xffff_0000];
const SHIFT: [i32; 2] = [3, -2];

/// One direction as the agent writes it.
pub fn direction(
    key: FlowKey,
    src: SocketAddr,
    dst: SocketAddr,
    window_shift: i32,
    keep: u32,
) -> FlowDirection {
    FlowDirection {
        new_src: addr(src),
        new_dst: addr(dst),
        new_src_port_be: src.port().to_be(),
        new_dst_port_be: dst.port().to_be(),
        tcp_flags_seen: 0,
        packets: 0,
        bytes: 0,
        last_seen_ns: 0,
        addresses_diff: fold(
            diff_address(&key.src, &addr(src)) + diff_address(&key.dst, &addr(dst)),
        ),
        ports_diff: fold(
            diff16(key.src_port_be, src.port().to_be())
                + diff16(key.dst_port_be, dst.port().to_be()),
        ),
        seq_end: 0,
        ack: 0,
        ts_seen: 0,
        ts_delta: 0,
        window_shift: window_shift as i16,
        keep: keep as u16,
        _pad: [0; 2],
    }
}

/// The ends of a connection.
#[derive(Clone, Copy)]
pub struct Ends {
    pub client: SocketAddr,
    pub vip: SocketAddr,
    pub ours: SocketAddr,
    pub backend: SocketAddr,
}

pub const V4: [&str; 4] = [CLIENT, VIP, OURS, BACKEND];
pub const V6: [&str; 4] = [CLIENT6, VIP6, OURS6, BACKEND6];

impl Ends {
    pub fn of([client, vip, ours, backend]: [&str; 4]) -> Self {
        Self {
            client: at(client),
            vip: at(vip),
            ours: at(ours),
            backend: at(backend),
        }
    }

    /// Puts a connection into the table, as the agent does.
    pub fn install(self, lab: &mut Lab, state: u32, keep: u32) {
        let keys = [key(self.client, self.vip), key(self.backend, self.ours)];
        for (direction, key) in (0..).zip(&keys) {
            lab.set_flow(
                key,
                FlowRef {
                    slot: SLOT,
                    generation: 9,
                    direction,
                },
            );
        }
        let mut towards = [
            direction(keys[0], self.ours, self.backend, SHIFT[0], keep),
            direction(keys[1], self.vip, self.client, SHIFT[1], keep),
        ];
        for (direction, delta) in towards.iter_mut().zip(TS) {
            direction.ts_delta = delta;
        }
        if state == SLOT_ACTIVE {
            // There are no handed-off connections of which none was noted down.
            for direction in &mut towards {
                direction.tcp_flags_seen = FLAG_ACK;
            }
        }
        lab.set_slot(
            SLOT,
            FlowSlot {
                state,
                generation: 9,
                kind: KIND_HANDOFF,
                tcp_state: TCP_ESTABLISHED,
                service_id: 0,
                backend_id: 0,
                config_generation: 0,
                established_timeout_s: 0,
                created_ns: 0,
                source_place: 0,
                half_open: 0,
                seq_delta: SEQ,
                hold_until_ns: 0,
                dir: towards,
            },
        );
    }

    /// A segment of the client, without options or payload.
    pub fn up(self, flags: u32) -> Segment {
        Segment::from_client(self.client, self.vip, flags)
    }

    /// One of the backend.
    pub fn down(self, flags: u32) -> Segment {
        Segment::from_backend(self.backend, self.ours, flags)
    }
}

/// A timestamp option.
pub fn timestamps(value: u32, echo: u32) -> Vec<u8> {
    let mut option = vec![8, 10];
    option.extend(value.to_be_bytes());
    option.extend(echo.to_be_bytes());
    option
}

fn sack(edges: &[u32]) -> Vec<u8> {
    let mut option = vec![5, 2 + 4 * edges.len() as u8];
    option.extend(edges.iter().flat_map(|edge| edge.to_be_bytes()));
    option
}

/// Sends `segment` and expects it out translated, its options as given.
#[track_caller]
pub fn expect_translated(lab: &mut Lab, ends: Ends, segment: &Segment, options: &[Vec<u8>]) {
    let own = usize::from(segment.src == ends.backend);
    let window = if own == 0 {
        u32::from(segment.window) << 3
    } else {
        u32::from(segment.window) >> 2
    };
    let translated = Segment {
        seq: segment.seq.wrapping_add(SEQ[own]),
        ack: segment.ack.wrapping_sub(SEQ[own ^ 1]),
        window: window.min(0xffff) as u16,
        tcp_options: options.concat(),
        ..segment.clone()
    };
    let (src, dst) = if own == 0 {
        (ends.ours, ends.backend)
    } else {
        (ends.vip, ends.client)
    };
    let outcome = lab.send(segment);
    assert_eq!(outcome.action, Action::Redirect, "{segment:?}");
    assert_eq!(
        hex(&outcome.frame),
        hex(&translated.forwarded(lab.hook, src, dst)),
        "{segment:?}"
    );
}

/// Options that nearly all connections agree upon.
pub const BOTH: u32 = KEEP_TIMESTAMPS | KEEP_SACK;

#[test]
fn numbers_of_one_connection_become_those_of_the_other() {
    at_both_hooks(|lab| {
        for ends in [Ends::of(V4), Ends::of(V6)] {
            ends.install(lab, SLOT_ACTIVE, BOTH);
            for segment in [ends.up(ACK), ends.down(ACK)] {
                expect_translated(lab, ends, &segment, &[]);
                for (seq, ack, window) in [
                    (0, 0, 0),
                    (u32::MAX, u32::MAX, 0xffff),
                    (0x00ff_ffff, 0x1234_5678, 1),
                    (0x0100_0000, 0x1234_5677, 0x1fff),
                    (0xff00_0000, 0xff00_0001, 0x2000),
                ] {
                    let segment = Segment {
                        seq,
                        ack,
                        window,
                        ..segment.clone()
                    };
                    expect_translated(lab, ends, &segment, &[]);
                }
            }
        }
    });
}

#[test]
fn options_are_translated_wherever_they_stand() {
    at_both_hooks(|lab| {
        for ends in [Ends::of(V4), Ends::of(V6)] {
            ends.install(lab, SLOT_ACTIVE, BOTH);
            for (own, segment) in [ends.up(ACK), ends.down(ACK)].into_iter().enumerate() {
                let (value, echo) = (0x7fff_ffff_u32, 0xffff_fffe_u32);
                let edges = [0x1234_0000, 0x1234_5678, u32::MAX, 1];
                let new_ts =
                    timestamps(value.wrapping_add(TS[own]), echo.wrapping_sub(TS[own ^ 1]));
                let new_edges = edges.map(|edge: u32| edge.wrapping_sub(SEQ[own ^ 1]));
                let (ts, sacks) = (timestamps(value, echo), sack(&edges));
                let new_sacks = sack(&new_edges);
                let nop = |n: usize| vec![1; n];
                let cases: [[&[Vec<u8>]; 2]; 9] = [
                    [&[nop(2), ts.clone()], &[nop(2), new_ts.clone()]],
                    [
                        &[nop(2), ts.clone(), nop(2), sacks.clone()],
                        &[nop(2), new_ts.clone(), nop(2), new_sacks.clone()],
                    ],
                    [
                        &[sacks.clone(), ts.clone()],
                        &[new_sacks.clone(), new_ts.clone()],
                    ],
                    // At odd positions.
                    [
                        &[nop(1), ts.clone(), nop(1)],
                        &[nop(1), new_ts.clone(), nop(1)],
                    ],
                    [
                        &[nop(3), sacks.clone(), nop(1), ts.clone()],
                        &[nop(3), new_sacks.clone(), nop(1), new_ts.clone()],
                    ],
                    // Behind the end of the list nobody reads.
                    [
                        &[nop(1), vec![0], ts.clone()],
                        &[nop(1), vec![0], ts.clone()],
                    ],
                    // What was not agreed upon is overwritten.
                    [
                        &[vec![30, 4, 1, 2], nop(2), ts.clone()],
                        &[nop(4), nop(2), new_ts.clone()],
                    ],
                    [
                        &[vec![254, 3, 9], ts.clone(), nop(3)],
                        &[nop(3), new_ts, nop(3)],
                    ],
                    // A list that cannot be read ends there.
                    [&[vec![8, 1], ts, vec![5, 41, 3, 0]], &[nop(16)]],
                ];
                for [before, after] in cases {
                    let segment = Segment {
                        tcp_options: before.concat(),
                        ..segment.clone()
                    };
                    expect_translated(lab, ends, &segment, after);
                }
                // Forty bytes of the shortest option.
                let segment = Segment {
                    tcp_options: nop(40),
                    ..segment
                };
                expect_translated(lab, ends, &segment, &[nop(40)]);
            }
        }
    });
}

#[test]
fn options_that_were_not_agreed_upon_are_overwritten() {
    at_both_hooks(|lab| {
        let ends = Ends::of(V4);
        ends.install(lab, SLOT_ACTIVE, 0);
        let segment = Segment {
            tcp_options: [timestamps(1, 2), sack(&[3, 4]), vec![1, 1]].concat(),
            ..ends.up(ACK)
        };
        // The header is filled up with two ends of the list.
        expect_translated(lab, ends, &segment, &[vec![1; 22]]);
    });
}

#[test]
fn headers_of_any_length_are_translated() {
    at_both_hooks(|lab| {
        let ends = Ends::of(V4);
        ends.install(lab, SLOT_ACTIVE, BOTH);
        let segment = Segment {
            ip_options: vec![1; 40],
            tcp_options: [vec![1, 1], timestamps(1, TS[1])].concat(),
            ..ends.up(ACK)
        };
        let after = [vec![1, 1], timestamps(1 + TS[0], 0)];
        expect_translated(lab, ends, &segment, &after);
        let ends = Ends::of(V6);
        ends.install(lab, SLOT_ACTIVE, BOTH);
        let segment = Segment {
            extensions: vec![(60, vec![0; 8])],
            tcp_options: [vec![1, 1], timestamps(1, TS[1])].concat(),
            ..ends.up(ACK)
        };
        expect_translated(lab, ends, &segment, &after);
    });
}

#[test]
fn what_goes_to_the_sockets_is_noted_down() {
    at_both_hooks(|lab| {
        for ends in [Ends::of(V4), Ends::of(V6)] {
            ends.install(lab, SLOT_OBSERVE, BOTH);
            let segment = Segment {
                seq: 0xffff_fff8,
                ack: 77,
                tcp_options: [vec![1, 1], timestamps(42, 43)].concat(),
                ..ends.up(ACK)
            };
            lab.expect_untouched(&segment);
            let noted = lab.slot(SLOT).dir[DIR_TO_BACKEND as usize];
            // Nine bytes of payload, past 2^32.
            assert_eq!((noted.seq_end, noted.ack), (1, 77));
            assert_eq!((noted.ts_seen, noted.packets), (42, 0));
            assert_eq!(noted.tcp_flags_seen, FLAG_ACK | SEEN_TIMESTAMP);
            // One that is sent again takes nothing back; one without a
            // timestamp has none.
            lab.expect_untouched(&Segment {
                seq: 0xffff_ff00,
                ack: 78,
                ..ends.up(ACK)
            });
            let noted = lab.slot(SLOT).dir[DIR_TO_BACKEND as usize];
            assert_eq!((noted.seq_end, noted.ack, noted.ts_seen), (1, 78, 42));
            // A FIN counts as a byte.
            lab.expect_untouched(&Segment {
                seq: 1,
                payload: Vec::new(),
                ..ends.up(FIN_ACK)
            });
            let noted = lab.slot(SLOT).dir[DIR_TO_BACKEND as usize];
            assert_eq!(noted.seq_end, 2);
            assert_eq!(noted.tcp_flags_seen, FLAG_ACK | FLAG_FIN | SEEN_TIMESTAMP);
            // The other direction has seen nothing of all this.
            let other = lab.slot(SLOT).dir[DIR_TO_CLIENT as usize];
            assert_eq!((other.seq_end, other.tcp_flags_seen), (0, 0));
            let first = Segment {
                tcp_options: [sack(&[1, 2]), timestamps(7, 8)].concat(),
                ..ends.down(ACK)
            };
            lab.expect_untouched(&first);
            let other = lab.slot(SLOT).dir[DIR_TO_CLIENT as usize];
            assert_eq!(other.seq_end, first.seq + 10);
            // Its timestamp is not where nearly every segment has it.
            assert_eq!((other.ts_seen, other.tcp_flags_seen), (0, FLAG_ACK));
            assert_eq!(lab.slot(SLOT).state, SLOT_OBSERVE);
        }
        assert_eq!(lab.all_drops(), 0);
    });
}

#[test]
fn a_hold_drops_until_its_time_is_over() {
    at_both_hooks(|lab| {
        let ends = Ends::of(V4);
        ends.install(lab, SLOT_HOLD, BOTH);
        let mut slot = lab.slot(SLOT);
        slot.hold_until_ns = u64::MAX;
        lab.set_slot(SLOT, slot);
        lab.expect_dropped(&ends.up(ACK));
        lab.expect_dropped(&ends.down(FIN_ACK));
        assert_eq!(lab.drops(DropReason::HandoffHold), 2);
        assert_eq!(lab.slot(SLOT).state, SLOT_HOLD);
        assert_eq!(lab.slot(SLOT).dir[0].seq_end, 0);
        // Its agent is gone, or busy elsewhere.
        slot.hold_until_ns = 1;
        lab.set_slot(SLOT, slot);
        assert_eq!(lab.parked(), 0);
        let segment = ends.up(ACK);
        lab.expect_untouched(&segment);
        assert_eq!(lab.parked(), 1);
        let after = lab.slot(SLOT);
        assert_eq!(after.state, SLOT_OBSERVE);
        assert_eq!(after.dir[0].seq_end, segment.seq + 9);
        assert_eq!(lab.all_drops(), 2);
    });
}

#[test]
fn a_dead_one_leaves_everything_to_the_stack() {
    at_both_hooks(|lab| {
        let ends = Ends::of(V4);
        ends.install(lab, SLOT_DEAD, BOTH);
        lab.expect_untouched(&ends.up(ACK));
        lab.expect_untouched(&ends.down(ACK));
    });
}

#[test]
fn an_end_is_followed_across_the_two_number_spaces() {
    at_both_hooks(|lab| {
        let ends = Ends::of(V4);
        ends.install(lab, SLOT_ACTIVE, BOTH);
        expect_translated(lab, ends, &ends.up(FIN_ACK), &[]);
        assert_eq!(lab.slot(SLOT).tcp_state, TCP_FIN_WAIT);
        expect_translated(lab, ends, &ends.down(ACK), &[]);
        expect_translated(lab, ends, &ends.down(FIN_ACK), &[]);
        assert_eq!(lab.slot(SLOT).tcp_state, TCP_CLOSING);
        assert_eq!(lab.slot(SLOT).state, SLOT_CLOSING);
        expect_translated(lab, ends, &ends.up(ACK), &[]);
        // The next connection with this port is for the agent's sockets.
        lab.expect_untouched(&ends.up(SYN));
        assert_eq!(lab.slot(SLOT).state, SLOT_DEAD);
    });
}

#[test]
fn a_reset_ends_a_hold_because_nobody_sends_it_again() {
    at_both_hooks(|lab| {
        let ends = Ends::of(V4);
        ends.install(lab, SLOT_HOLD, BOTH);
        let mut slot = lab.slot(SLOT);
        slot.hold_until_ns = u64::MAX;
        lab.set_slot(SLOT, slot);
        lab.expect_untouched(&ends.down(RST));
        let after = lab.slot(SLOT);
        assert_eq!(after.state, SLOT_OBSERVE);
        assert_ne!(after.dir[1].tcp_flags_seen & FLAG_RST, 0);
        assert_eq!(lab.all_drops(), 0);
    });
}

#[test]
fn a_reset_is_believed_by_the_number_its_receiver_expects() {
    at_both_hooks(|lab| {
        let ends = Ends::of(V4);
        for own in [0, 1] {
            ends.install(lab, SLOT_ACTIVE, BOTH);
            let (segment, answer) = if own == 0 {
                (ends.up(RST), ends.down(ACK))
            } else {
                (ends.down(RST), ends.up(ACK))
            };
            expect_translated(lab, ends, &answer, &[]);
            let taken = answer.ack.wrapping_sub(SEQ[own]);
            for seq in [answer.ack, taken.wrapping_add(1)] {
                let segment = Segment {
                    seq,
                    ..segment.clone()
                };
                expect_translated(lab, ends, &segment, &[]);
                assert_eq!(lab.slot(SLOT).state, SLOT_ACTIVE, "{seq:x}");
            }
            let segment = Segment {
                seq: taken,
                ..segment
            };
            expect_translated(lab, ends, &segment, &[]);
            assert_eq!(lab.slot(SLOT).tcp_state, TCP_RESET);
            assert_eq!(lab.slot(SLOT).state, SLOT_CLOSING);
        }
    });
}
