// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Counters of one worker thread. Each thread has its own, so that counting
//! never contends; `/metrics` adds them up.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::{
    access::{CloseReason, Mode},
    histogram::Histogram,
};

/// Counters of one worker.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Connections accepted.
    pub opened: Counter,
    /// Connections ended, by mode then reason.
    pub closed: [[Counter; CloseReason::ALL.len()]; MODES.len()],
    /// Bytes from clients.
    pub bytes_in: Counter,
    /// Bytes to clients.
    pub bytes_out: Counter,
    /// Requests answered, by status class (1xx to 5xx at 0 to 4).
    pub responses: [Counter; 5],
    /// Requests the validator refused.
    pub bad_requests: Counter,
    /// Connections from their client's address, where their cluster wants it.
    pub client_source: Counter,
    /// From the node's instead, by the number of the reason.
    pub node_source: [Counter; NODE_SOURCES],
    /// Connections handed to the kernel.
    pub handoff: HandoffCounters,
    /// Upstream connections opened for HTTP.
    pub upstream_opened: Counter,
    /// Requests served on a pooled upstream connection.
    pub upstream_reused: Counter,
}

/// What became of connections that could be handed to the kernel; those that were
/// are closed for [`CloseReason::HandedOff`].
#[derive(Debug, Default)]
pub struct HandoffCounters {
    /// Began to be observed.
    pub begun: Counter,
    /// Attempts that found it not ready, by why.
    pub not_yet: [Counter; NOT_YET.len()],
    /// Never quiet for long enough, this time.
    pub gave_up: Counter,
    /// That cannot be handed off, by why.
    pub ineligible: [Counter; INELIGIBLE.len()],
    /// The flow table had no room.
    pub table_full: Counter,
    /// The flow table still had an earlier connection with the same ports.
    pub ports_taken: Counter,
    /// The kernel refused otherwise.
    pub failed: Counter,
    /// How long packets were held, of those handed off.
    pub holds: Histogram,
}

/// Reasons of [`WorkerCounters::node_source`].
pub const NODE_SOURCES: usize = 6;

/// Labels of [`HandoffCounters::not_yet`].
pub const NOT_YET: [&str; 6] = [
    "unread",
    "unacknowledged",
    "unseen",
    "early",
    "late",
    "expired",
];

/// Labels of [`HandoffCounters::ineligible`].
pub const INELIGIBLE: [&str; 6] = [
    "not_established",
    "timestamps",
    "sack",
    "ecn",
    "mss",
    "not_forwarded",
];

/// Modes in the order of [`WorkerCounters::closed`].
pub const MODES: [Mode; 6] = [
    Mode::Forward,
    Mode::Passthrough,
    Mode::TerminateTcp,
    Mode::TerminateHttp,
    Mode::PlainHttp,
    Mode::Refused,
];

impl WorkerCounters {
    /// Counts the end of a connection.
    pub fn count_close(&self, mode: Mode, reason: CloseReason) {
        self.closed[mode as usize][reason as usize].add(1);
    }

    /// Counts a response.
    pub fn count_response(&self, status: u16) {
        if let Some(class) = self
            .responses
            .get(usize::from(status / 100).wrapping_sub(1))
        {
            class.add(1);
        }
    }
}

/// A monotonic count.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
