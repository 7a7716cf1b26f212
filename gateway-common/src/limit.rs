// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Token buckets, and what they are for: sources.
//!
//! A bucket is one word: the time at which it will be full again ("generic cell
//! rate algorithm", ITU-T I.371 annex A). A bucket of `burst` tokens that gains
//! one every `interval` has its virtual time at most `burst * interval` ahead of
//! the clock; a token moves it one interval ahead. A word of zero is a full
//! bucket, so that an entry that was forgotten refuses nobody.

use crate::addr::Addr16;

/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;

/// Most tokens a bucket gains in a second.
pub const MAX_RATE: u32 = 1_000_000;
/// Most tokens a bucket holds.
pub const MAX_BURST: u32 = 1_000_000;

/// The virtual time of a bucket after one token is taken at `now` (both in
/// nanoseconds of one clock), or none when it is empty. `rate` is in tokens a
/// second and over 0, as is `burst`.
#[inline(always)]
pub const fn take_token(full_at: u64, now: u64, rate: u32, burst: u32) -> Option<u64> {
    let interval = interval_ns(rate);
    let from = if full_at > now { full_at } else { now };
    let next = from.saturating_add(interval);
    if next - now > interval.saturating_mul(burst as u64) {
        None
    } else {
        Some(next)
    }
}

/// Nanoseconds in which a bucket gains a token.
#[inline(always)]
const fn interval_ns(rate: u32) -> u64 {
    match rate {
        0 => SECOND_NS,
        rate => SECOND_NS / rate as u64,
    }
}

/// What is counted for one source of one service.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId {
    /// The source's prefix: its address with the other bits zero, IPv4 mapped.
    pub addr: Addr16,
    /// Id of the service.
    pub service_id: u32,
}

const _: () = assert!(size_of::<SourceId>() == 20);

impl SourceId {
    /// A hash that nobody can steer who does not know the key: SipHash-1-3
    /// (Aumasson, Bernstein, "SipHash: a fast short-input PRF", INDOCRYPT 2012).
    #[inline(always)]
    pub fn hash(&self, key: [u64; 2]) -> u64 {
        let b = &self.addr.bytes;
        let words = [
            u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            u64::from_le_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
            // The last word has the length in its highest byte.
            20 << 56 | self.service_id as u64,
        ];
        let mut v = [
            key[0] ^ 0x736f_6d65_7073_6575,
            key[1] ^ 0x646f_7261_6e64_6f6d,
            key[0] ^ 0x6c79_6765_6e65_7261,
            key[1] ^ 0x7465_6462_7974_6573,
        ];
        for word in words {
            v[3] ^= word;
            sip_round(&mut v);
            v[0] ^= word;
        }
        v[2] ^= 0xff;
        sip_round(&mut v);
        sip_round(&mut v);
        sip_round(&mut v);
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }
}

#[inline(always)]
fn sip_round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

/// Which leading bits of an address make a source.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceMask {
    /// Of IPv4 addresses, network order.
    pub v4: [u8; 4],
    /// Of IPv6 addresses, network order.
    pub v6: [u8; 16],
}

const _: () = assert!(size_of::<SourceMask>() == 20);

impl SourceMask {
    /// The mask of prefixes with `v4_bits` (0 to 32) and `v6_bits` (0 to 128).
    pub const fn new(v4_bits: u8, v6_bits: u8) -> Self {
        let v4 = match u32::MAX.checked_shl(32u32.saturating_sub(v4_bits as u32)) {
            Some(mask) => mask,
            None => 0,
        };
        let v6 = match u128::MAX.checked_shl(128u32.saturating_sub(v6_bits as u32)) {
            Some(mask) => mask,
            None => 0,
        };
        Self {
            v4: v4.to_be_bytes(),
            v6: v6.to_be_bytes(),
        }
    }

