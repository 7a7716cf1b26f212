// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel side, as far as threads need it that hand connections over.

use std::sync::Arc;

use crate::datapath::{Datapath, DatapathError, bpffs::Pins, handoff::Handoffs, sysctl};

impl Datapath {
    /// The flow table for the threads that connect to backends from the ports of
    /// `handoff_ports`. With `are_used` the kernel gives these to nobody else from
    /// now on; else once there are backends that see the addresses of clients.
    ///
    /// # Errors
    /// When a map cannot be opened again.
    pub fn handoffs(&mut self, are_used: bool) -> Result<Handoffs, DatapathError> {
        if are_used {
            self.reserve_handoff_ports();
        }
        let pins = Pins::new(&self.config.bpffs);
        let ports = self.config.handoff_ports.clone();
        Handoffs::open(
            &pins.maps(),
            ports,
            Arc::clone(&self.maps.labels),
            self.epoch,
        )
    }

    /// Keeps their ports from everybody else.
    pub(super) fn reserve_handoff_ports(&mut self) {
        for warning in sysctl::reserve_ports(&self.config.handoff_ports) {
            self.warn(warning);
        }
    }
}
