// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Fragments are not tracked yet: ours are dropped where they can be told.

use gateway_common::drop_reason::DropReason;

use crate::{
    lab::{Action, WIRE, at_both_hooks},
    packet::{ACK, SYN, SYN_ACK, Segment, at, hex},
};

#[test]
fn first_fragments_of_a_service_are_dropped_and_others_pass() {
    at_both_hooks(|lab| {
        let (client, vip) = (at("192.0.2.2:40000"), at("198.51.100.1:1883"));
        let backend = at("10.1.0.11:11883");
        lab.free_slots(0..8);
        lab.dnat_backend(1, backend);
        lab.service(vip, &[1]);
        let fragment = |segment: Segment| Segment {
            more_fragments: true,
            ..segment
        };
        lab.expect_dropped(&fragment(Segment::from_client(client, vip, SYN)));
        lab.expect_untouched(&fragment(Segment::from_client(
            client,
            at("198.51.100.9:1"),
            SYN,
        )));
        assert_eq!(lab.flow_keys(), 0);

        lab.expect_forwarded(&Segment::from_client(client, vip, SYN), client, backend);
        lab.expect_dropped(&fragment(Segment::from_client(client, vip, ACK)));
        lab.expect_dropped(&fragment(Segment::from_backend(backend, client, SYN_ACK)));
        assert_eq!(lab.drops(DropReason::Fragment), 3);

        // The bytes where ports would be are payload here.
        for offset in [1_u16, 0x1fff, 0x2001] {
            let mut frame = Segment::from_client(client, vip, ACK).frame();
            frame[20..22].copy_from_slice(&offset.to_be_bytes());
            let outcome = lab.run(WIRE, &frame);
            assert_eq!(outcome.action, Action::Pass);
            assert_eq!(hex(&outcome.frame), hex(&frame));
        }
    });
}
