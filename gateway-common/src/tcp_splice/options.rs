// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The walk through the options of a TCP header (RFC 9293 section 3.1).
//!
//! In steps of at least one byte, each of which is the same code, and begins with
//! nothing but a [`Walk`]: kept where the kernel's verifier does not look, each
//! step looks to it as the one before did.

use super::{KEEP_SACK, KEEP_TIMESTAMPS, Splice, add_be};
use crate::checksum::{diff16, diff32};

/// Steps that any header's options take at most: one a byte.
pub const MAX_STEPS: u32 = 40;

/// Positions in a header are below 64.
const AT: u32 = 63;

/// End of the list; what follows is padding.
const END_OF_LIST: u8 = 0;
const NOP: u8 = 1;
/// RFC 2018 section 3.
const SACK: u8 = 5;
/// RFC 7323 section 3.2.
const TIMESTAMPS: u8 = 8;
const TIMESTAMPS_LEN: u32 = 10;

/// A TCP header in a packet. Positions count from its first byte; what is out of
/// reach is none, or is not written.
pub trait Header {
    /// One byte.
    fn byte(&self, at: u32) -> Option<u8>;
    /// Four bytes as they stand, aligned or not.
    fn word(&self, at: u32) -> Option<u32>;
    /// Writes one byte; whether it was in reach.
    fn set_byte(&mut self, at: u32, byte: u8) -> bool;
    /// Writes four bytes as they stand; whether they were in reach.
    fn set_word(&mut self, at: u32, word: u32) -> bool;
}

/// What a step has come to.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more.
    More,
    /// All options are translated.
    Done,
    /// The header ends before its length says.
    OutOfReach,
}

/// A walk on its way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// Where it is.
    at: u32,
    /// Where the options end.
    end: u32,
    /// Where the option at hand ends; `at` or less between options.
    option_end: u32,
    /// What the next word of it changes by,
    delta: u32,
    /// and all after that.
    delta_after: u32,
    /// The option is overwritten instead, unless this is 0.
    erase: u32,
    /// How the sum of the header has changed, for [`crate::checksum::apply`].
    diff: u64,
}

const _: () = assert!(size_of::<Walk>() == 32);

/// What a program leaves for the one that walks through the options of a packet,
/// and that one for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalkOrder {
    /// Where it begins, or is.
    pub walk: Walk,
    /// How the options change.
    pub splice: Splice,
    /// Offset of the TCP header in the frame, bytes.
    pub l4_offset: u32,
    /// Not 0 once it is through: until the program is there that ordered it.
    pub is_done: u32,
}

const _: () = assert!(size_of::<WalkOrder>() == 64);

impl Walk {
    /// Through the options between `start` (20) and `end`, the header's length:
    /// 20 to 60.
    #[inline(always)]
    pub fn new(start: u32, end: u32) -> Self {
        Self {
            at: start & AT,
            end: end & AT,
            option_end: start & AT,
            delta: 0,
            delta_after: 0,
            erase: 0,
            diff: 0,
        }
    }

    /// Goes through to the end. How the sum of the header has changed, to be
    /// given to [`crate::checksum::apply`]; none when a part is out of reach.
    #[inline(always)]
    pub fn through<H: Header>(mut self, header: &mut H, splice: &Splice) -> Option<u64> {
        for _ in 0..MAX_STEPS {
            match self.step(header, splice) {
                Step::More => {}
                Step::Done => break,
                Step::OutOfReach => return None,
            }
        }
        Some(self.diff)
    }

    /// How the sum of the header has changed so far; differences add up.
    #[inline(always)]
    pub fn diff(&self) -> u64 {
        self.diff
    }

    /// The next byte, word or start of an option.
    #[inline(always)]
    pub fn step<H: Header>(&mut self, header: &mut H, splice: &Splice) -> Step {
        if self.at >= self.end {
            return Step::Done;
        }
        if self.at >= self.option_end {
            let Some(kind) = header.byte(self.at) else {
                return Step::OutOfReach;
            };
            if kind == END_OF_LIST {
                return Step::Done;
            }
            if kind == NOP {
                self.at = (self.at + 1) & AT;
                return Step::More;
            }
            if !self.begin(header, splice, kind) {
                return Step::More;
            }
        }
        if self.erase != 0 {
            self.erase_byte(header)
        } else {
            self.change_word(header)
        }
    }

    /// Begins an option; whether its first byte is to be erased. A list that
    /// contradicts itself is erased from there on, as receivers read no further.
    #[inline(always)]
    fn begin<H: Header>(&mut self, header: &H, splice: &Splice, kind: u8) -> bool {
        let len = u32::from(header.byte(self.at + 1).unwrap_or(0));
        self.erase = 1;
        if len < 2 || self.at + len > self.end {
            self.option_end = self.end;
            return true;
        }
        self.option_end = (self.at + len) & AT;
        if kind == TIMESTAMPS && len == TIMESTAMPS_LEN && splice.keep & KEEP_TIMESTAMPS != 0 {
            self.delta = splice.ts_value;
            self.delta_after = splice.ts_echo;
        } else if kind == SACK && len & 7 == 2 && len > 2 && splice.keep & KEEP_SACK != 0 {
            self.delta = splice.ack;
            self.delta_after = splice.ack;
        } else {
            return true;
        }
        self.erase = 0;
        self.at = (self.at + 2) & AT;
        false
    }

    #[inline(always)]
    fn erase_byte<H: Header>(&mut self, header: &mut H) -> Step {
        let at = self.at;
        let Some(old) = header.byte(at) else {
            return Step::OutOfReach;
        };
        if !header.set_byte(at, NOP) {
            return Step::OutOfReach;
        }
        // The byte is the first or the second of its word of the sum.
        let word = |byte: u8| u16::from_ne_bytes([byte, 0]).rotate_left((at & 1) * 8);
        self.diff += diff16(word(old), word(NOP));
        self.at = (at + 1) & AT;
        Step::More
    }

    #[inline(always)]
    fn change_word<H: Header>(&mut self, header: &mut H) -> Step {
        let at = self.at;
        let Some(old) = header.word(at) else {
            return Step::OutOfReach;
        };
        let new = add_be(old, self.delta);
        if !header.set_word(at, new) {
            return Step::OutOfReach;
        }
        // At an odd position its bytes lie across the words of the sum.
        let across = |word: u32| word.rotate_left((at & 1) * 8);
        self.diff += diff32(across(old), across(new));
        self.delta = self.delta_after;
        self.at = (at + 4) & AT;
        Step::More
    }
}