    /// The prefix of an address.
    #[inline(always)]
    pub fn prefix(&self, addr: &Addr16) -> Addr16 {
        let mut prefix = *addr;
        if addr.is_v4() {
            for i in 0..4 {
                prefix.bytes[12 + i] &= self.v4[i];
            }
        } else {
            for i in 0..16 {
                prefix.bytes[i] &= self.v6[i];
            }
        }
        prefix
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::hash::Hasher;
    use std::hash::DefaultHasher;

    use super::{Addr16, SECOND_NS, SourceId, SourceMask, take_token};

    /// Tokens taken from a bucket that is asked at each of `times`.
    fn taken(times: impl Iterator<Item = u64>, rate: u32, burst: u32) -> u32 {
        let mut full_at = 0;
        let mut taken = 0;
        for now in times {
            if let Some(next) = take_token(full_at, now, rate, burst) {
                full_at = next;
                taken += 1;
            }
        }
        taken
    }

    #[test]
    fn a_burst_is_taken_at_once_and_the_rate_after_it() {
        let start = 5 * SECOND_NS;
        assert_eq!(taken((0..100).map(|_| start), 10, 7), 7);
        // One ask a millisecond for ten seconds.
        let asks = (0..10_000).map(|ms| start + ms * 1_000_000);
        assert_eq!(taken(asks, 10, 7), 7 + 99);
    }

    #[test]
    fn a_bucket_that_is_left_alone_fills_up_and_no_further() {
        let mut full_at = 0;
        for second in [1, 1_000] {
            let now = second * SECOND_NS;
            for _ in 0..3 {
                full_at = take_token(full_at, now, 1, 3).expect("a token");
            }
            assert_eq!(take_token(full_at, now, 1, 3), None);
        }
    }

    #[test]
    fn in_no_stretch_of_time_more_than_burst_and_rate() {
        // A small generator of its own: this crate has no dependencies.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for _ in 0..500 {
            let rate = 1 + random(2_000) as u32;
            let burst = 1 + random(50) as u32;
            let mut now = random(SECOND_NS);
            let mut full_at = 0;
            let mut times = [0; 300];
            let mut count = 0;
            while count < times.len() {
                now += random(3 * SECOND_NS / u64::from(rate));
                if let Some(next) = take_token(full_at, now, rate, burst) {
                    full_at = next;
                    times[count] = now;
                    count += 1;
                }
            }
            for first in 0..times.len() {
                for last in first..times.len() {
                    let passed = times[last] - times[first];
                    let interval = SECOND_NS / u64::from(rate);
                    let most = u64::from(burst) + passed / interval;
                    assert!(((last - first) as u64) < most, "rate {rate}, burst {burst}");
                }
            }
        }
    }

    #[test]
    fn the_hash_is_that_of_the_standard_library() {
        for last in 0..=255 {
            let source = SourceId {
                addr: Addr16 {
                    bytes: core::array::from_fn(|at| last ^ at as u8),
                },
                service_id: 0x0102_0304_u32.wrapping_mul(last.into()),
            };
            let mut hasher = DefaultHasher::new();
            hasher.write(&source.addr.bytes);
            hasher.write(&source.service_id.to_le_bytes());
            assert_eq!(source.hash([0, 0]), hasher.finish());
        }
    }

    #[test]
    fn sources_are_prefixes_of_their_family() {
        let mask = SourceMask::new(24, 64);
        let v4 = |last| Addr16::from_v4([192, 0, 2, last]);
        assert_eq!(mask.prefix(&v4(7)), v4(0));
        let mut v6 = Addr16 { bytes: [0x20; 16] };
        let mut net = v6;
        net.bytes[8..].fill(0);
        assert_eq!(mask.prefix(&v6), net);
        v6.bytes[15] = 1;
        assert_eq!(mask.prefix(&v6), net);
        let (all, one) = (SourceMask::new(0, 0), SourceMask::new(32, 128));
        assert_eq!(all.prefix(&v4(7)), Addr16::from_v4([0; 4]));
        assert_eq!(all.prefix(&v6), Addr16::ANY);
        assert_eq!((one.prefix(&v4(7)), one.prefix(&v6)), (v4(7), v6));
    }
}
