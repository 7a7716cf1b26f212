// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Frames made worse: bytes changed, lengths that lie, ends cut off.

use fastrand::Rng;

use super::traffic::chance;

/// Changes a frame in one to three ways.
pub fn worsen(random: &mut Rng, frame: &mut Vec<u8>) {
    for _ in 0..random.usize(1..=3) {
        let is_v6 = frame.get(12) == Some(&0x86);
        match random.u32(..14) {
            // Any byte, mostly of a header.
            0..4 => {
                let end = if chance(random, 4) {
                    frame.len()
                } else {
                    frame.len().min(90)
                };
                let at = random.usize(..end);
                frame[at] = interesting(random, frame[at]);
            }
            // One bit.
            4 => {
                let at = random.usize(..frame.len().min(80));
                frame[at] ^= 1 << random.u32(..8);
            }
            5..7 => frame.truncate(random.usize(14..=frame.len())),
            7 => {
                let padding = random.usize(1..50);
                frame.extend(std::iter::repeat_with(|| random.u8(..)).take(padding));
            }
            // The length of the packet, a little wrong or very.
            8..10 => {
                let at = if is_v6 { 18 } else { 16 };
                if at + 2 <= frame.len() {
                    let len = u16::from_be_bytes([frame[at], frame[at + 1]]);
                    let len = match random.u32(..4) {
                        0 => random.u16(..),
                        1 => random.u16(..90),
                        2 => len.wrapping_add(random.u16(1..12)),
                        _ => len.wrapping_sub(random.u16(1..40)),
                    };
                    frame[at..at + 2].copy_from_slice(&len.to_be_bytes());
                }
            }
            // Version and header length, or next header.
            10 => {
                let at = if is_v6 { 20 } else { 14 };
                if at < frame.len() {
                    frame[at] = if is_v6 {
                        *random
                            .choice(&[0, 6, 17, 43, 44, 50, 51, 58, 59, 60])
                            .unwrap()
                    } else {
                        0x40 | random.u8(..16)
                    };
                }
            }
            // Fragment field, or the protocol.
            11 if !is_v6 && frame.len() > 23 => {
                if random.bool() {
                    frame[20] = *random.choice(&[0, 0x20, 0x40, 0x60, 0x80, 1]).unwrap();
                    frame[21] = random.u8(..4);
                } else {
                    frame[23] = *random.choice(&[1, 2, 6, 17, 47, 58, 132]).unwrap();
                }
            }
            // Time to live.
            12 => {
                let at = if is_v6 { 21 } else { 22 };
                if at < frame.len() {
                    frame[at] = random.u8(..4);
                }
            }
            // A word of the transport's head: ports, lengths, flags, checksums.
            _ => {
                let at = if is_v6 { 54 } else { 34 } + random.usize(..10) * 2;
                if at + 2 <= frame.len() {
                    let word = if random.bool() {
                        random.u16(..70)
                    } else {
                        random.u16(..)
                    };
                    frame[at..at + 2].copy_from_slice(&word.to_be_bytes());
                }
            }
        }
        if frame.len() < 15 {
            break;
        }
    }
}

fn interesting(random: &mut Rng, old: u8) -> u8 {
    match random.u32(..6) {
        0 => 0,
        1 => 0xff,
        2 => old.wrapping_add(1),
        3 => old.wrapping_sub(1),
        _ => random.u8(..),
    }
}
