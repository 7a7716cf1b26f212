// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two connections of the agent that are one flow, or are about to be. Until
//! they are, their packets are the sockets', and what they say is noted down;
//! for a moment they are nobody's; then what one end sends is told to the other
//! in the numbers that the agent's socket had used there (RFC 9293 section 3.1,
//! RFC 7323 sections 2.2 and 3.2, RFC 2018 section 3).

use gateway_common::{
    drop_reason::DropReason,
    flow::{SLOT_HOLD, SLOT_OBSERVE},
    tcp_state::{FLAG_ACK, FLAG_FIN, FLAG_RST, FLAG_SYN},
};

use super::{
    Fate, PASS,
    flow::{Found, Table},
    parse::{Ip, Transport},
};

/// What a slot of such a connection has besides; arrays are by direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splicing {
    /// Added to sequence numbers,
    pub seq: [u32; 2],
    /// and to timestamps.
    pub timestamp: [u32; 2],
    /// Bits that windows are shifted to the left by.
    pub window_shift: [i32; 2],
    /// Whether both ends have agreed upon these options; else they are removed.
    pub timestamps: bool,
    pub sack: bool,
    /// The time of a hold is over.
    pub is_over: bool,
    /// The last timestamp that was noted down.
    pub seen: [Option<u32>; 2],
}

impl Table {
    /// Whether packets of a live flow go to sockets of the agent.
    pub fn is_of_sockets(&self, found: Found) -> bool {
        [SLOT_OBSERVE, SLOT_HOLD].contains(&self.slot(found).state)
    }

    /// A packet of a flow that [`Table::is_of_sockets`].
    pub fn note(&mut self, found: Found, frame: &[u8], ip: &Ip, transport: &Transport) -> Fate {
        let at = ip.l4;
        let slot = self.slots.get_mut(&found.slot).unwrap();
        let splicing = slot.splicing.as_mut().unwrap();
        // What no socket takes says nothing; nor does a fragment without header.
        let says_nothing = ip.is_cut || !transport.agrees || transport.flags == 0;
        let has = |flag: u32| transport.flags & flag != 0;
        if slot.state == SLOT_HOLD {
            // A reset that is dropped is not sent again.
            if !splicing.is_over && (says_nothing || !has(FLAG_RST)) {
                return Fate::Drop(DropReason::HandoffHold);
            }
            slot.state = SLOT_OBSERVE;
        }
        if says_nothing {
            return PASS;
        }
        let end = transport
            .seq
            .wrapping_add(transport.payload_len as u32)
            .wrapping_add(u32::from(has(FLAG_SYN)) + u32::from(has(FLAG_FIN)));
        let dir = &mut slot.dir[found.way];
        if !dir.acknowledges || end.wrapping_sub(dir.seq_end).cast_signed() > 0 {
            dir.seq_end = end;
        }
        if has(FLAG_ACK) {
            dir.ack = transport.ack;
            dir.acknowledges = true;
        }
        dir.flags |= transport.flags & (FLAG_FIN | FLAG_SYN | FLAG_RST);
        // Where RFC 7323 appendix A recommends it to be, and nearly always is.
        let header = usize::from(frame[at + 12] >> 4) * 4;
        let usual = [1, 1, 8, 10];
        if header >= 32 && frame[at + 20..][..4] == usual {
            splicing.seen[found.way] = Some(number(frame, at + 24));
        }
        PASS
    }
}

impl Splicing {
    /// What is added to the number that an error quotes, to have it as its sender
    /// knows it; the error travels in direction `way`.
    pub fn quoted(&self, way: usize) -> u32 {
        self.seq[way ^ 1].wrapping_neg()
    }

    /// Translates the TCP header at `at`, but for its ports and its checksum.
    pub fn translate(&self, frame: &mut [u8], at: usize, way: usize) {
        let back = |numbers: [u32; 2]| numbers[way ^ 1].wrapping_neg();
        add(frame, at + 4, self.seq[way]);
        add(frame, at + 8, back(self.seq));
        let window = u64::from(u16::from_be_bytes([frame[at + 14], frame[at + 15]]));
        let shift = self.window_shift[way];
        let scaled = if shift < 0 {
            window >> -shift
        } else {
            window << shift
        };
        let window = u16::try_from(scaled).unwrap_or(u16::MAX);
        frame[at + 14..][..2].copy_from_slice(&window.to_be_bytes());
        let end = at + usize::from(frame[at + 12] >> 4) * 4;
        let mut next = at + 20;
        while next < end {
            let kind = frame[next];
            if kind == 0 {
                return;
            }
            if kind == 1 {
                next += 1;
                continue;
            }
            let len = if next + 1 < end {
                usize::from(frame[next + 1])
            } else {
                0
            };
            // What cannot be read is removed with all that follows.
            let readable = len >= 2 && next + len <= end;
            let option_end = if readable { next + len } else { end };
            match (kind, len) {
                (8, 10) if readable && self.timestamps => {
                    add(frame, next + 2, self.timestamp[way]);
                    add(frame, next + 6, back(self.timestamp));
                }
                (5, 10 | 18 | 26 | 34) if readable && self.sack => {
                    for edge in (next + 2..option_end).step_by(4) {
                        add(frame, edge, back(self.seq));
                    }
                }
                _ => frame[next..option_end].fill(1),
            }
            next = option_end;
        }
    }
}

fn number(frame: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(frame[at..at + 4].try_into().unwrap())
}

/// Adds to the number at `at`, modulo 2^32.
pub fn add(frame: &mut [u8], at: usize, delta: u32) {
    let sum = number(frame, at).wrapping_add(delta);
    frame[at..at + 4].copy_from_slice(&sum.to_be_bytes());
}
