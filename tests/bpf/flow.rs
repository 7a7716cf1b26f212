// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The flow table: states, reuse, exhaustion, stale references.

use gateway_common::{
    drop_reason::DropReason,
    flow::{FlowRef, SLOT_ACTIVE, SLOT_CLOSING, SLOT_DEAD, SLOT_FREE},
    tcp_state::{
        TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT, TCP_RESET, TCP_RESET_UNCONFIRMED,
        TCP_SYN_RECEIVED, TCP_SYN_SENT,
    },
};

use crate::{
    drops,
    lab::{Lab, PODS, WIRE, at_both_hooks},
    maps::key,
    packet::{
        ACK, BACKEND, CLIENT, FAMILIES, FIN_ACK, RST, SYN, SYN_ACK, Segment, VIP, at, one_backend,
    },
};

/// With these flags [`step`] sends a RST whose number the receiver expects:
/// the one it acknowledged last, as all segments here do.
const TAKEN: u32 = RST | 1 << 31;
/// The answer to a SYN that nobody listens for.
const REFUSED: u32 = RST | ACK;

/// Runs one segment of the only flow, from the client or the backend.
fn step(lab: &mut Lab, from_client: bool, flags: u32) {
    let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
    let (mut segment, src, dst) = if from_client {
        let segment = Segment::from_client(client, vip, flags & 0xff);
        (segment, client, backend)
    } else {
        let segment = Segment::from_backend(backend, client, flags & 0xff);
        (segment, vip, client)
    };
    if flags == TAKEN {
        segment.seq = segment.ack;
    } else if flags == REFUSED {
        segment.ack = segment.seq + 1;
        segment.seq = 0;
    }
    lab.expect_forwarded(&segment, src, dst);
}

#[test]
fn states_follow_the_connection() {
    const CLIENT_SENDS: bool = true;
    const BACKEND_SENDS: bool = false;
    let handshake = [
        (CLIENT_SENDS, SYN, TCP_SYN_SENT, SLOT_ACTIVE),
        (CLIENT_SENDS, SYN, TCP_SYN_SENT, SLOT_ACTIVE),
        (BACKEND_SENDS, SYN_ACK, TCP_SYN_RECEIVED, SLOT_ACTIVE),
        (CLIENT_SENDS, ACK, TCP_ESTABLISHED, SLOT_ACTIVE),
        (BACKEND_SENDS, ACK, TCP_ESTABLISHED, SLOT_ACTIVE),
    ];
    let endings: [&[_]; 7] = [
        &[
            (CLIENT_SENDS, FIN_ACK, TCP_FIN_WAIT, SLOT_ACTIVE),
            (BACKEND_SENDS, ACK, TCP_FIN_WAIT, SLOT_ACTIVE),
            (BACKEND_SENDS, FIN_ACK, TCP_CLOSING, SLOT_CLOSING),
            (CLIENT_SENDS, ACK, TCP_CLOSING, SLOT_CLOSING),
        ],
        &[
            (BACKEND_SENDS, FIN_ACK, TCP_FIN_WAIT, SLOT_ACTIVE),
            (BACKEND_SENDS, FIN_ACK, TCP_FIN_WAIT, SLOT_ACTIVE),
            (CLIENT_SENDS, FIN_ACK, TCP_CLOSING, SLOT_CLOSING),
            (BACKEND_SENDS, ACK, TCP_CLOSING, SLOT_CLOSING),
        ],
        &[(CLIENT_SENDS, TAKEN, TCP_RESET, SLOT_CLOSING)],
        &[
            (BACKEND_SENDS, TAKEN, TCP_RESET, SLOT_CLOSING),
            // A late FIN does not raise a reset flow again.
            (CLIENT_SENDS, FIN_ACK, TCP_RESET, SLOT_CLOSING),
        ],
        &[
            (CLIENT_SENDS, FIN_ACK, TCP_FIN_WAIT, SLOT_ACTIVE),
            (BACKEND_SENDS, TAKEN, TCP_RESET, SLOT_CLOSING),
        ],
        // Anybody can send this one: the connection shows whether it lives on.
        &[
            (BACKEND_SENDS, RST, TCP_RESET_UNCONFIRMED, SLOT_ACTIVE),
            (CLIENT_SENDS, SYN, TCP_RESET_UNCONFIRMED, SLOT_ACTIVE),
            (CLIENT_SENDS, ACK, TCP_ESTABLISHED, SLOT_ACTIVE),
            (CLIENT_SENDS, RST, TCP_RESET_UNCONFIRMED, SLOT_ACTIVE),
            (BACKEND_SENDS, ACK, TCP_ESTABLISHED, SLOT_ACTIVE),
            (CLIENT_SENDS, TAKEN, TCP_RESET, SLOT_CLOSING),
        ],
        &[
            (CLIENT_SENDS, FIN_ACK, TCP_FIN_WAIT, SLOT_ACTIVE),
            (CLIENT_SENDS, RST, TCP_RESET_UNCONFIRMED, SLOT_ACTIVE),
            (BACKEND_SENDS, ACK, TCP_FIN_WAIT, SLOT_ACTIVE),
            (BACKEND_SENDS, FIN_ACK, TCP_CLOSING, SLOT_CLOSING),
        ],
    ];
    at_both_hooks(|lab| {
        for (slot, ending) in endings.iter().enumerate() {
            if slot == 0 {
                one_backend(lab);
            }
            // Each round reuses the client's port, which the round before ended.
            for &(from_client, flags, tcp_state, state) in handshake.iter().chain(*ending) {
                step(lab, from_client, flags);
                let seen = lab.slot(slot as u32);
                assert_eq!(
                    (seen.tcp_state, seen.state),
                    (tcp_state, state),
                    "{ending:?}"
                );
            }
        }
    });
}

