// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The flow sweeper: ends flows that are over and gives their slots back.
//!
//! Only time and the connection's own end take a flow away, or an endpoint that
//! is gone for good ([`super::peers`]), never a change of configuration. The
//! order is: state DEAD, so that no packet is rewritten any more; both keys out,
//! but only where they still lead to this flow; state FREE; slot into the
//! queue. An agent that dies in between leaves a DEAD slot, which the next sweep
//! finishes, or a FREE one that is not in the queue, which the audit finds.
//!
//! A sweep goes round the table in pieces, each of a time that the loop of the
//! agent does not notice: a table of a million slots costs no more CPU than a
//! small one, it only takes a few seconds to go round.

use std::{collections::HashMap, time::Duration};

use gateway_common::{
    flow::{
        DIR_TO_BACKEND, DIR_TO_CLIENT, FlowRef, KIND_DSR, KIND_HANDOFF, SLOT_ACTIVE, SLOT_CLAIMED,
        SLOT_CLOSING, SLOT_DEAD, SLOT_FREE, SLOT_HOLD, SLOT_OBSERVE,
    },
    tcp_state::{self, TRANSITORY_TIMEOUT_S},
    udp_state,
};

use crate::datapath::{
    DatapathError,
    account::Account,
    audit::Audit,
    maps::Maps,
    peers::{PeerCounts, Peers},
    report::{FlowTableReport, Swept},
    slots::Slot,
};

/// A program needs microseconds between claiming a slot and activating it.
const CLAIM_LIMIT: Duration = Duration::from_secs(10);
/// Time of one sweep while there is room,
const UNHURRIED: Duration = Duration::from_millis(2);
/// while endpoints that are gone are looked for,
const LOOKING: Duration = Duration::from_millis(10);
/// and while flows that have ended fill the table.
const HURRIED: Duration = Duration::from_millis(50);
/// Slots between two looks at the clock.
const STRIDE: u32 = 64;

/// The sweeper's memory.
#[derive(Debug)]
pub struct Sweeper {
    /// The slot to look at next.
    next: u32,
    /// Slots found claimed, with their generation and when (ns).
    claimed: HashMap<u32, (u32, u64)>,
    audit: Audit,
    account: Account,
    /// Of the round that is under way.
    round: Swept,
    /// Of the last whole one.
    last: Swept,
    removed: u64,
}

impl Sweeper {
    /// For a flow table that was adopted.
    pub fn new(account: Account) -> Self {
        Self {
            next: 0,
            claimed: HashMap::new(),
            audit: Audit::default(),
            account,
            round: Swept::default(),
            last: Swept::default(),
            removed: 0,
        }
    }

    /// For a flow table whose queue this agent has filled itself.
    pub fn fresh(account: Account) -> Self {
        Self {
            audit: Audit::Done,
            ..Self::new(account)
        }
    }

    /// Of the flows that were connections of an agent.
    pub fn account(&mut self) -> &mut Account {
        &mut self.account
    }

    /// Goes on round the table for as long as a sweep may take. `now` is the
    /// monotonic time in nanoseconds, coarse as that of the programs. What was
    /// done in the round so far, or in all of it when it is through.
    ///
    /// # Errors
    /// When a map operation fails; the slot is tried again in the next round.
    pub fn sweep(
        &mut self,
        maps: &mut Maps,
        peers: &mut Peers,
        now: u64,
    ) -> Result<Swept, DatapathError> {
        let start = thread_time();
        let slots = maps.slots.len();
        let used = self.last.active + self.last.closing;
        let limit = if used > slots / 2 && self.last.closing > slots / 8 {
            HURRIED
        } else if peers.is_looking() {
            LOOKING
        } else {
            UNHURRIED
        };
        let linger = linger(used, slots);
        let mut failure = None;
        peers.begin();
        let first = self.next;
        for index in first..slots {
            if index % STRIDE == 0 && index != first && thread_time() >= start + limit {
                break;
            }
            let Some(slot) = maps.slots.slot(index) else {
                // No room for another mapping now.
                break;
            };
            self.next = index + 1;
            if let Err(error) = self.visit(maps, peers, index, &slot, linger, now) {
                failure = Some(error);
            }
        }
        let round = self.round;
        if self.next >= slots {
            self.next = 0;
            self.last = round;
            self.round = Swept::default();
            peers.finish_round();
            if let Err(error) = self.account.finish_round() {
                failure = Some(error);
            }
        }
        let audited = self.audit.step(maps);
        match failure {
            Some(error) => Err(error),
            None => audited.map(|()| round),
        }
    }

