// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How far a tracked TCP connection has come, as seen in the middle.
//!
//! The states are those of RFC 6146 section 3.5.2, which RFC 7857 section 2
//! asks of every NAT, and three more for what an operator wants to tell apart.
//! Sequence numbers are used where a mistake would cost a connection, and only
//! there: to tell a reset that its receiver takes from one that anybody can
//! send (RFC 5961 section 3.2).
//!
//! | state | idle timeout | from |
//! |---|---|---|
//! | SYN_SENT, SYN_RECEIVED | 4 min | RFC 5382 REQ-5 (partially open) |
//! | ESTABLISHED, FIN_WAIT | 2 h 4 min, or the service's | RFC 5382 REQ-5 |
//! | RESET_UNCONFIRMED | 4 min | RFC 7857 section 2.2 |
//! | CLOSING, RESET | 4 min; less when the table fills | RFC 5382 REQ-5 (closing), RFC 7857 section 2.2 |

/// FIN of the TCP header's flag byte.
pub const FLAG_FIN: u32 = 0x01;
/// SYN.
pub const FLAG_SYN: u32 = 0x02;
/// RST.
pub const FLAG_RST: u32 = 0x04;
/// ACK.
pub const FLAG_ACK: u32 = 0x10;

/// A SYN went to the backend.
pub const TCP_SYN_SENT: u32 = 0;
/// The backend answered with a SYN of its own.
pub const TCP_SYN_RECEIVED: u32 = 1;
/// A RST came by whose number its receiver may not take. What comes after it
/// shows that the connection lives on (RFC 7857 section 2.2).
pub const TCP_RESET_UNCONFIRMED: u32 = 2;
/// The client acknowledged.
pub const TCP_ESTABLISHED: u32 = 3;
/// One side sent FIN.
pub const TCP_FIN_WAIT: u32 = 4;
/// Both sides sent FIN.
pub const TCP_CLOSING: u32 = 5;
/// A side sent a RST that the other one takes.
pub const TCP_RESET: u32 = 6;

/// Whether a segment with `flags` opens a connection: a SYN that is no answer,
/// and no reset, which opens nothing (RFC 9293 section 3.10.7.2).
#[inline(always)]
pub const fn opens(flags: u32) -> bool {
    flags & (FLAG_SYN | FLAG_ACK | FLAG_RST) == FLAG_SYN
}

/// What of a segment, and of those before it, decides about the next state.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Flags of the segment.
    pub flags: u32,
    /// [`crate::flow::DIR_TO_BACKEND`] or [`crate::flow::DIR_TO_CLIENT`].
    pub direction: u32,
    /// Flags seen so far in this direction, those of the segment included.
    pub own_flags: u32,
    /// Flags seen so far in the other direction.
    pub other_flags: u32,
    /// Whether a RST is one that its receiver takes, by [`takes_reset`].
    pub is_taken: bool,
}

/// The state after `segment`. [`TCP_CLOSING`] and [`TCP_RESET`] are ends: a
/// connection that follows on the same tuple is another flow.
#[inline(always)]
pub fn next(state: u32, segment: &Segment) -> u32 {
    let Segment {
        flags,
        direction,
        own_flags,
        other_flags,
        is_taken,
    } = *segment;
    if state >= TCP_CLOSING {
        return state;
    }
    if flags & FLAG_RST != 0 {
        return if is_taken {
            TCP_RESET
        } else if state < TCP_RESET_UNCONFIRMED {
            // Their timeout is that of a reset already.
            state
        } else {
            TCP_RESET_UNCONFIRMED
        };
    }
    if state == TCP_SYN_SENT {
        // Nothing of the backend, nothing open: a FIN alone holds no slot for
        // hours. A SYN without ACK is a simultaneous open (RFC 9293 section
        // 3.5, figure 8).
        return if direction == 1 && flags & FLAG_SYN != 0 {
            TCP_SYN_RECEIVED
        } else {
            state
        };
    }
    let is_fin = flags & FLAG_FIN != 0;
    if is_fin && other_flags & FLAG_FIN != 0 {
        return TCP_CLOSING;
    }
    let is_open = match state {
        TCP_SYN_RECEIVED => is_fin || direction == 0 && flags & FLAG_ACK != 0,
        // A SYN says nothing about the connection that was.
        TCP_RESET_UNCONFIRMED => is_fin || flags & FLAG_SYN == 0,
        _ => true,
    };
    if !is_open {
        state
    } else if (own_flags | other_flags) & FLAG_FIN != 0 {
        TCP_FIN_WAIT
    } else {
        TCP_ESTABLISHED
    }
}

