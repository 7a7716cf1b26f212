// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Connections that came by another node so far.

use gateway_common::{
    addr::Addr16,
    backend::FORWARD_DSR,
    counters::VerdictCounter,
    drop_reason::DropReason,
    flow::{KIND_DNAT, KIND_DSR, SLOT_CLOSING},
    tcp_state::{TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT},
};

use crate::{
    lab::{Action, Lab, at_both_hooks},
    maps::{SNAT_ADDR, key},
    packet::{ACK, BACKEND, CLIENT, FAMILIES, FIN_ACK, RST, SYN_ACK, Segment, VIP, at},
};

fn shared(lab: &mut Lab) {
    lab.set(|settings| settings.adopts_flows = 1);
    lab.free_slots(0..8);
}

#[test]
fn a_translated_connection_goes_on_in_both_directions() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            shared(lab);
            let [client, vip, backend] = family.map(at);
            lab.dnat_backend(1, backend);
            lab.service(vip, &[1]);
            lab.expect_forwarded(&Segment::from_client(client, vip, ACK), client, backend);
            let slot = lab.slot(0);
            assert_eq!((slot.kind, slot.tcp_state), (KIND_DNAT, TCP_ESTABLISHED));
            let answer = Segment::from_backend(backend, client, ACK);
            lab.expect_forwarded(&answer, vip, client);
            lab.expect_forwarded(&Segment::from_client(client, vip, FIN_ACK), client, backend);
            assert_eq!(lab.slot(0).tcp_state, TCP_FIN_WAIT);
            assert_eq!(lab.verdicts(VerdictCounter::FlowAdopted), 1);
            assert_eq!(lab.verdicts(VerdictCounter::Forwarded), 3);
            assert_eq!(lab.service_stats().flows, 1);
        });
    }
}

#[test]
fn a_wrapped_connection_goes_on() {
    at_both_hooks(|lab| {
        shared(lab);
        let (client, vip) = (at(CLIENT), at(VIP));
        lab.backend(1, at(BACKEND), FORWARD_DSR, Addr16::from_v4(SNAT_ADDR));
        lab.service(vip, &[1]);
        for (flags, state) in [(ACK, TCP_ESTABLISHED), (FIN_ACK, TCP_CLOSING)] {
            let outcome = lab.send(&Segment::from_client(client, vip, flags));
            assert_eq!(outcome.action, Action::Redirect);
            assert_eq!((lab.slot(0).kind, lab.slot(0).tcp_state), (KIND_DSR, state));
        }
        assert_eq!(lab.slot(0).state, SLOT_CLOSING);
        assert_eq!(lab.verdicts(VerdictCounter::FlowAdopted), 1);
    });
}

#[test]
fn what_cannot_go_on_is_left_to_the_stack() {
    at_both_hooks(|lab| {
        shared(lab);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        // The port towards the backend is known to the other node alone.
        lab.snat_backend(1, backend);
        lab.service(vip, &[1]);
        lab.expect_untouched(&Segment::from_client(client, vip, ACK));
        lab.dnat_backend(1, backend);
        // An answer opens nothing, and a reset ends what nobody knows.
        lab.expect_untouched(&Segment::from_client(client, vip, SYN_ACK));
        lab.expect_untouched(&Segment::from_client(client, vip, RST));
        let own = Segment::from_backend("10.1.0.11:4000".parse().unwrap(), vip, ACK);
        lab.expect_untouched(&own);
        assert_eq!(lab.verdicts(VerdictCounter::NoFlow), 4);
        // On a node that shares no VIP, nothing does.
        lab.set(|settings| settings.adopts_flows = 0);
        lab.expect_untouched(&Segment::from_client(client, vip, ACK));
        assert_eq!(lab.verdicts(VerdictCounter::FlowAdopted), 0);
        assert_eq!((lab.flow_keys(), lab.all_drops()), (0, 0));
    });
}

/// Another source port would be another connection to the backend.
#[test]
fn a_connection_whose_answers_would_be_anothers_is_not_taken_over() {
    at_both_hooks(|lab| {
        shared(lab);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        let other = at("198.51.100.2:1883");
        lab.dnat_backend(1, backend);
        lab.service(vip, &[1]);
        lab.service(other, &[1]);
        lab.expect_forwarded(&Segment::from_client(client, vip, ACK), client, backend);
        lab.expect_dropped(&Segment::from_client(client, other, ACK));
        assert_eq!(lab.drops(DropReason::ReplyTupleTaken), 1);
        assert!(lab.flow(&key(client, other)).is_none());
    });
}
