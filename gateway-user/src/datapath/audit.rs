// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finds free slots of the flow table that are in nobody's hands, after
//! adopting one from an agent that died.

use gateway_common::flow::SLOT_FREE;

use crate::datapath::{DatapathError, maps::Maps};

/// Queue operations in one step of the audit: about 10 ms.
const AUDIT_STEP: u32 = 16_384;

/// The search for free slots that are not in the queue: every slot
/// is taken out of the queue and put back once, and what never came by and
/// stays FREE is added. It is spread over several sweeps, because a queue being
/// looked at is a queue that works.
#[derive(Debug, Default)]
pub enum Audit {
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
    pub fn freed(&mut self, index: u32) {
        if let Self::Running(seen) = self
            && let Some(seen) = seen.get_mut(index as usize)
        {
            *seen = true;
        }
    }

    /// Goes on a little; nothing when it is done.
    ///
    /// # Errors
    /// When the queue cannot be read or written.
    pub fn step(&mut self, maps: &mut Maps) -> Result<(), DatapathError> {
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
