// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Incremental update of Internet checksums.
//!
//! RFC 1624 equation 3: `HC' = ~(~HC + ~m + m')`, in ones'-complement
//! arithmetic. All values are 16-bit words in the byte order they have in the
//! packet: a ones'-complement sum does not care, as long as nobody swaps.

/// The difference `m' - m` between an old and a new 32-bit value, to be given
/// to [`apply`]; differences add up with `+`.
#[inline(always)]
pub fn diff32(old: u32, new: u32) -> u64 {
    diff16(old as u16, new as u16) + diff16((old >> 16) as u16, (new >> 16) as u16)
}

/// The difference between an old and a new 16-bit value.
#[inline(always)]
pub fn diff16(old: u16, new: u16) -> u64 {
    u64::from(!old) + u64::from(new)
}

/// The checksum field after a change summed up in `diff`.
#[inline(always)]
pub fn apply(checksum: u16, diff: u64) -> u16 {
    !fold(u64::from(!checksum) + diff)
}

/// Folds a sum of 16-bit words to 16 bits. Three folds suffice for any sum of
/// fewer than 2^32 words.
#[inline(always)]
pub fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}