    fn visit(
        &mut self,
        maps: &mut Maps,
        peers: &mut Peers,
        index: u32,
        slot: &Slot,
        linger: Duration,
        now: u64,
    ) -> Result<(), DatapathError> {
        let state = slot.state();
        if state == SLOT_FREE {
            return Ok(());
        }
        if slot.kind() == KIND_HANDOFF && state != SLOT_CLAIMED {
            self.account.visit(slot, state);
        }
        if state == SLOT_CLAIMED {
            if !self.is_stuck(index, slot.generation(), now) {
                return Ok(());
            }
        } else if state == SLOT_ACTIVE || state == SLOT_CLOSING {
            let is_over = if peers.visit(index, slot, state, now) {
                self.round.released += 1;
                return self.free(maps, index, slot, false);
            } else {
                is_over(slot, state, now, linger)
            };
            if !is_over {
                if state == SLOT_ACTIVE {
                    self.round.active += 1;
                } else {
                    self.round.closing += 1;
                }
                if slot.kind() == KIND_HANDOFF {
                    self.account.stays(slot, state);
                }
                return Ok(());
            }
        } else if state != SLOT_DEAD && !self.is_abandoned(slot, now) {
            // A thread is about to hand it off.
            return Ok(());
        }
        if state != SLOT_DEAD && !slot.change_state(state, SLOT_DEAD) {
            // A program was faster; next time.
            return Ok(());
        }
        // The keys in a slot that was claimed only may be of the flow before.
        let look_first = state == SLOT_DEAD || state == SLOT_CLAIMED;
        self.free(maps, index, slot, look_first)?;
        match state {
            SLOT_ACTIVE => {
                peers.expired(slot);
                self.round.expired += 1;
            }
            SLOT_CLAIMED | SLOT_OBSERVE | SLOT_HOLD => self.round.reclaimed += 1,
            _ => self.round.closed += 1,
        }
        Ok(())
    }

    /// Whether nobody will hand the connection off that is being observed.
    fn is_abandoned(&self, slot: &Slot, now: u64) -> bool {
        // Nothing is counted yet: when it began.
        let began = slot.last_seen_ns(0).max(slot.last_seen_ns(1));
        let limit = if self.account.is_own(slot) {
            OBSERVE_LIMIT
        } else {
            OTHERS_LIMIT
        };
        now.saturating_sub(began) > limit.as_nanos() as u64
    }

    /// Whether a claim is older than any program could be.
    fn is_stuck(&mut self, index: u32, generation: u32, now: u64) -> bool {
        let (seen, since) = self.claimed.entry(index).or_insert((generation, now));
        if *seen != generation {
            (*seen, *since) = (generation, now);
        }
        let is_stuck = now.saturating_sub(*since) > CLAIM_LIMIT.as_nanos() as u64;
        if is_stuck || self.claimed.len() > CLAIMS {
            self.claimed.remove(&index);
        }
        is_stuck
    }

    /// Finishes a DEAD slot. Unless it was a live flow until now, another flow
    /// may have its keys: they are looked at first.
    fn free(
        &mut self,
        maps: &mut Maps,
        index: u32,
        slot: &Slot,
        look_first: bool,
    ) -> Result<(), DatapathError> {
        // DEAD: no program writes keys or generation any more.
        let flow = slot.copy();
        if flow.kind == KIND_HANDOFF {
            self.account.goes(slot);
        }
        maps.counts.subtract(slot, flow.service_id);
        let own = |found: FlowRef| (found.slot, found.generation) == (index, flow.generation);
        for direction in [DIR_TO_BACKEND, DIR_TO_CLIENT] {
            if flow.kind == KIND_DSR && direction == DIR_TO_CLIENT {
                continue;
            }
            let key = flow.key(direction);
            if look_first && !maps.flows.get(&key)?.is_some_and(own) {
                continue;
            }
            if let Some(found) = maps.flows.take(&key)?
                && !own(found)
            {
                // A new flow has taken the key over just now.
                maps.flows.restore(&key, found)?;
            }
        }
        if slot.change_state(SLOT_DEAD, SLOT_FREE) {
            self.audit.freed(index);
            maps.push_free_slot(index)?;
            self.removed += 1;
        }
        Ok(())
    }