/// What the agent needs to speak in a connection's name.
#[test]
fn each_direction_remembers_where_its_sender_stands() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            let [client, vip, backend] = family.map(at);
            lab.free_slots(0..4);
            lab.dnat_backend(1, backend);
            lab.service(vip, &[1]);
            let mut send = |from_client: bool, flags, seq: u32, ack, payload: &[u8]| {
                let segment = if from_client {
                    Segment::from_client(client, vip, flags)
                } else {
                    Segment::from_backend(backend, client, flags)
                };
                let segment = Segment {
                    seq,
                    ack,
                    payload: payload.to_vec(),
                    tcp_options: vec![1; 12],
                    ..segment
                };
                let (src, dst) = if from_client {
                    (client, backend)
                } else {
                    (vip, client)
                };
                lab.expect_forwarded(&segment, src, dst);
                lab.slot(0).dir.map(|dir| (dir.seq_end, dir.ack))
            };
            let last = u32::MAX;
            assert_eq!(send(true, SYN, last - 1, 0, b""), [(last, 0), (0, 0)]);
            assert_eq!(send(false, SYN_ACK, 70, last, b""), [(last, 0), (71, last)]);
            assert_eq!(send(true, ACK, last, 71, b"hello"), [(4, 71), (71, last)]);
            assert_eq!(send(false, ACK, 71, 4, b"ho"), [(4, 71), (73, 4)]);
            // A SYN that does not belong to it acknowledges nothing.
            assert_eq!(send(true, SYN, 1_000, 9, b""), [(1_001, 71), (73, 4)]);
            assert_eq!(send(true, ACK, 4, 73, b""), [(4, 73), (73, 4)]);
            // Resets of others are not believed.
            assert_eq!(send(true, RST, 9, 9, b""), [(4, 73), (73, 4)]);
            assert_eq!(send(false, RST, 74, 9, b""), [(4, 73), (73, 4)]);
            assert_eq!(send(false, FIN_ACK, 73, 4, b"!"), [(4, 73), (75, 4)]);
        });
    }
}

