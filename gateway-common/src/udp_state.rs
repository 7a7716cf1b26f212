// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How far a UDP session has come, as seen in the middle.
//!
//! Timeouts follow RFC 4787 REQ-5: a mapping is kept at least 2 minutes idle,
//! 5 minutes are recommended. Packets of either direction refresh it (REQ-6 asks
//! for those of one; the other one is the reply that was waited for).
//!
//! The numbers are disjoint from those of [`crate::tcp_state`].

/// Only the client has sent.
pub const UDP_ONE_WAY: u32 = 16;
/// The backend has answered.
pub const UDP_TWO_WAY: u32 = 17;

/// Idle timeout of a session without an answer, seconds (REQ-5).
pub const ONE_WAY_TIMEOUT_S: u32 = 120;
/// Default idle timeout of a session with one, seconds (REQ-5 c).
pub const TWO_WAY_TIMEOUT_S: u32 = 300;

/// Whether `state` is one of these.
pub const fn is_udp(state: u32) -> bool {
    state >= UDP_ONE_WAY
}

/// Seconds a session may be idle in `state`; `service_s` of the service, or 0
/// for the default. What a service sets holds for both states: RFC 4787 REQ-5 a
/// allows less for ports whose protocol is known, as that of DNS.
pub const fn timeout_s(state: u32, service_s: u32) -> u32 {
    if service_s != 0 {
        service_s
    } else if state == UDP_TWO_WAY {
        TWO_WAY_TIMEOUT_S
    } else {
        ONE_WAY_TIMEOUT_S
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp_state::TCP_RESET;

    #[test]
    fn timeouts_are_those_of_rfc_4787_or_the_service() {
        assert_eq!(timeout_s(UDP_ONE_WAY, 0), 120);
        assert_eq!(timeout_s(UDP_TWO_WAY, 0), 300);
        assert_eq!(timeout_s(UDP_ONE_WAY, 20), 20);
        assert_eq!(timeout_s(UDP_TWO_WAY, 20), 20);
    }

    #[test]
    fn no_state_of_tcp_is_taken_for_one() {
        assert!(!is_udp(TCP_RESET));
        assert!(is_udp(UDP_ONE_WAY) && is_udp(UDP_TWO_WAY));
    }
}
