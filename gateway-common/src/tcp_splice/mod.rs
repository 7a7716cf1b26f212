// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two TCP connections as one: how the header of a segment of the one reads as
//! a segment of the other.
//!
//! A handed-off connection is two connections to its ends, one from the client
//! to the gateway and one from the gateway to the backend. They differ in what
//! each end chose at its start: sequence numbers, timestamp clocks, window
//! scales. All of it differs by a constant, so a segment is translated without
//! memory of those before it:
//!
//! | field | change |
//! |---|---|
//! | sequence number | + [`Splice::seq`] |
//! | acknowledgement, edges of SACK blocks (RFC 2018) | + [`Splice::ack`] |
//! | TSval, TSecr (RFC 7323 section 3.2) | + [`Splice::ts_value`], + [`Splice::ts_echo`] |
//! | window (RFC 7323 section 2.2) | shifted by [`Splice::window_shift`] |
//! | every other option | overwritten by NOP |
//!
//! Sums are modulo 2^32. The options that remain are all that two ends of an
//! open connection need; the others are either for SYN segments, or were not
//! agreed upon with the gateway, whose socket would have ignored them. The urgent
//! pointer counts from the sequence number and stays.
//!
//! Values are in host order, words of headers as they stand.

mod options;
#[cfg(test)]
mod tests;

pub use options::{Header, MAX_STEPS, Step, Walk, WalkOrder};

/// How segments of one direction change.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Splice {
    /// Added to sequence numbers.
    pub seq: u32,
    /// Added to what is said about the sequence numbers of the other direction.
    pub ack: u32,
    /// Added to the sender's timestamps.
    pub ts_value: u32,
    /// Added to the timestamps it echoes.
    pub ts_echo: u32,
    /// Bits the window is shifted to the left by; to the right when negative.
    /// -14 to 14.
    pub window_shift: i32,
    /// `KEEP_*`: options that both connections have agreed upon.
    pub keep: u32,
}

/// Timestamps are translated, not removed.
pub const KEEP_TIMESTAMPS: u32 = 1;
/// So are selective acknowledgements.
pub const KEEP_SACK: u32 = 2;

/// One of the two connections as the gateway's socket has it, at a moment when
/// all that it received went out by the other, and was acknowledged there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Sequence number expected next from the far end (`TCP_RECV_QUEUE`).
    pub received: u32,
    /// Sequence number of the next byte towards it (`TCP_SEND_QUEUE`).
    pub written: u32,
    /// The TSval a segment to it would have now (`TCP_TIMESTAMP`).
    pub ts_now: u32,
    /// The last TSval seen from it.
    pub ts_seen: u32,
}

/// How segments of both directions change; index this, and `window_shift`, with
/// [`crate::flow::DIR_TO_BACKEND`] and [`crate::flow::DIR_TO_CLIENT`].
///
/// Each end has seen the gateway's clock up to `ts_now`: what the other end sends
/// next continues one tick later, so that it never looks old (RFC 7323 section
/// 5.3).
pub fn splice(client: &End, backend: &End, window_shift: [i32; 2], keep: u32) -> [Splice; 2] {
    let seq = [
        backend.written.wrapping_sub(client.received),
        client.written.wrapping_sub(backend.received),
    ];
    let clock = |from: &End, to: &End| to.ts_now.wrapping_add(1).wrapping_sub(from.ts_seen);
    let ts = [clock(client, backend), clock(backend, client)];
    [
        Splice::new(seq, ts, window_shift[0], keep),
        Splice::new([seq[1], seq[0]], [ts[1], ts[0]], window_shift[1], keep),
    ]
}

/// Of windows that one end sends in units of `2^sent` bytes and the other takes
/// in units of `2^taken`; both 0 to 14.
pub fn window_shift(sent: u8, taken: u8) -> i32 {
    i32::from(sent) - i32::from(taken)
}

impl Splice {
    /// Of what is added to sequence numbers and to timestamps of its own direction
    /// and of the other: what is added in one is taken off where the other refers
    /// to it.
    #[inline(always)]
    pub fn new(
        [seq, other_seq]: [u32; 2],
        [ts, other_ts]: [u32; 2],
        window_shift: i32,
        keep: u32,
    ) -> Self {
        Self {
            seq,
            ack: other_seq.wrapping_neg(),
            ts_value: ts,
            ts_echo: other_ts.wrapping_neg(),
            window_shift,
            keep,
        }
    }

    /// The window field, as it stands, in units of the other scale. A window that
    /// the field cannot say is said as large as it can; one that is no multiple of
    /// the unit is rounded down, as a receiver would: nothing may be promised
    /// that is not there.
    #[inline(always)]
    pub fn window(&self, window_be: u16) -> u16 {
        let window = u32::from(u16::from_be(window_be));
        let scaled = if self.window_shift < 0 {
            window >> (self.window_shift.unsigned_abs() & 31)
        } else {
            // At most 16 bits by 14.
            window << (self.window_shift & 15)
        };
        let window = if scaled > 0xffff { 0xffff } else { scaled };
        (window as u16).to_be()
    }
}

/// A number of the header, as it stands, changed by `delta`.
#[inline(always)]
pub fn add_be(number_be: u32, delta: u32) -> u32 {
    u32::from_be(number_be).wrapping_add(delta).to_be()
}