#[test]
fn a_syn_on_an_ended_flow_starts_a_new_one() {
    at_both_hooks(|lab| {
        one_backend(lab);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        step(lab, true, SYN);
        // Not with a number that anybody can send, not from the other side, and
        // not with an ACK.
        step(lab, false, RST);
        step(lab, true, RST);
        assert_eq!(lab.slot(0).tcp_state, TCP_SYN_SENT);
        step(lab, false, REFUSED);
        step(lab, false, SYN);
        step(lab, true, SYN_ACK);
        assert_eq!(lab.slot(0).state, SLOT_CLOSING);
        step(lab, true, SYN);
        assert_eq!(lab.slot(0).state, SLOT_DEAD);
        assert_eq!(lab.slot(1).state, SLOT_ACTIVE);
        assert_eq!(lab.slot(1).tcp_state, TCP_SYN_SENT);
        // Both keys belong to the new flow, whose packets count there.
        assert_eq!(lab.flow(&key(client, vip)).unwrap().slot, 1);
        assert_eq!(lab.flow(&key(backend, client)).unwrap().slot, 1);
        step(lab, false, SYN_ACK);
        assert_eq!(lab.slot(1).tcp_state, TCP_SYN_RECEIVED);
        assert_eq!(lab.flow_keys(), 2);
        assert_eq!(lab.service_stats().flows, 2);
    });
}

#[test]
fn a_syn_on_a_live_flow_keeps_it() {
    at_both_hooks(|lab| {
        one_backend(lab);
        for (from_client, flags) in [(true, SYN), (false, SYN_ACK), (true, ACK), (true, SYN)] {
            step(lab, from_client, flags);
        }
        assert_eq!(lab.slot(0).tcp_state, TCP_ESTABLISHED);
        assert_eq!(lab.service_stats().flows, 1);
    });
}

#[test]
fn a_flow_keeps_its_backend_when_the_ring_changes() {
    at_both_hooks(|lab| {
        one_backend(lab);
        let vip = at(VIP);
        let second = at("10.1.0.12:11883");
        step(lab, true, SYN);
        lab.dnat_backend(2, second);
        lab.service(vip, &[2]);
        step(lab, false, SYN_ACK);
        step(lab, true, ACK);
        let other = at("192.0.2.2:40001");
        lab.expect_forwarded(&Segment::from_client(other, vip, SYN), other, second);
        // Even when its service is gone: only a new flow asks for it.
        lab.service_with(vip, &[], |_| {});
        step(lab, true, ACK);
    });
}

#[test]
fn no_backend_is_a_counted_refusal() {
    at_both_hooks(|lab| {
        one_backend(lab);
        drops::watch(lab, WIRE);
        drops::watch(lab, PODS);
        let syn = Segment::from_client(at(CLIENT), at(VIP), SYN);
        lab.service(at(VIP), &[]);
        lab.expect_dropped(&syn);
        lab.service(at(VIP), &[0]);
        lab.expect_dropped(&syn);
        assert_eq!(lab.drops(DropReason::NoBackend), 2);
        // By the interface they came in by, if it was added.
        assert_eq!(drops::at(lab, WIRE, DropReason::NoBackend), Some(2));
        assert_eq!(drops::at(lab, PODS, DropReason::NoBackend), Some(0));
        assert_eq!(drops::at(lab, WIRE, DropReason::Malformed), Some(0));
        assert_eq!(drops::at(lab, "lo", DropReason::NoBackend), None);
        // A backend that the agent found no way to.
        lab.service(at(VIP), &[40]);
        lab.expect_dropped(&syn);
        assert_eq!(lab.drops(DropReason::NoRoute), 1);
        // Ids and rings outside their arrays.
        lab.service(at(VIP), &[4_000_000]);
        lab.expect_dropped(&syn);
        lab.service_with(at(VIP), &[1], |service| service.ring_chunk = u32::MAX);
        lab.expect_dropped(&syn);
        assert_eq!(lab.drops(DropReason::BadMapEntry), 2);
        assert_eq!(lab.service_stats().refused, 5);
        assert_eq!(lab.flow_keys(), 0);
    });
}

