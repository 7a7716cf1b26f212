// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Incremental update of Internet checksums.
//!
//! RFC 1624 equation 3: `HC' = ~(~HC + ~m + m')`, in ones'-complement
//! arithmetic. All values are 16-bit words in the byte order they have in the
//! packet: a ones'-complement sum does not care, as long as nobody swaps.

use crate::addr::Addr16;

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

/// The difference between an old and a new address.
#[inline(always)]
pub fn diff_address(old: &Addr16, new: &Addr16) -> u64 {
    let word = |bytes: &[u8; 16], i: usize| {
        u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]])
    };
    let diff = |i: usize| diff32(word(&old.bytes, i), word(&new.bytes, i));
    diff(0) + diff(4) + diff(8) + diff(12)
}

/// Whether a folded difference changes a sum: zero has two representations, and
/// neither does.
#[inline(always)]
pub fn is_change(diff: u64) -> bool {
    diff != 0 && diff != 0xffff
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

#[cfg(test)]
mod tests {
    use super::{apply, diff_address, diff16, diff32, fold, is_change};
    use crate::addr::Addr16;

    /// RFC 1071 section 4.1, word by word with end-around carry.
    fn naive(words: &[u16]) -> u16 {
        let mut sum = 0_u32;
        for &word in words {
            sum += u32::from(word);
            if sum > 0xffff {
                sum -= 0xffff;
            }
        }
        !(sum as u16)
    }

    /// Marsaglia's xorshift32.
    fn random(state: &mut u32) -> u32 {
        *state ^= *state << 13;
        *state ^= *state >> 17;
        *state ^= *state << 5;
        *state
    }

    #[test]
    fn the_same_value_is_no_change() {
        for value in [0, 1, 0x8000, 0xffff] {
            let diff = u64::from(fold(diff16(value, value)));
            assert!(!is_change(diff));
        }
        assert!(is_change(u64::from(fold(diff16(80, 8080)))));
    }

    #[test]
    fn an_update_equals_a_new_sum() {
        let mut state = 0x1234_5678;
        for _ in 0..50_000 {
            let mut words = [0_u16; 10];
            for word in &mut words {
                *word = match random(&mut state) % 8 {
                    0 => 0,
                    1 => 0xffff,
                    _ => random(&mut state) as u16,
                };
            }
            // Never all zero: the one sum RFC 1624 cannot update.
            words[9] |= 1;
            let before = naive(&words);
            let (old, old_low) = (words[0], words[2]);
            let old_wide = u32::from(words[3]) | u32::from(words[4]) << 16;
            words[0] = random(&mut state) as u16;
            words[2] = words[2].wrapping_sub(1);
            let wide = random(&mut state);
            (words[3], words[4]) = (wide as u16, (wide >> 16) as u16);
            let diff = diff16(old, words[0]) + diff16(old_low, words[2]) + diff32(old_wide, wide);
            assert_eq!(apply(before, diff), naive(&words), "{words:x?}");
        }
    }

    #[test]
    fn no_change_keeps_the_checksum() {
        // 0xffff never occurs: it would take a sum of zero.
        for checksum in 0..0xffff {
            assert_eq!(apply(checksum, diff32(0xdead_beef, 0xdead_beef)), checksum);
        }
    }

    #[test]
    fn an_address_is_four_words() {
        let (old, new) = (
            Addr16 { bytes: [0xa5; 16] },
            Addr16::from_v4([10, 97, 0, 1]),
        );
        let words = |addr: Addr16| {
            let mut words = [1_u16; 9];
            for (word, pair) in words.iter_mut().zip(addr.bytes.chunks(2)) {
                *word = u16::from_ne_bytes([pair[0], pair[1]]);
            }
            words
        };
        assert_eq!(
            apply(naive(&words(old)), diff_address(&old, &new)),
            naive(&words(new))
        );
        // Folded before it is applied, it is the same.
        let folded = u64::from(fold(diff_address(&old, &new)));
        assert_eq!(apply(naive(&words(old)), folded), naive(&words(new)));
    }

    #[test]
    fn the_example_of_rfc_1624_section_4() {
        assert_eq!(apply(0xdd2f, diff16(0x5555, 0x3285)), 0x0000);
    }

    #[test]
    fn folding_wraps_around_at_every_width() {
        for (sum, folded) in [
            (0, 0),
            (0xffff, 0xffff),
            (0x1_0000, 1),
            (0x1_ffff, 1),
            (0xffff_ffff, 0xffff),
            (0x1_0000_0000, 1),
            (u64::MAX, 0xffff),
        ] {
            assert_eq!(fold(sum), folded, "{sum:x}");
        }
    }
}
