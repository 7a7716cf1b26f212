// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel picks the backend that the shared arithmetic says.

use std::net::SocketAddr;

use gateway_common::{
    maglev,
    service::{HASH_FIVE_TUPLE, HASH_SOURCE_ADDRESS},
};

use crate::{
    lab::{Action, at_both_hooks},
    maps::{SEED, key},
    packet::{SYN, Segment, at},
};

const VIP: &str = "198.51.100.1:1883";

#[test]
fn new_flows_follow_the_ring() {
    // Weights 1, 2 and 3, in an order without pattern.
    let ring: Vec<u32> = (0..251_u32)
        .map(|i| [1, 2, 2, 3, 3, 3][(i * 5 % 6) as usize])
        .collect();
    for policy in [HASH_FIVE_TUPLE, HASH_SOURCE_ADDRESS] {
        at_both_hooks(|lab| {
            lab.free_slots(0..4_000);
            for id in 1..=3 {
                lab.dnat_backend(id, at(&format!("10.1.0.{}:11883", 10 + id)));
            }
            lab.service_with(at(VIP), &ring, |service| service.hash_policy = policy);
            let mut taken = [0; 4];
            for i in 0..3_000_u32 {
                let host = [192, 0, 2 + (i / 200) as u8, (i % 200) as u8 + 2];
                let client = SocketAddr::new(host.into(), 1_024 + (i * 17 % 60_000) as u16);
                let slot = maglev::slot(&key(client, at(VIP)), policy, SEED, ring.len() as u32);
                let id = ring[slot as usize];
                taken[id as usize] += 1;
                let outcome = lab.send(&Segment::from_client(client, at(VIP), SYN));
                assert_eq!(outcome.action, Action::Redirect);
                assert_eq!(outcome.frame[30..34], [10, 1, 0, 10 + id as u8]);
            }
            for id in 1..=3 {
                assert_eq!(lab.backend_stats(id).flows, taken[id as usize]);
                let expected = 500 * u64::from(id);
                assert!(
                    taken[id as usize].abs_diff(expected) < expected / 5,
                    "{taken:?} under policy {policy}"
                );
            }
            assert_eq!(lab.service_stats().flows, 3_000);
        });
    }
}
