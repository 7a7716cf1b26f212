// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel side, as far as threads need it that hand connections over.

use std::sync::Arc;

use crate::datapath::{Datapath, DatapathError, bpffs::Pins, handoff::Handoffs, sysctl};

impl Datapath {
    /// The flow table for the threads that hand connections off, towards backends
    /// from the ports of `handoff_ports`, which the kernel gives to nobody else
    /// from now on.
    ///
    /// # Errors
    /// When a map cannot be opened again.
    pub fn handoffs(&mut self) -> Result<Handoffs, DatapathError> {
        for warning in sysctl::reserve_ports(&self.config.handoff_ports) {
            self.warn(warning);
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
}