/// Whether the receiver of a RST takes it, as far as can be told in the middle.
///
/// It does when the number is the very one it expects next (RFC 5961 section
/// 3.2), which is what it acknowledged last: `peer_ack`, none before its first
/// acknowledgement. In reply to a SYN it does when the RST acknowledges that:
/// `peer_seq_end` follows it (RFC 9293 section 3.10.7.3). Nobody who cannot see
/// the connection knows these numbers; the ones that the sender of the RST has
/// sent before prove nothing, for a forger can have sent them too.
#[inline(always)]
pub fn takes_reset(
    state: u32,
    seq: u32,
    ack: Option<u32>,
    peer_ack: Option<u32>,
    peer_seq_end: u32,
) -> bool {
    match peer_ack {
        Some(expected) => seq == expected,
        None => state == TCP_SYN_SENT && ack == Some(peer_seq_end),
    }
}

/// The state after a packet with `flags` from the client of a flow whose backend
/// answers past this node: nothing but the client's word for it.
#[inline(always)]
pub fn next_one_sided(state: u32, flags: u32) -> u32 {
    if state == TCP_RESET || flags & FLAG_RST != 0 {
        TCP_RESET
    } else if flags & FLAG_FIN != 0 {
        TCP_CLOSING
    } else if flags & FLAG_SYN == 0 && flags & FLAG_ACK != 0 && state < TCP_ESTABLISHED {
        TCP_ESTABLISHED
    } else {
        state
    }
}

/// As [`timeout_s`], for such a flow: its backend may have more to send after the
/// client's FIN, of which only acknowledgements are seen.
pub const fn timeout_one_sided_s(state: u32, established_s: u32) -> u32 {
    match state {
        TCP_CLOSING => 120,
        _ => timeout_s(state, established_s),
    }
}

/// Seconds a flow may be idle in `state`; `established_s` of the service, or 0
/// for the default.
pub const fn timeout_s(state: u32, established_s: u32) -> u32 {
    match state {
        // A half-closed connection may go on for long in its open direction.
        TCP_ESTABLISHED | TCP_FIN_WAIT => {
            if established_s == 0 {
                ESTABLISHED_TIMEOUT_S
            } else {
                established_s
            }
        }
        _ => TRANSITORY_TIMEOUT_S,
    }
}

/// Default idle timeout of established flows: 2 h 4 min (RFC 5382 REQ-5).
pub const ESTABLISHED_TIMEOUT_S: u32 = 7_440;

