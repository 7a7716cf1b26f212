// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The Internet checksum (RFC 1071), always summed up from scratch.

use std::{net::IpAddr, ops::Range};

/// Sums are kept modulo this: 0 and 0xffff are the same number.
const MODULUS: u32 = 0xffff;

/// The sum of `bytes` as words; an odd one is the upper half of the last.
pub fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    words.fold(0, |sum, word| (sum + word) % MODULUS)
}

/// The sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1).
pub fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> u32 {
    let address = |ip| match ip {
        IpAddr::V4(v4) => sum(&std::net::Ipv4Addr::octets(&v4)),
        IpAddr::V6(v6) => sum(&std::net::Ipv6Addr::octets(&v6)),
    };
    (address(src) + address(dst) + u32::from(protocol) + (len as u32 & 0xffff) + (len as u32 >> 16))
        % MODULUS
}

/// A checksum field, and what it covers beside the bytes: a pseudo header whose
/// sum was and is `pseudo`.
pub struct Field {
    /// Its offset in the frame.
    pub at: usize,
    /// What it is the sum of, itself included.
    pub covers: Range<usize>,
    pub pseudo: [u32; 2],
    /// UDP's: zero is never written (RFC 768).
    pub is_udp: bool,
}

impl Field {
    /// Writes the checksum of `after`, which was `before`. One that was right is
    /// right again; one that was wrong is wrong by as much: whoever checks it
    /// next still sees that. Whether its zero may be written either way.
    pub fn refit(&self, before: &[u8], after: &mut [u8]) -> bool {
        let old = u16::from_be_bytes([before[self.at], before[self.at + 1]]);
        let wrong_by = (sum(&before[self.covers.clone()]) + self.pseudo[0]) % MODULUS;
        after[self.at..][..2].fill(0);
        let bare = (sum(&after[self.covers.clone()]) + self.pseudo[1]) % MODULUS;
        let mut new = ((wrong_by + MODULUS - bare) % MODULUS) as u16;
        if self.is_udp && new == 0 {
            new = 0xffff;
        }
        after[self.at..][..2].copy_from_slice(&new.to_be_bytes());
        !self.is_udp && (wrong_by != 0 || old == 0xffff)
    }

    /// Writes it for the first time, into bytes that are complete but for it.
    pub fn fill(&self, frame: &mut [u8]) {
        frame[self.at..][..2].fill(0);
        let sum = (sum(&frame[self.covers.clone()]) + self.pseudo[1]) % MODULUS;
        let mut new = ((MODULUS - sum) % MODULUS) as u16;
        if self.is_udp && new == 0 {
            new = 0xffff;
        }
        frame[self.at..][..2].copy_from_slice(&new.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        assert_eq!(
            sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            0xddf2
        );
        assert_eq!(sum(&[0x12]), 0x1200);
    }
}
