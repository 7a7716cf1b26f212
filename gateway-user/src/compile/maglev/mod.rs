// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Weighted Maglev rings (Eisenbud et al., "Maglev: A Fast and Reliable
//! Software Network Load Balancer", NSDI 2016, section 3.4).
//!
//! Every choice is derived from the addresses of the backends, never from
//! their ids or their order, so that all nodes that share a VIP build the same
//! ring and a packet may enter through any of them.

use std::net::SocketAddr;

#[cfg(test)]
mod tests;

/// What a backend's preferences are derived from: its address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seed([u8; 18]);

impl From<SocketAddr> for Seed {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip().to_canonical() {
            std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            std::net::IpAddr::V6(v6) => v6,
        };
        let mut bytes = [0; 18];
        bytes[..16].copy_from_slice(&ip.octets());
        bytes[16..].copy_from_slice(&address.port().to_be_bytes());
        Self(bytes)
    }
}

/// Slots of the ring for so many endpoints; 0 for none. Every size but 1 is
/// prime, as the permutations need, and at least 100 times the number of
/// endpoints up to 655 of them, so that about one slot in a hundred changes
/// hands for no reason when an endpoint comes or goes (section 5.3 there).
pub fn ring_size(endpoints: usize) -> u32 {
    match endpoints {
        0 => 0,
        1 => 1,
        2..=10 => 1_021,
        11..=160 => 16_381,
        _ => 65_537,
    }
}

/// Backend ids by ring slot: `size` of them (a prime, or 1), or none when there
/// is no backend with a weight. Slots are shared out in proportion to weight;
/// the order of `backends` does not matter.
pub fn ring(backends: &[(u32, Seed, u32)], size: u32) -> Vec<u32> {
    let mut turns: Vec<Turn> = backends
        .iter()
        .filter(|(_, _, weight)| *weight > 0)
        .map(|&(id, seed, weight)| Turn::new(id, seed, weight, size))
        .collect();
    turns.sort_unstable_by_key(|turn| turn.seed);
    let Some(heaviest) = turns.iter().map(|turn| turn.weight).max() else {
        return Vec::new();
    };
    let mut slots: Vec<Option<u32>> = vec![None; size as usize];
    let mut free = slots.len();
    while free > 0 {
        // A round gives the heaviest backend one turn and every other one its
        // share of a turn, saved up until it is a whole one.
        for turn in &mut turns {
            turn.credit += u64::from(turn.weight);
            if turn.credit < u64::from(heaviest) {
                continue;
            }
            turn.credit -= u64::from(heaviest);
            loop {
                let slot = &mut slots[turn.next as usize];
                turn.step(size);
                if slot.is_none() {
                    *slot = Some(turn.id);
                    break;
                }
            }
            free -= 1;
            if free == 0 {
                break;
            }
        }
    }
    slots.into_iter().flatten().collect()
}

/// One backend's walk through its permutation of the slots.
struct Turn {
    id: u32,
    seed: Seed,
    weight: u32,
    credit: u64,
    next: u32,
    skip: u32,
}

impl Turn {
    fn new(id: u32, seed: Seed, weight: u32, size: u32) -> Self {
        let size = u64::from(size.max(1));
        let offset = hash(&seed.0, 0x9ae1_6a3b_2f90_404f) % size;
        // Between 1 and size - 1: with a prime size every slot is visited.
        let skip = hash(&seed.0, 0xc949_d7c7_509e_6557) % (size - 1).max(1) + 1;
        Self {
            id,
            seed,
            weight,
            credit: 0,
            next: offset as u32,
            skip: skip as u32,
        }
    }

    fn step(&mut self, size: u32) {
        let next = u64::from(self.next) + u64::from(self.skip);
        self.next = (next % u64::from(size)) as u32;
    }
}

/// FNV-1a (Fowler, Noll, Vo) over the bytes, then the finaliser of SplitMix64
/// (Steele, Lea, Flood 2014): neighbouring addresses share no preference.
/// Fixed for all time: another function would move flows between nodes of
/// different versions.
fn hash(bytes: &[u8], basis: u64) -> u64 {
    let mut hash = bytes.iter().fold(basis, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
