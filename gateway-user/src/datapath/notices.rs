// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Segments that the sweeper sends in the name of flows: questions and resets,
//! so many in one sweep.

use std::io;

use gateway_common::{
    flow::{SLOT_ACTIVE, SLOT_CLOSING},
    tcp_state,
};

use crate::datapath::{
    raw::RawSender,
    segments::{self, Segment},
    slots::Slot,
};

/// Packets sent in one sweep, so that an endpoint with very many flows does not
/// get them all at once.
const PACKETS_PER_SWEEP: u32 = 2_000;
/// What one flow may take: two resets to each side.
const PACKETS_PER_FLOW: u32 = 4;

/// Sends them.
#[derive(Debug, Default)]
pub struct Notices {
    sender: RawSender,
    left: u32,
    warning: Option<String>,
}

impl Notices {
    /// A sweep begins.
    pub fn begin(&mut self) {
        self.left = PACKETS_PER_SWEEP;
    }

    /// Whether those of another flow may be sent in this sweep.
    pub fn has_room(&self) -> bool {
        self.left >= PACKETS_PER_FLOW
    }

    /// Sends `segments`, as far as there is a way.
    pub fn send(&mut self, segments: &[Segment]) {
        for segment in segments {
            self.left = self.left.saturating_sub(1);
            let Some(packet) = segment.packet() else {
                continue;
            };
            if let Err(error) = self.sender.send(&packet, segment.dst.ip().to_canonical())
                && is_ours(&error)
            {
                self.warning = Some(format!(
                    "cannot ask or reset the ends of flows ({error}): grant CAP_NET_RAW, or they \
                     stay until they are idle for their timeout"
                ));
            }
        }
    }

    /// Ends the active connection in `slot` and tells both sides. False when it
    /// has ended already.
    pub fn reset(&mut self, slot: &Slot) -> bool {
        if !slot.change_state(SLOT_ACTIVE, SLOT_CLOSING) {
            return false;
        }
        slot.set_tcp_state(tcp_state::TCP_RESET);
        self.send(&segments::resets(&slot.copy()));
        true
    }

    /// What the operator should know, once.
    pub fn take_warning(&mut self) -> Option<String> {
        self.warning.take()
    }
}

/// Whether sending failed for want of a right, not of a way there.
fn is_ours(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}
