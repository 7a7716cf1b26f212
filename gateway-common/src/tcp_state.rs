// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How far a tracked TCP connection has come, as seen in the middle.
//!
//! Timeouts follow RFC 5382: an established connection is kept at least
//! 2 hours 4 minutes idle (REQ-5), a half-open or closing one 4 minutes.

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
/// The backend answered with SYN and ACK.
pub const TCP_SYN_RECEIVED: u32 = 1;
/// The client acknowledged.
pub const TCP_ESTABLISHED: u32 = 2;
/// One side sent FIN.
pub const TCP_FIN_WAIT: u32 = 3;
/// Both sides sent FIN.
pub const TCP_CLOSING: u32 = 4;
/// A side sent RST.
pub const TCP_RESET: u32 = 5;

/// Whether a segment with `flags` opens a connection: a SYN that is no answer,
/// and no reset, which opens nothing (RFC 9293 section 3.10.7.2).
#[inline(always)]
pub const fn opens(flags: u32) -> bool {
    flags & (FLAG_SYN | FLAG_ACK | FLAG_RST) == FLAG_SYN
}

/// The state after a packet with `flags` in direction `direction`
/// ([`crate::flow::DIR_TO_BACKEND`] or [`crate::flow::DIR_TO_CLIENT`]);
/// `other_flags` are those seen so far in the other direction. The programs take
/// it only when it is higher than `state`: states never fall.
#[inline(always)]
pub fn next(state: u32, flags: u32, direction: u32, other_flags: u32) -> u32 {
    if flags & FLAG_RST != 0 {
        return TCP_RESET;
    }
    if flags & FLAG_FIN != 0 {
        return if other_flags & FLAG_FIN != 0 {
            TCP_CLOSING
        } else {
            TCP_FIN_WAIT
        };
    }
    match state {
        TCP_SYN_SENT if direction == 1 && flags & FLAG_SYN != 0 && flags & FLAG_ACK != 0 => {
            TCP_SYN_RECEIVED
        }
        TCP_SYN_RECEIVED if direction == 0 && flags & FLAG_SYN == 0 && flags & FLAG_ACK != 0 => {
            TCP_ESTABLISHED
        }
        _ => state,
    }
}

/// The state after a packet with `flags` from the client of a flow whose backend
/// answers past this node: nothing but the client's word for it.
#[inline(always)]
pub fn next_one_sided(state: u32, flags: u32) -> u32 {
    if flags & FLAG_RST != 0 {
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
        TCP_SYN_SENT | TCP_SYN_RECEIVED => 240,
        // A half-closed connection may go on for long in its open direction.
        TCP_ESTABLISHED | TCP_FIN_WAIT => {
            if established_s == 0 {
                ESTABLISHED_TIMEOUT_S
            } else {
                established_s
            }
        }
        // As long as a TIME_WAIT of the endpoints (2 MSL, RFC 9293 3.4.2).
        TCP_CLOSING => 60,
        _ => 10,
    }
}

/// Default idle timeout of established flows: 2 h 4 min (RFC 5382 REQ-5).
pub const ESTABLISHED_TIMEOUT_S: u32 = 7_440;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{DIR_TO_BACKEND, DIR_TO_CLIENT};

    const SYN_ACK: u32 = FLAG_SYN | FLAG_ACK;
    const FIN_ACK: u32 = FLAG_FIN | FLAG_ACK;

    #[test]
    fn each_step_of_a_connection() {
        // state, direction, flags, flags seen in the other direction, next
        let steps = [
            (TCP_SYN_SENT, DIR_TO_BACKEND, FLAG_SYN, 0, TCP_SYN_SENT),
            (TCP_SYN_SENT, DIR_TO_BACKEND, FLAG_ACK, 0, TCP_SYN_SENT),
            (TCP_SYN_SENT, DIR_TO_CLIENT, FLAG_ACK, 0, TCP_SYN_SENT),
            (
                TCP_SYN_SENT,
                DIR_TO_CLIENT,
                SYN_ACK,
                FLAG_SYN,
                TCP_SYN_RECEIVED,
            ),
            (TCP_SYN_SENT, DIR_TO_BACKEND, SYN_ACK, 0, TCP_SYN_SENT),
            (
                TCP_SYN_RECEIVED,
                DIR_TO_CLIENT,
                FLAG_ACK,
                0,
                TCP_SYN_RECEIVED,
            ),
            (
                TCP_SYN_RECEIVED,
                DIR_TO_BACKEND,
                FLAG_SYN,
                0,
                TCP_SYN_RECEIVED,
            ),
            (
                TCP_SYN_RECEIVED,
                DIR_TO_BACKEND,
                FLAG_ACK,
                SYN_ACK,
                TCP_ESTABLISHED,
            ),
            (
                TCP_ESTABLISHED,
                DIR_TO_BACKEND,
                FLAG_SYN,
                SYN_ACK,
                TCP_ESTABLISHED,
            ),
            (
                TCP_ESTABLISHED,
                DIR_TO_CLIENT,
                FLAG_ACK,
                FLAG_ACK,
                TCP_ESTABLISHED,
            ),
            (
                TCP_ESTABLISHED,
                DIR_TO_BACKEND,
                FIN_ACK,
                FLAG_ACK,
                TCP_FIN_WAIT,
            ),
            (
                TCP_FIN_WAIT,
                DIR_TO_BACKEND,
                FIN_ACK,
                FLAG_ACK,
                TCP_FIN_WAIT,
            ),
            (TCP_FIN_WAIT, DIR_TO_CLIENT, FLAG_ACK, FIN_ACK, TCP_FIN_WAIT),
            (TCP_FIN_WAIT, DIR_TO_CLIENT, FIN_ACK, FIN_ACK, TCP_CLOSING),
            (TCP_CLOSING, DIR_TO_BACKEND, FLAG_ACK, FIN_ACK, TCP_CLOSING),
        ];
        for (state, direction, flags, other, expected) in steps {
            assert_eq!(
                next(state, flags, direction, other),
                expected,
                "state {state}, direction {direction}, flags {flags:#x}, other {other:#x}"
            );
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
        ] {
            state = next_one_sided(state, flags);
            assert_eq!(state, expected, "{flags:#x}");
        }
        assert_eq!(timeout_one_sided_s(TCP_CLOSING, 5), 120);
        assert_eq!(timeout_one_sided_s(TCP_ESTABLISHED, 5), 5);
    }

    #[test]
    fn a_reset_ends_any_state() {
        for state in TCP_SYN_SENT..=TCP_RESET {
            for direction in [DIR_TO_BACKEND, DIR_TO_CLIENT] {
                for flags in [FLAG_RST, FLAG_RST | FLAG_ACK, FLAG_RST | FLAG_FIN] {
                    assert_eq!(next(state, flags, direction, 0), TCP_RESET);
                }
            }
        }
    }

    #[test]
    fn timeouts_are_those_of_rfc_5382_or_the_service() {
        assert_eq!(timeout_s(TCP_SYN_SENT, 5), 240);
        assert_eq!(timeout_s(TCP_SYN_RECEIVED, 5), 240);
        assert_eq!(timeout_s(TCP_ESTABLISHED, 0), 7_440);
        assert_eq!(timeout_s(TCP_ESTABLISHED, 900), 900);
        assert_eq!(timeout_s(TCP_FIN_WAIT, 900), 900);
        assert_eq!(timeout_s(TCP_CLOSING, 900), 60);
        assert_eq!(timeout_s(TCP_RESET, 900), 10);
    }
}
