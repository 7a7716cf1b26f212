// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which connections can be made one: pure, of what their sockets say.

use gateway_common::tcp_splice::{KEEP_SACK, KEEP_TIMESTAMPS, window_shift};

use crate::conn::handoff::repair::{Info, OPTION_ECN, OPTION_SACK, OPTION_TIMESTAMPS};

/// Bytes of a timestamp option with its padding, in every segment.
const TIMESTAMPS_LEN: u32 = 12;

/// How two connections fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// `KEEP_*`.
    pub keep: u32,
    /// Of the window, by direction.
    pub window_shift: [i32; 2],
}

/// Why a connection stays with the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ineligible {
    /// One side closes, or never opened.
    NotEstablished,
    /// One side sends timestamps, the other does not expect them.
    Timestamps,
    /// One side acknowledges selectively.
    Sack,
    /// One side marks congestion.
    Ecn,
    /// Segments of one side are too long for the way to the other.
    Mss,
    /// The node does not forward from one side to the other: one is IPv4 and the
    /// other IPv6, or forwarding is off.
    NotForwarded,
}

impl Ineligible {
    /// The word in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotEstablished => "not_established",
            Self::Timestamps => "timestamps",
            Self::Sack => "sack",
            Self::Ecn => "ecn",
            Self::Mss => "mss",
            Self::NotForwarded => "not_forwarded",
        }
    }
}

/// Whether the connections to `client` and `backend` can be made one.
///
/// # Errors
/// Why not: nothing of it can change.
pub fn fit(client: &Info, backend: &Info) -> Result<Fit, Ineligible> {
    if !client.is_established || !backend.is_established {
        return Err(Ineligible::NotEstablished);
    }
    let differs = |option| (client.options ^ backend.options) & option != 0;
    if differs(OPTION_TIMESTAMPS) {
        return Err(Ineligible::Timestamps);
    }
    if differs(OPTION_SACK) {
        return Err(Ineligible::Sack);
    }
    if differs(OPTION_ECN) {
        return Err(Ineligible::Ecn);
    }
    let has = |option| client.options & option != 0;
    let in_every_segment = if has(OPTION_TIMESTAMPS) {
        TIMESTAMPS_LEN
    } else {
        0
    };
    let fits = |from: &Info, to: &Info| {
        from.advertised_mss.saturating_sub(in_every_segment) <= to.send_mss
    };
    if !fits(client, backend) || !fits(backend, client) {
        return Err(Ineligible::Mss);
    }
    let keep = |option, keep| if has(option) { keep } else { 0 };
    let shift = |from: &Info, to: &Info| window_shift(from.their_scale, to.our_scale);
    Ok(Fit {
        keep: keep(OPTION_TIMESTAMPS, KEEP_TIMESTAMPS) | keep(OPTION_SACK, KEEP_SACK),
        window_shift: [shift(client, backend), shift(backend, client)],
    })
}

/// The longest segment, options included, that a connection to a backend should
/// agree upon to fit that of its client.
pub fn mss_for(client: &Info) -> u32 {
    let in_every_segment = if client.options & OPTION_TIMESTAMPS != 0 {
        TIMESTAMPS_LEN
    } else {
        0
    };
    client.send_mss + in_every_segment
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Info = Info {
        is_established: true,
        options: OPTION_TIMESTAMPS | OPTION_SACK,
        their_scale: 7,
        our_scale: 10,
        send_mss: 1448,
        advertised_mss: 1460,
    };

    #[test]
    fn alike_connections_fit() {
        let fit = fit(&PLAIN, &PLAIN).expect("they are the same");
        assert_eq!(fit.keep, KEEP_TIMESTAMPS | KEEP_SACK);
        assert_eq!(fit.window_shift, [-3, -3]);
        let bare = Info {
            options: 0,
            send_mss: 1460,
            their_scale: 0,
            our_scale: 0,
            ..PLAIN
        };
        let fit = super::fit(&bare, &bare).expect("they are the same");
        assert_eq!((fit.keep, fit.window_shift), (0, [0, 0]));
        // Scales need not agree: one is made of the other.
        let wide = Info {
            their_scale: 14,
            our_scale: 2,
            ..PLAIN
        };
        let fit = super::fit(&wide, &PLAIN).expect("only scales differ");
        assert_eq!(fit.window_shift, [4, 5]);
    }

    #[test]
    fn what_differs_keeps_them_apart() {
        let closing = Info {
            is_established: false,
            ..PLAIN
        };
        let without = |option: u8| Info {
            options: PLAIN.options & !option,
            ..PLAIN
        };
        let marking = Info {
            options: PLAIN.options | OPTION_ECN,
            ..PLAIN
        };
        let narrow = Info {
            send_mss: 1348,
            ..PLAIN
        };
        for (other, reason) in [
            (closing, Ineligible::NotEstablished),
            (without(OPTION_TIMESTAMPS), Ineligible::Timestamps),
            (without(OPTION_SACK), Ineligible::Sack),
            (marking, Ineligible::Ecn),
            (narrow, Ineligible::Mss),
        ] {
            assert_eq!(fit(&PLAIN, &other), Err(reason));
            assert_eq!(fit(&other, &PLAIN), Err(reason));
        }
        // A far end that was told to send no more than fits can be behind a
        // narrow way.
        let told = Info {
            advertised_mss: 1360,
            ..narrow
        };
        assert!(fit(&told, &told).is_ok());
    }
}
