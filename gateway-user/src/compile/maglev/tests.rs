// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What rings promise: proportion, stability, sameness everywhere.

use std::net::{Ipv4Addr, SocketAddr};

use super::{Seed, ring, ring_size};

fn backends(count: u8, weight: impl Fn(u8) -> u32) -> Vec<(u32, Seed, u32)> {
    (0..count)
        .map(|i| {
            let address = SocketAddr::from((Ipv4Addr::new(10, 0, 0, i), 8080));
            (u32::from(i) + 1, Seed::from(address), weight(i))
        })
        .collect()
}

fn share(ring: &[u32], id: u32) -> f64 {
    ring.iter().filter(|slot| **slot == id).count() as f64 / ring.len() as f64
}

#[test]
fn sizes_are_prime_and_ample() {
    for (endpoints, expected) in [
        (0, 0),
        (1, 1),
        (2, 1_021),
        (10, 1_021),
        (11, 16_381),
        (160, 16_381),
        (161, 65_537),
        (5_000, 65_537),
    ] {
        assert_eq!(ring_size(endpoints), expected, "{endpoints} endpoints");
    }
    for size in [1_021u32, 16_381, 65_537] {
        assert!(
            (2..size)
                .take_while(|d| d * d <= size)
                .all(|d| size % d != 0),
            "{size} is prime"
        );
    }
}

#[test]
fn shares_follow_weights_within_one_percent() {
    let tables: [&dyn Fn(u8) -> u32; 4] = [
        &|_| 1,
        &|i| u32::from(i) + 1,
        &|i| if i == 0 { 90 } else { 10 },
        &|i| if i % 2 == 0 { u32::MAX } else { u32::MAX / 3 },
    ];
    for (table, weight) in tables.iter().enumerate() {
        let backends = backends(8, weight);
        let total: f64 = backends.iter().map(|(_, _, w)| f64::from(*w)).sum();
        let ring = ring(&backends, ring_size(8));
        for (id, _, weight) in backends {
            let wanted = f64::from(weight) / total;
            assert!(
                (share(&ring, id) - wanted).abs() < 0.01,
                "table {table}, backend {id}: {} for {wanted}",
                share(&ring, id)
            );
        }
    }
}

#[test]
fn a_removed_backend_moves_few_slots_of_the_others() {
    let before = backends(20, |_| 1);
    let mut after = before.clone();
    let (gone, _, _) = after.remove(7);
    let size = ring_size(before.len());
    let moved = ring(&before, size)
        .iter()
        .zip(ring(&after, size))
        .filter(|(old, new)| **old != gone && **old != *new)
        .count();
    assert!(
        moved as f64 <= f64::from(size) * 0.02,
        "{moved} of {size} slots of other backends moved"
    );
}

#[test]
fn order_of_backends_and_their_ids_do_not_matter() {
    let backends = backends(9, |i| u32::from(i % 3) + 1);
    let expected = ring(&backends, 1_021);
    let mut reversed = backends.clone();
    reversed.reverse();
    assert_eq!(ring(&reversed, 1_021), expected);

    let renumbered: Vec<_> = backends
        .iter()
        .map(|&(id, seed, w)| (100 - id, seed, w))
        .collect();
    let mapped: Vec<u32> = ring(&renumbered, 1_021).iter().map(|id| 100 - id).collect();
    assert_eq!(mapped, expected);
}

#[test]
fn degenerate_sets_do_not_hang() {
    assert!(ring(&[], 1_021).is_empty());
    assert!(ring(&backends(3, |_| 0), 1_021).is_empty());
    assert_eq!(ring(&backends(1, |_| 7), 1), [1]);
}

/// Nodes of different versions share VIPs: the ring of given addresses must
/// never change.
#[test]
fn ring_is_the_same_in_every_version() {
    let fingerprint = ring(&backends(10, |i| u32::from(i) + 1), 1_021)
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, id| {
            (hash ^ u64::from(*id)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    assert_eq!(fingerprint, 0x5fa0_e607_b454_8239);
}