/// Idle timeout of flows that open or close: 4 min (RFC 5382 REQ-5, RFC 7857
/// sections 2.1 and 2.2).
pub const TRANSITORY_TIMEOUT_S: u32 = 240;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{DIR_TO_BACKEND, DIR_TO_CLIENT};

    const SYN_ACK: u32 = FLAG_SYN | FLAG_ACK;
    const FIN_ACK: u32 = FLAG_FIN | FLAG_ACK;
    const RST_ACK: u32 = FLAG_RST | FLAG_ACK;

    /// Takes segments (direction, flags) from the first SYN on; a RST with ACK
    /// is one that is taken.
    fn after(segments: &[(u32, u32)]) -> u32 {
        let mut state = TCP_SYN_SENT;
        let mut seen = [FLAG_SYN, 0];
        for &(direction, flags) in segments {
            seen[direction as usize] |= flags;
            state = next(
                state,
                &Segment {
                    flags,
                    direction,
                    own_flags: seen[direction as usize],
                    other_flags: seen[direction as usize ^ 1],
                    is_taken: flags == RST_ACK,
                },
            );
        }
        state
    }

    const C: u32 = DIR_TO_BACKEND;
    const B: u32 = DIR_TO_CLIENT;
    const OPEN: [(u32, u32); 2] = [(B, SYN_ACK), (C, FLAG_ACK)];

    #[test]
    fn each_way_a_connection_can_take() {
        let ways: [(&[(u32, u32)], u32); 28] = [
            // Opening.
            (&[], TCP_SYN_SENT),
            (&[(C, FLAG_SYN), (C, FLAG_SYN)], TCP_SYN_SENT),
            (&[(C, FLAG_ACK), (B, FLAG_ACK)], TCP_SYN_SENT),
            (&[(C, FIN_ACK)], TCP_SYN_SENT),
            (&[(B, SYN_ACK)], TCP_SYN_RECEIVED),
            (
                &[(B, SYN_ACK), (B, SYN_ACK), (C, FLAG_SYN)],
                TCP_SYN_RECEIVED,
            ),
            (&[(B, SYN_ACK), (B, FLAG_ACK)], TCP_SYN_RECEIVED),
            (&OPEN, TCP_ESTABLISHED),
            // Both at once.
            (&[(B, FLAG_SYN)], TCP_SYN_RECEIVED),
            (
                &[(B, FLAG_SYN), (C, SYN_ACK), (B, SYN_ACK)],
                TCP_ESTABLISHED,
            ),
            // The client's ACK was lost, its FIN was not.
            (&[(B, SYN_ACK), (C, FIN_ACK)], TCP_FIN_WAIT),
            (&[(C, FIN_ACK), (B, SYN_ACK), (C, FLAG_ACK)], TCP_FIN_WAIT),
            // Open, and a SYN that does not belong to it.
            (&[OPEN[0], OPEN[1], (B, FLAG_ACK)], TCP_ESTABLISHED),
            (&[OPEN[0], OPEN[1], (C, FLAG_SYN)], TCP_ESTABLISHED),
            (
                &[OPEN[0], OPEN[1], (C, FLAG_SYN), (B, SYN_ACK)],
                TCP_ESTABLISHED,
            ),
            // Half closed, for as long as the other half likes.
            (&[OPEN[0], OPEN[1], (C, FIN_ACK)], TCP_FIN_WAIT),
            (
                &[OPEN[0], OPEN[1], (C, FIN_ACK), (C, FIN_ACK)],
                TCP_FIN_WAIT,
            ),
            (
                &[OPEN[0], OPEN[1], (B, FIN_ACK), (C, FLAG_ACK)],
                TCP_FIN_WAIT,
            ),
            // Closed, by either first; nothing opens it again.
            (&[OPEN[0], OPEN[1], (C, FIN_ACK), (B, FIN_ACK)], TCP_CLOSING),
            (&[OPEN[0], OPEN[1], (B, FIN_ACK), (C, FIN_ACK)], TCP_CLOSING),
            (
                &[
                    OPEN[0],
                    OPEN[1],
                    (B, FIN_ACK),
                    (C, FIN_ACK),
                    (B, FLAG_ACK),
                    (C, RST_ACK),
                ],
                TCP_CLOSING,
            ),
            // Reset: taken, or perhaps not.
            (&[(B, RST_ACK), (C, FIN_ACK), (B, FIN_ACK)], TCP_RESET),
            (&[OPEN[0], OPEN[1], (C, RST_ACK), (B, FLAG_ACK)], TCP_RESET),
            (&[OPEN[0], OPEN[1], (C, FLAG_RST)], TCP_RESET_UNCONFIRMED),
            (
                &[OPEN[0], OPEN[1], (C, FLAG_RST), (C, FLAG_SYN)],
                TCP_RESET_UNCONFIRMED,
            ),
            (
                &[OPEN[0], OPEN[1], (C, FLAG_RST), (B, FLAG_ACK)],
                TCP_ESTABLISHED,
            ),
            (
                &[OPEN[0], OPEN[1], (C, FIN_ACK), (B, FLAG_RST), (B, FLAG_ACK)],
                TCP_FIN_WAIT,
            ),
            (
                &[OPEN[0], OPEN[1], (C, FIN_ACK), (B, FLAG_RST), (B, FIN_ACK)],
                TCP_CLOSING,
            ),
        ];
        for (segments, expected) in ways {
            assert_eq!(after(segments), expected, "{segments:?}");
        }
        for opening in [&[][..], &OPEN[..1]] {
            let state = after(opening);
            assert_eq!(after(&[opening, &[(B, FLAG_RST)]].concat()), state);
            assert_eq!(after(&[opening, &[(B, RST_ACK)]].concat()), TCP_RESET);
        }
    }

    #[test]
    fn only_a_plain_syn_opens() {
        for flags in 0..=0xff {
            let plain = flags & (FLAG_SYN | FLAG_ACK | FLAG_RST) == FLAG_SYN;
            assert_eq!(opens(flags), plain, "{flags:#x}");
        }
        assert!(opens(FLAG_SYN | 0xc0) && !opens(FLAG_SYN | FLAG_RST) && !opens(SYN_ACK));
    }

    #[test]
    fn one_side_is_followed_by_the_clients_word() {
        let mut state = TCP_SYN_SENT;
        for (flags, expected) in [
            (FLAG_SYN, TCP_SYN_SENT),
            (FLAG_ACK, TCP_ESTABLISHED),
            (FLAG_ACK, TCP_ESTABLISHED),
            (FLAG_FIN | FLAG_ACK, TCP_CLOSING),
            (FLAG_ACK, TCP_CLOSING),
            (FLAG_RST, TCP_RESET),
            (FLAG_FIN | FLAG_ACK, TCP_RESET),
        ] {
            state = next_one_sided(state, flags);
            assert_eq!(state, expected, "{flags:#x}");
        }
        assert_eq!(timeout_one_sided_s(TCP_CLOSING, 5), 120);
        assert_eq!(timeout_one_sided_s(TCP_ESTABLISHED, 5), 5);
    }

    #[test]
    fn a_reset_is_taken_with_the_number_that_is_expected() {
        for state in TCP_SYN_SENT..TCP_CLOSING {
            assert!(takes_reset(state, 7, None, Some(7), 0));
            for seq in [6, 8, 0, u32::MAX] {
                assert!(!takes_reset(state, seq, Some(7), Some(7), 7));
            }
        }
        assert!(takes_reset(TCP_SYN_SENT, 0, Some(7), None, 7));
        assert!(!takes_reset(TCP_SYN_SENT, 7, Some(8), None, 7));
        assert!(!takes_reset(TCP_SYN_SENT, 7, None, None, 7));
        assert!(!takes_reset(TCP_SYN_RECEIVED, 0, Some(7), None, 7));
    }

    #[test]
    fn timeouts_are_those_of_the_rfcs_or_the_service() {
        for state in [
            TCP_SYN_SENT,
            TCP_SYN_RECEIVED,
            TCP_RESET_UNCONFIRMED,
            TCP_CLOSING,
            TCP_RESET,
        ] {
            assert_eq!(timeout_s(state, 5), 240);
            assert_eq!(timeout_s(state, 0), 240);
        }
        for state in [TCP_ESTABLISHED, TCP_FIN_WAIT] {
            assert_eq!(timeout_s(state, 0), 7_440);
            assert_eq!(timeout_s(state, 900), 900);
        }
    }
}
