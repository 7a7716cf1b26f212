// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every byte arrives, in every mode and both families.

use crate::{ipv6, modes, scene};

/// Bytes in each direction of one connection: one GiB in all.
const HALF: u64 = 512 * 1024 * 1024;
/// Bytes of a datagram, and so many of them: one GiB as well.
const DATAGRAM: usize = 1_400;
const DATAGRAMS: u64 = 2 * HALF / DATAGRAM as u64;

#[test]
fn a_gigabyte_of_tcp_arrives_byte_by_byte_in_every_mode() {
    let Some(lab) = scene::lab() else { return };
    ipv6::dual_stack(&lab);
    let _decap = modes::answers_itself(&lab);
    let services = modes::services(&lab);
    let gateway = scene::serve(&lab, &[("modes.yaml", modes::yaml(&services))]);
    for service in services {
        let seen = modes::exchange(&lab, service, HALF, HALF);
        let is_client = seen == modes::client(service.vip);
        assert_eq!(is_client, service.mode != "snat", "{service:?}: {seen}");
        let counted = gateway
            .service_at(&service.vip.to_string())
            .expect("counters");
        assert_eq!(counted.flows, 1, "{service:?}");
        assert!(counted.packets_in > 1_000, "{service:?}: {counted:?}");
        // The backend answers past the gateway.
        assert_eq!(
            counted.packets_out == 0,
            service.mode == "dsr",
            "{service:?}"
        );
    }
    assert_eq!(
        gateway.closed("", "").expect("status"),
        0,
        "the agent saw one"
    );
}

#[test]
fn a_gigabyte_of_datagrams_arrives_in_order_in_every_mode() {
    let Some(lab) = scene::lab() else { return };
    ipv6::dual_stack(&lab);
    let _decap = modes::answers_itself(&lab);
    let services = modes::services(&lab);
    let _gateway = scene::serve(&lab, &[("modes.yaml", modes::yaml(&services))]);
    for service in services {
        modes::datagrams(&lab, service, DATAGRAMS, DATAGRAM, DATAGRAM);
        // In fragments.
        modes::datagrams(&lab, service, 500, 4_000, 4_000);
    }
}
