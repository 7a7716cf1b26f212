// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Making way for the next agent while this one finishes what it relays.

use crate::datapath::{
    Datapath, DatapathError,
    bpffs::Pins,
    exclusive::{self, Lock},
    links::PinnedLink,
    pins::SK_LOOKUP_PIN,
};

/// What is left of a datapath that has made way.
pub struct Retired {
    /// The steering program, until another agent puts its own there.
    program_id: Option<u32>,
    /// Keeps everything from being taken out of the kernel meanwhile.
    _stay: Option<Lock>,
}

impl Datapath {
    /// Lets another agent start. Nothing may be changed from now on: no snapshot
    /// be applied, nothing swept or refreshed. Connections may still be handed
    /// off, and all can be read.
    ///
    /// # Errors
    /// When the pins cannot be locked; the other agent may start nevertheless.
    pub fn retire(&mut self) -> Result<(), DatapathError> {
        let pins = Pins::new(&self.config.bpffs);
        let stay = exclusive::stay(&pins.links());
        let (stay, failure) = match stay {
            Ok(stay) => (Some(stay), None),
            Err(error) => (None, Some(error)),
        };
        self.retired = Some(Retired {
            program_id: steering(&pins),
            _stay: stay,
        });
        self.locks = None;
        failure.map_or(Ok(()), Err)
    }

    /// Whether this one has made way, so that nothing may be changed.
    pub fn is_retired(&self) -> bool {
        self.retired.is_some()
    }

    /// Whether it has, and another agent has come.
    pub fn has_successor(&self) -> bool {
        let pins = Pins::new(&self.config.bpffs);
        self.retired
            .as_ref()
            .is_some_and(|retired| steering(&pins) != retired.program_id)
    }
}

/// The kernel's id of the steering program; none when there is none, or it cannot
/// be told.
fn steering(pins: &Pins) -> Option<u32> {
    let link = PinnedLink::open(&pins.links().join(SK_LOOKUP_PIN)).ok()??;
    Some(link.describe().ok()?.program_id)
}
