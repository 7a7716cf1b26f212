// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The same endpoint for the same client address, on every thread and every
//! node, moving as few clients as possible when endpoints come and go: weighted
//! rendezvous hashing (Thaler and Ravishankar 1998; weights as in Schindelhauer
//! and Schomaker 2005).

use std::net::{IpAddr, SocketAddr};

use super::Candidates;

pub(super) fn choose(candidates: &Candidates<'_>, client: IpAddr) -> Option<usize> {
    let client = address(client);
    (0..candidates.endpoints.len())
        .filter(|&index| candidates.allowed(index))
        .map(|index| {
            let endpoint = candidates.endpoints[index].address;
            let hash = finish(client ^ endpoint_hash(endpoint));
            (index, score(hash, candidates.weight(index)))
        })
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(index, _)| index)
}

/// A hash of an address that is the same in every process.
pub(super) fn address(ip: IpAddr) -> u64 {
    let bits = match ip.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    finish(finish((bits >> 64) as u64).wrapping_add(bits as u64))
}

fn endpoint_hash(endpoint: SocketAddr) -> u64 {
    finish(address(endpoint.ip()).wrapping_add(u64::from(endpoint.port())))
}

/// The highest score wins with a probability in proportion to weight.
fn score(hash: u64, weight: u64) -> f64 {
    // 53 bits, the half keeps it above 0 and below 1.
    let unit = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    weight as f64 / -unit.ln()
}

/// The finaliser of splitmix64 (Steele, Lea and Flood 2014).
fn finish(mut hash: u64) -> u64 {
    hash = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