    /// For reports.
    pub fn report(&self, maps: &Maps, peers: PeerCounts) -> FlowTableReport {
        FlowTableReport {
            capacity: maps.slots.len(),
            last_sweep: self.last,
            half_open: maps.counts.half_open(),
            handoff: self.account.report(maps.parked().unwrap_or_default()),
            removed: self.removed,
            reset_endpoint_gone: peers.gone.reset,
            reset_peer_silent: peers.reset_silent,
            released_endpoint_gone: peers.gone.released,
            endpoint_removed: peers.gone.watched,
        }
    }
}

/// Claims remembered at most: there are as many under way as CPUs.
const CLAIMS: usize = 65_536;

/// A connection is observed for a few seconds before it is handed off, or is not;
/// its agent may be gone.
const OBSERVE_LIMIT: Duration = Duration::from_secs(60);
/// The same of another agent, which may be finishing what it relays: longer than
/// all tries together.
const OTHERS_LIMIT: Duration = Duration::from_secs(5);

fn is_over(slot: &Slot, state: u32, now: u64, linger: Duration) -> bool {
    let (progress, established_s, created) = slot.timing();
    let seen = slot.last_seen_ns(0).max(slot.last_seen_ns(1)).max(created);
    let timeout = if udp_state::is_udp(progress) {
        seconds(udp_state::timeout_s(progress, established_s))
    } else if slot.kind() == KIND_DSR {
        // What ends is only what was seen of it.
        seconds(tcp_state::timeout_one_sided_s(progress, established_s))
    } else if state == SLOT_CLOSING {
        linger
    } else {
        seconds(tcp_state::timeout_s(progress, established_s))
    };
    now.saturating_sub(seen) > timeout.as_nanos() as u64
}

fn seconds(number: u32) -> Duration {
    Duration::from_secs(u64::from(number))
}

/// How long flows that have ended stay: as the RFCs ask while at least half of
/// the table is free; then ever shorter, down to a second where only a tenth
/// is, so that they never keep a new flow out. Their last segments would be
/// sent again within that second.
fn linger(used: u32, capacity: u32) -> Duration {
    let most = u64::from(TRANSITORY_TIMEOUT_S) * 1_000;
    let least = 1_000;
    let (used, capacity) = (u64::from(used), u64::from(capacity));
    let (from, to) = (capacity / 2, (capacity * 9 / 10).max(1));
    let millis = if used <= from {
        most
    } else if used >= to {
        least
    } else {
        most - (most - least) * (used - from) / (to - from)
    };
    Duration::from_millis(millis)
}

/// What this thread has worked so far. A sweep is as long as its work: on a busy
/// machine time passes without any, and a table would never be gone round.
fn thread_time() -> Duration {
    let mut worked = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `worked` is a timespec to write to; every thread has the clock.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut worked) };
    Duration::new(worked.tv_sec as u64, worked.tv_nsec as u32)
}

/// The clock of `bpf_ktime_get_coarse_ns`: it goes in steps of a timer tick, so
/// that what a program saw later never has an earlier time.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a timespec to write to; the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::linger;

    #[test]
    fn flows_that_ended_linger_as_long_as_there_is_room() {
        for capacity in [16, 131_072, 4_194_304] {
            assert_eq!(linger(0, capacity), Duration::from_secs(240));
            assert_eq!(linger(capacity / 2, capacity), Duration::from_secs(240));
            assert_eq!(linger(capacity, capacity), Duration::from_secs(1));
            let mut before = linger(0, capacity);
            for tenth in 0..=10 {
                let now = linger(capacity / 10 * tenth, capacity);
                assert!(now <= before, "{tenth} tenths of {capacity}: {now:?}");
                before = now;
            }
        }
        assert_eq!(linger(70_000, 100_000), Duration::from_millis(120_500));
    }
}
