// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which ring slot a flow takes.
//!
//! The ring itself is computed by the agent (Eisenbud et al., "Maglev: A Fast
//! and Reliable Software Network Load Balancer", NSDI 2016, section 3.4).

use crate::{
    addr::Addr16,
    flow::FlowKey,
    service::{HASH_SOURCE_ADDRESS, RING_CHUNK_IDS},
};

/// The slot of `key` in a ring of `ring_size` slots (0 < `ring_size`).
#[inline(always)]
pub fn slot(key: &FlowKey, hash_policy: u32, seed: u32, ring_size: u32) -> u32 {
    let hash = if hash_policy == HASH_SOURCE_ADDRESS {
        finish(mix_address(seed, &key.src))
    } else {
        hash(key, seed)
    };
    scale(hash, ring_size)
}

/// A hash of the whole tuple, the same on machines of either byte order.
#[inline(always)]
pub fn hash(key: &FlowKey, seed: u32) -> u32 {
    let src_port = u32::from(u16::from_be(key.src_port_be));
    let dst_port = u32::from(u16::from_be(key.dst_port_be));
    let ports = src_port << 16 | dst_port;
    let hash = mix_address(seed, &key.src);
    let hash = mix_address(hash, &key.dst);
    finish(mix(mix(hash, ports), u32::from(key.proto)))
}

/// A hash of one address and port.
#[inline(always)]
pub fn hash_endpoint(addr: &Addr16, port_be: u16, seed: u32) -> u32 {
    finish(mix(
        mix_address(seed, addr),
        u32::from(u16::from_be(port_be)),
    ))
}

/// The next of a sequence of hashes that starts at `hash`.
#[inline(always)]
pub fn rehash(hash: u32) -> u32 {
    finish(mix(hash, 1))
}

/// Maps a hash evenly to `0..range`; 0 when `range` is 0.
#[inline(always)]
pub fn scale(hash: u32, range: u32) -> u32 {
    // Multiply-shift instead of a remainder: unbiased enough and one
    // instruction (Lemire, "Fast Random Integer Generation in an Interval").
    ((u64::from(hash) * u64::from(range)) >> 32) as u32
}

/// Chunk and position inside it of a ring slot.
#[inline(always)]
pub const fn chunk_of(slot: u32) -> (u32, usize) {
    (slot / RING_CHUNK_IDS, (slot % RING_CHUNK_IDS) as usize)
}

/// Chunks a ring of `ring_size` slots takes.
pub const fn chunks_for(ring_size: u32) -> u32 {
    ring_size.div_ceil(RING_CHUNK_IDS)
}

#[inline(always)]
fn mix_address(hash: u32, addr: &Addr16) -> u32 {
    let bytes = &addr.bytes;
    let word = |i: usize| u32::from_be_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
    mix(mix(mix(mix(hash, word(0)), word(4)), word(8)), word(12))
}

/// One round of MurmurHash3's 32-bit body (Appleby, public domain).
#[inline(always)]
fn mix(hash: u32, word: u32) -> u32 {
    let k = word
        .wrapping_mul(0xcc9e_2d51)
        .rotate_left(15)
        .wrapping_mul(0x1b87_3593);
    (hash ^ k)
        .rotate_left(13)
        .wrapping_mul(5)
        .wrapping_add(0xe654_6b64)
}

