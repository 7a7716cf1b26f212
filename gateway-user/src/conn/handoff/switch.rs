// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The moment between two sockets and one flow.
//!
//! Nothing may be lost in it, and nothing be sent twice: neither socket may hold
//! a byte, and no packet may be on its way to one. The first the sockets say.
//! For the second the kernel's programs hold every packet that comes from now
//! on, and what they have let through before is compared with what the sockets
//! have received. If it is not the same, a packet is between the two, and the
//! sockets go on as before.

use std::{
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use gateway_common::{
    flow::{DIR_TO_BACKEND, DIR_TO_CLIENT, SEEN_TIMESTAMP},
    tcp_splice::{End, KEEP_TIMESTAMPS, splice},
    tcp_state::{FLAG_ACK, FLAG_FIN, FLAG_RST, FLAG_SYN},
};

use crate::{
    conn::handoff::{
        eligible::Fit,
        repair::{self, Numbers, Repair},
    },
    datapath::handoff::{Moved, Observed, Seen},
};

/// How long the programs hold packets at most: a thousand times what it takes.
/// A thread that is put aside for longer finds the hold over.
const HOLD_NS: u64 = 5_000_000;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The kernel has the connection; the sockets are to be closed. Packets were
    /// held for so long.
    Done(Duration),
    /// It is still the sockets', and may be tried again.
    NotYet(NotYet),
    /// It ends: there is nothing to try again.
    Ending,
}

/// What stood in the way; in the order of `telemetry::counters::NOT_YET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotYet {
    /// A socket holds bytes that were received.
    Unread,
    /// Or that were not acknowledged.
    Unacknowledged,
    /// The programs have seen no packet of one side.
    Unseen,
    /// A packet was on its way before the hold,
    Early,
    /// or came between.
    Late,
    /// The hold took too long.
    Expired,
}

/// Tries to hand the connection over, which has `moved` so many bytes from the
/// client and to it. The caller holds no byte of it. Where that
/// takes a word of a far end, it is asked for one if `may_ask`; Linux answers two
/// such questions in a second (`tcp_invalid_ratelimit`).
///
/// # Errors
/// Those of the sockets; it is still theirs then.
pub fn attempt<S: AsFd>(
    client: &S,
    backend: &S,
    observed: &mut Observed,
    fit: Fit,
    moved: [u64; 2],
    may_ask: bool,
) -> io::Result<Attempt> {
    if let Some(reason) = waits(client, backend)? {
        if reason == NotYet::Unacknowledged && may_ask {
            for socket in [client, backend] {
                if repair::queued(socket)?.1 > 0 {
                    repair::poke(socket)?;
                }
            }
        }
        return Ok(Attempt::NotYet(reason));
    }
    let seen = both(observed);
    if seen.iter().any(is_ending) {
        return Ok(Attempt::Ending);
    }
    let mut wanted = FLAG_ACK;
    if fit.keep & KEEP_TIMESTAMPS != 0 {
        wanted |= SEEN_TIMESTAMP;
    }
    let mut unseen = false;
    for (socket, seen) in [client, backend].into_iter().zip(seen) {
        if seen.flags & wanted != wanted {
            unseen = true;
            if may_ask {
                repair::poke(socket)?;
            }
        }
    }
    if unseen {
        return Ok(Attempt::NotYet(NotYet::Unseen));
    }
    // Whoever waits for an acknowledgement would send again what the sockets
    // have had.
    repair::acknowledge(client)?;
    repair::acknowledge(backend)?;
    let (client_repair, backend_repair) = (Repair::begin(client)?, Repair::begin(backend)?);
    let repairs = [&client_repair, &backend_repair];
    // Before anything is held: a lost segment may keep them apart for long.
    if !agree(&numbers(repairs)?, &both(observed)) {
        return Ok(Attempt::NotYet(NotYet::Early));
    }
    observed.set_moved(&Moved {
        bytes: moved,
        packets: repair::segments(client)?,
    });
    let held_at = Instant::now();
    if !observed.hold(HOLD_NS) {
        return Ok(Attempt::NotYet(NotYet::Expired));
    }
    let held = take(client, backend, repairs, observed);
    let ends = match held {
        Ok(Ok(ends)) => ends,
        Ok(Err(attempt)) => {
            observed.release();
            return Ok(attempt);
        }
        Err(error) => {
            observed.release();
            return Err(error);
        }
    };
    let splices = splice(&ends[0], &ends[1], fit.window_shift, fit.keep);
    if !observed.activate(&splices) {
        return Ok(Attempt::NotYet(NotYet::Expired));
    }
    let hold = held_at.elapsed();
    client_repair.keep();
    backend_repair.keep();
    Ok(Attempt::Done(hold))
}

/// Reads both sockets while packets are held, and whether that is all there is.
fn take<S: AsFd>(
    client: &S,
    backend: &S,
    repairs: [&Repair<'_, S>; 2],
    observed: &Observed,
) -> io::Result<Result<[End; 2], Attempt>> {
    let numbers = numbers(repairs)?;
    let clocks = [repairs[0].timestamp()?, repairs[1].timestamp()?];
    let seen = both(observed);
    // A FIN counts in the numbers and is in no queue.
    if seen.iter().any(is_ending) {
        return Ok(Err(Attempt::Ending));
    }
    if !agree(&numbers, &seen) || waits(client, backend)?.is_some() {
        return Ok(Err(Attempt::NotYet(NotYet::Late)));
    }
    let end = |side: usize| End {
        received: numbers[side].received,
        written: numbers[side].written,
        ts_now: clocks[side],
        ts_seen: seen[side].timestamp,
    };
    Ok(Ok([end(0), end(1)]))
}

fn numbers<S: AsFd>(repairs: [&Repair<'_, S>; 2]) -> io::Result<[Numbers; 2]> {
    Ok([repairs[0].numbers()?, repairs[1].numbers()?])
}

fn both(observed: &Observed) -> [Seen; 2] {
    [observed.seen(DIR_TO_BACKEND), observed.seen(DIR_TO_CLIENT)]
}

/// Whether the sockets have received what was let through, and no more.
fn agree(numbers: &[Numbers; 2], seen: &[Seen; 2]) -> bool {
    numbers
        .iter()
        .zip(seen)
        .all(|(numbers, seen)| numbers.received == seen.seq_end)
}

/// Whether that side has begun to end, or begins anew.
fn is_ending(seen: &Seen) -> bool {
    seen.flags & (FLAG_FIN | FLAG_RST | FLAG_SYN) != 0
}

/// What the sockets hold, if anything.
fn waits<S: AsFd>(client: &S, backend: &S) -> io::Result<Option<NotYet>> {
    let queues = [repair::queued(client)?, repair::queued(backend)?];
    Ok(if queues.iter().any(|(unread, _)| *unread > 0) {
        Some(NotYet::Unread)
    } else if queues.iter().any(|(_, unacknowledged)| *unacknowledged > 0) {
        Some(NotYet::Unacknowledged)
    } else {
        None
    })
}
