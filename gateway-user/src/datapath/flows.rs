// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The flow sweeper: ends flows that are over and gives their slots back.
//!
//! Only time and the connection's own end take a flow away, never a change of
//! configuration. The order is: state DEAD, so that no packet is rewritten any
//! more; both keys out, but only where they still lead to this flow; state
//! FREE; slot into the queue. An agent that dies in between leaves a DEAD slot,
//! which the next sweep finishes, or a FREE one that is not in the queue, which
//! the audit finds.

use std::{collections::HashMap, time::Duration};

use gateway_common::{
    flow::{
        DIR_TO_BACKEND, DIR_TO_CLIENT, KIND_DSR, SLOT_ACTIVE, SLOT_CLAIMED, SLOT_CLOSING,
        SLOT_DEAD, SLOT_FREE,
    },
    tcp_state, udp_state,
};

use crate::datapath::{
    DatapathError,
    maps::Maps,
    report::{FlowTableReport, Swept},
    slots::Slot,
};

/// A program needs microseconds between claiming a slot and activating it.
const CLAIM_LIMIT: Duration = Duration::from_secs(10);

/// The sweeper's memory.
#[derive(Debug, Default)]
pub struct Sweeper {
    /// Slots found claimed, with their generation and when (ns).
    claimed: HashMap<u32, (u32, u64)>,
    audit: Audit,
    last: Swept,
    removed: u64,
}

impl Sweeper {
    /// For a flow table whose queue this agent has filled itself.
    pub fn fresh() -> Self {
        Self {
            audit: Audit::Done,
            ..Self::default()
        }
    }

    /// Looks at every slot once. `now` is the monotonic time in nanoseconds.
    ///
    /// # Errors
    /// When a map operation fails; the slot is tried again next time.
    pub fn sweep(&mut self, maps: &mut Maps, now: u64) -> Result<Swept, DatapathError> {
        let mut swept = Swept::default();
        let mut failure = None;
        let mut claimed = HashMap::new();
        for index in 0..maps.slots.len() {
            let Some(slot) = maps.slots.slot(index) else {
                break;
            };
            let state = slot.state();
            let over = match state {
                SLOT_FREE => continue,
                SLOT_DEAD => true,
                SLOT_CLAIMED => {
                    let generation = slot.generation();
                    let since = match self.claimed.get(&index) {
                        Some((seen, since)) if *seen == generation => *since,
                        _ => now,
                    };
                    claimed.insert(index, (generation, since));
                    now.saturating_sub(since) > CLAIM_LIMIT.as_nanos() as u64
                }
                _ => is_over(&slot, now),
            };
            if !over {
                match state {
                    SLOT_ACTIVE => swept.active += 1,
                    SLOT_CLOSING => swept.closing += 1,
                    _ => {}
                }
                continue;
            }
            if state != SLOT_DEAD && !slot.change_state(state, SLOT_DEAD) {
                // A program was faster; next time.
                continue;
            }
            match self.free(maps, index) {
                Ok(()) => match state {
                    SLOT_ACTIVE => swept.expired += 1,
                    SLOT_CLAIMED => swept.reclaimed += 1,
                    _ => swept.closed += 1,
                },
                Err(error) => failure = Some(error),
            }
        }
        self.claimed = claimed;
        self.last = swept;
        self.removed += u64::from(swept.closed + swept.expired + swept.reclaimed);
        let audited = self.audit.step(maps);
        match failure {
            Some(error) => Err(error),
            None => audited.map(|()| swept),
        }
    }

    /// Finishes a DEAD slot.
    fn free(&mut self, maps: &mut Maps, index: u32) -> Result<(), DatapathError> {
        let Some(slot) = maps.slots.slot(index) else {
            return Ok(());
        };
        // DEAD: no program writes keys or generation any more.
        let flow = slot.copy();
        for direction in [DIR_TO_BACKEND, DIR_TO_CLIENT] {
            let key = flow.dir[direction as usize].key;
            let found = maps.flow(&key)?;
            if found.is_some_and(|found| (found.slot, found.generation) == (index, flow.generation))
            {
                maps.remove_flow(&key)?;
            }
        }
        if let Some(slot) = maps.slots.slot(index)
            && slot.change_state(SLOT_DEAD, SLOT_FREE)
        {
            self.audit.freed(index);
            maps.push_free_slot(index)?;
        }
        Ok(())
    }