/// MurmurHash3's finaliser: every input bit reaches every output bit.
#[inline(always)]
fn finish(mut hash: u32) -> u32 {
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::{chunk_of, chunks_for, hash, rehash, scale, slot};
    use crate::{
        addr::Addr16,
        flow::FlowKey,
        service::{HASH_FIVE_TUPLE, HASH_SOURCE_ADDRESS, RING_CHUNK_IDS},
    };

    fn key(host: u32, port: u16) -> FlowKey {
        let [_, a, b, c] = host.to_be_bytes();
        FlowKey {
            src: Addr16::from_v4([10, a, b, c]),
            dst: Addr16::from_v4([198, 51, 100, 1]),
            src_port_be: port.to_be(),
            dst_port_be: 443_u16.to_be(),
            proto: 6,
            _pad: [0; 3],
        }
    }

    #[test]
    fn a_slot_is_within_its_ring() {
        for ring_size in [1, 2, 7, 251, 16_381, 65_537, u32::MAX] {
            for port in (0..=u16::MAX).step_by(97) {
                for policy in [HASH_FIVE_TUPLE, HASH_SOURCE_ADDRESS] {
                    assert!(slot(&key(u32::from(port), port), policy, 9, ring_size) < ring_size);
                }
            }
        }
        assert_eq!(
            (scale(u32::MAX, 0), scale(0, 10), scale(u32::MAX, 10)),
            (0, 0, 9)
        );
    }

    /// Flows that differ only in the port, only in the host, or in both spread
    /// evenly: each slot's share is within five standard deviations.
    #[test]
    fn flows_spread_evenly() {
        const SLOTS: usize = 61;
        const FLOWS: u32 = 61_000;
        type Stream = fn(u32) -> FlowKey;
        let streams: [(&str, Stream, u32); 4] = [
            ("ports", |i| key(1, i as u16), HASH_FIVE_TUPLE),
            ("hosts", |i| key(i, 40_000), HASH_FIVE_TUPLE),
            ("both", |i| key(i / 7, i as u16), HASH_FIVE_TUPLE),
            ("addresses", |i| key(i, 40_000), HASH_SOURCE_ADDRESS),
        ];
        for (name, make, policy) in streams {
            let mut taken = [0_u32; SLOTS];
            for i in 0..FLOWS {
                taken[slot(&make(i), policy, 0x5eed, SLOTS as u32) as usize] += 1;
            }
            for count in taken {
                assert!(count.abs_diff(1_000) < 5 * 32, "{name}: {taken:?}");
            }
        }
    }

    #[test]
    fn the_source_address_alone_decides_when_it_should() {
        for port in 0..100 {
            assert_eq!(
                slot(&key(5, port), HASH_SOURCE_ADDRESS, 1, 16_381),
                slot(&key(5, 0), HASH_SOURCE_ADDRESS, 1, 16_381)
            );
        }
    }

    #[test]
    fn seed_and_every_part_of_the_tuple_count() {
        let base = key(1, 1);
        let all = [
            hash(&base, 1),
            hash(&base, 2),
            hash(&key(2, 1), 1),
            hash(&key(1, 2), 1),
            hash(
                &FlowKey {
                    dst: base.src,
                    ..base
                },
                1,
            ),
            hash(
                &FlowKey {
                    dst_port_be: 0,
                    ..base
                },
                1,
            ),
            hash(&FlowKey { proto: 17, ..base }, 1),
            rehash(hash(&base, 1)),
        ];
        for (i, a) in all.iter().enumerate() {
            for b in &all[..i] {
                assert_ne!(a, b);
            }
        }
    }

    /// Values every node and every version must agree on: a change of the hash
    /// moves flows between backends during an upgrade.
    #[test]
    fn the_hash_is_what_it_was() {
        assert_eq!(
            [
                hash(&key(1, 40_000), 0),
                hash(&key(0x00ff_ffff, 65_535), 0x5eed),
                slot(&key(7, 7), HASH_SOURCE_ADDRESS, 3, 16_381),
            ],
            [600488780, 2063850081, 8234]
        );
    }

    #[test]
    fn chunks_cover_a_ring_exactly() {
        assert_eq!(chunk_of(0), (0, 0));
        assert_eq!(chunk_of(RING_CHUNK_IDS + 3), (1, 3));
        for (ring_size, chunks) in [(0, 0), (1, 1), (16, 1), (17, 2), (16_381, 1_024)] {
            assert_eq!(chunks_for(ring_size), chunks);
        }
    }
}