#[test]
fn a_full_table_refuses_and_harms_no_flow() {
    at_both_hooks(|lab| {
        lab.free_slots([5]);
        lab.dnat_backend(1, at(BACKEND));
        lab.service(at(VIP), &[1]);
        step(lab, true, SYN);
        let other = Segment::from_client(at("192.0.2.2:40001"), at(VIP), SYN);
        lab.expect_dropped(&other);
        assert_eq!(lab.drops(DropReason::FlowTableFull), 1);
        assert_eq!(lab.service_stats().refused, 1);
        step(lab, false, SYN_ACK);
        assert_eq!(lab.slot(5).tcp_state, TCP_SYN_RECEIVED);
    });
}

#[test]
fn a_slot_listed_twice_is_used_once() {
    at_both_hooks(|lab| {
        lab.free_slots([3, 3, 4]);
        lab.dnat_backend(1, at(BACKEND));
        lab.service(at(VIP), &[1]);
        let (client, other) = (at(CLIENT), at("192.0.2.2:40001"));
        step(lab, true, SYN);
        lab.expect_forwarded(
            &Segment::from_client(other, at(VIP), SYN),
            other,
            at(BACKEND),
        );
        assert_eq!(lab.flow(&key(client, at(VIP))).unwrap().slot, 3);
        assert_eq!(lab.flow(&key(other, at(VIP))).unwrap().slot, 4);
        // Out of range: an agent's mistake, and no crash.
        lab.free_slots([1_000_000]);
        lab.expect_dropped(&Segment::from_client(at("192.0.2.2:40002"), at(VIP), SYN));
    });
}

#[test]
fn a_reference_of_another_generation_is_ignored() {
    at_both_hooks(|lab| {
        one_backend(lab);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        step(lab, true, SYN);
        step(lab, false, SYN_ACK);
        let stale = FlowRef {
            generation: lab.slot(0).generation.wrapping_sub(1),
            ..lab.flow(&key(client, vip)).unwrap()
        };
        lab.set_flow(&key(client, vip), stale);
        lab.expect_untouched(&Segment::from_client(client, vip, ACK));
        lab.set_flow(
            &key(backend, client),
            FlowRef {
                slot: 9_999_999,
                ..stale
            },
        );
        lab.expect_untouched(&Segment::from_backend(backend, client, ACK));
        // A new connection writes over what was left behind.
        step(lab, true, SYN);
        assert_eq!(lab.flow(&key(client, vip)).unwrap().slot, 1);
        step(lab, false, SYN_ACK);
    });
}

#[test]
fn only_active_and_closing_slots_rewrite() {
    at_both_hooks(|lab| {
        one_backend(lab);
        let (client, vip) = (at(CLIENT), at(VIP));
        step(lab, true, SYN);
        for (state, rewrites) in [
            (SLOT_FREE, false),
            (1, false),
            (SLOT_ACTIVE, true),
            (SLOT_CLOSING, true),
            (SLOT_DEAD, false),
            (77, false),
        ] {
            let mut slot = lab.slot(0);
            slot.state = state;
            lab.set_slot(0, slot);
            if rewrites {
                step(lab, true, ACK);
            } else {
                lab.expect_untouched(&Segment::from_client(client, vip, ACK));
            }
        }
    });
}

#[test]
fn a_freed_slot_comes_back_with_the_next_generation() {
    at_both_hooks(|lab| {
        one_backend(lab);
        step(lab, true, SYN);
        step(lab, false, REFUSED);
        let mut slot = lab.slot(0);
        let generation = slot.generation;
        slot.state = SLOT_FREE;
        lab.set_slot(0, slot);
        while lab.pop_free_slot().is_some() {}
        lab.free_slots([0]);
        step(lab, true, SYN);
        let slot = lab.slot(0);
        assert_eq!(slot.generation, generation + 1);
        assert_eq!(slot.dir.map(|dir| dir.packets), [1, 0]);
        assert_eq!(slot.dir[1].tcp_flags_seen, 0);
        assert_eq!(slot.tcp_state, TCP_SYN_SENT);
    });
}