    /// For reports.
    pub fn report(&self, capacity: u32) -> FlowTableReport {
        FlowTableReport {
            capacity,
            last_sweep: self.last,
            removed: self.removed,
        }
    }
}

fn is_over(slot: &Slot, now: u64) -> bool {
    let (state, established_s, created, kind) = slot.timing();
    let seen = slot.last_seen_ns(0).max(slot.last_seen_ns(1)).max(created);
    let timeout_s = if udp_state::is_udp(state) {
        udp_state::timeout_s(state, established_s)
    } else if kind == KIND_DSR {
        tcp_state::timeout_one_sided_s(state, established_s)
    } else {
        tcp_state::timeout_s(state, established_s)
    };
    let timeout = Duration::from_secs(u64::from(timeout_s));
    now.saturating_sub(seen) > timeout.as_nanos() as u64
}

/// Queue operations in one step of the audit: about 10 ms.
const AUDIT_STEP: u32 = 16_384;

/// Finds free slots that are not in the queue, after adopting one: every slot
/// is taken out of the queue and put back once, and what never came by and
/// stays FREE is added. It is spread over several sweeps, because a queue being
/// looked at is a queue that works.
#[derive(Debug, Default)]
enum Audit {
    /// Nothing done yet.
    #[default]
    Wanted,
    /// Which slots came by.
    Running(Vec<bool>),
    /// Slots that did not come by, with their generation: one that is being
    /// claimed looks the same for an instant, so they are looked at again.
    Missing(Vec<(u32, u32)>),
    /// Nothing to do.
    Done,
}

impl Audit {
    /// A slot that the sweeper puts into the queue.
    fn freed(&mut self, index: u32) {
        if let Self::Running(seen) = self
            && let Some(seen) = seen.get_mut(index as usize)
        {
            *seen = true;
        }
    }

    fn step(&mut self, maps: &mut Maps) -> Result<(), DatapathError> {
        *self = match std::mem::replace(self, Self::Done) {
            Self::Done => return Ok(()),
            Self::Wanted => Self::Running(vec![false; maps.slots.len() as usize]),
            Self::Running(mut seen) => {
                if rotate(maps, &mut seen)? {
                    Self::Missing(missing(maps, &seen))
                } else {
                    Self::Running(seen)
                }
            }
            Self::Missing(slots) => {
                for (index, generation) in slots {
                    let lost = maps.slots.slot(index).is_some_and(|slot| {
                        slot.state() == SLOT_FREE && slot.generation() == generation
                    });
                    if lost {
                        maps.push_free_slot(index)?;
                    }
                }
                Self::Done
            }
        };
        Ok(())
    }
}

/// Moves slots from the head of the queue to its tail; true when the first of
/// them has come round.
fn rotate(maps: &mut Maps, seen: &mut [bool]) -> Result<bool, DatapathError> {
    for _ in 0..AUDIT_STEP {
        let Some(index) = maps.pop_free_slot()? else {
            return Ok(true);
        };
        // An index beyond the table is dropped: nothing could use it.
        let Some(seen) = seen.get_mut(index as usize) else {
            continue;
        };
        maps.push_free_slot(index)?;
        if std::mem::replace(seen, true) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn missing(maps: &Maps, seen: &[bool]) -> Vec<(u32, u32)> {
    (0..)
        .zip(seen)
        .filter(|(_, seen)| !**seen)
        .filter_map(|(index, _)| {
            let slot = maps.slots.slot(index)?;
            (slot.state() == SLOT_FREE).then(|| (index, slot.generation()))
        })
        .collect()
}

/// The clock of `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a timespec to write to; the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
