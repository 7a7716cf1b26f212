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

/// A hash of the whole tuple.
#[inline(always)]
pub fn hash(key: &FlowKey, seed: u32) -> u32 {
    let ports = u32::from(key.src_port_be) << 16 | u32::from(key.dst_port_be);
    let hash = mix_address(seed, &key.src);
    let hash = mix_address(hash, &key.dst);
    finish(mix(mix(hash, ports), u32::from(key.proto)))
}

/// A hash of one address and port.
#[inline(always)]
pub fn hash_endpoint(addr: &Addr16, port_be: u16, seed: u32) -> u32 {
    finish(mix(mix_address(seed, addr), u32::from(port_be)))
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
