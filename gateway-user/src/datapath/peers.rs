// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the sweeper does about the two ends of flows: whether they are still
//! wanted, whether they are still there, and what they are told.

use gateway_common::flow::{KIND_HANDOFF, SLOT_ACTIVE};

use crate::datapath::{
    DatapathConfig,
    alive::Alive,
    gone::{Gone, GoneCounts},
    notices::Notices,
    segments,
    slots::Slot,
    tables::Desired,
};

/// The ends of flows.
#[derive(Debug)]
pub struct Peers {
    gone: Gone,
    alive: Alive,
    notices: Notices,
}

/// What became of flows because of their ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounts {
    /// Those whose endpoint was removed.
    pub gone: GoneCounts,
    /// Handed-off connections reset because one end was silent, since start.
    pub reset_silent: u64,
}

impl Peers {
    /// Nobody has been asked yet.
    pub fn new(config: &DatapathConfig) -> Self {
        Self {
            gone: Gone::new(config.removed_endpoint),
            alive: Alive::new(config.handoff_keepalive),
            notices: Notices::default(),
        }
    }

    /// These are the endpoints from now on: no new flow goes to others.
    pub fn set_present(&mut self, desired: &Desired) {
        self.gone.set_present(desired);
    }

    /// Whether flows are looked for whose endpoint is gone.
    pub fn is_looking(&self) -> bool {
        self.gone.is_looking()
    }

    /// A sweep begins.
    pub fn begin(&mut self) {
        self.notices.begin();
    }

    /// Looks after the flow in `slot`, which is in `state` (active or closing);
    /// true when it is to be removed at once. `now` is of the coarse monotonic
    /// clock, nanoseconds.
    pub fn visit(&mut self, index: u32, slot: &Slot, state: u32, now: u64) -> bool {
        if self.gone.is_looking() && self.gone.visit(index, slot, state, now, &mut self.notices) {
            return true;
        }
        if state == SLOT_ACTIVE {
            self.alive.visit(index, slot, now, &mut self.notices);
        }
        false
    }

    /// The flow in `slot` has expired and is dead: a relayed connection would be
    /// closed on both sides now.
    pub fn expired(&mut self, slot: &Slot) {
        if slot.kind() == KIND_HANDOFF && self.notices.has_room() {
            self.notices.send(&segments::resets(&slot.copy()));
        }
    }

    /// Every slot has been visited since the last call.
    pub fn finish_round(&mut self) {
        self.gone.finish_round();
        self.alive.finish_round();
    }

    /// For reports.
    pub fn counts(&self) -> PeerCounts {
        PeerCounts {
            gone: self.gone.counts(),
            reset_silent: self.alive.reset(),
        }
    }

    /// What the operator should know, once.
    pub fn take_warning(&mut self) -> Option<String> {
        self.notices.take_warning()
    }
}
