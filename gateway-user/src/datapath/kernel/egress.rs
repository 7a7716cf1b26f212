// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where frames go that XDP sends on, and what the operator hears of it.

use std::collections::BTreeSet;

use super::Datapath;
use crate::datapath::{
    ethtool,
    interfaces::{self, Interface},
};

/// Interfaces on the way to backends that send no redirected frames.
#[derive(Debug, Default)]
pub(super) struct Slow {
    /// Where routes to backends lead.
    next_hops: BTreeSet<u32>,
    /// Whether one of those that are no wires is slow.
    any: bool,
    /// What was said of each that is slow now.
    told: BTreeSet<String>,
}

impl Slow {
    /// Notes where routes to backends lead.
    pub(super) fn set_next_hops(&mut self, indices: BTreeSet<u32>) {
        self.next_hops = indices;
    }

    /// Whether frames from XDP in a driver would not reach some backend.
    pub(super) fn any(&self) -> bool {
        self.any
    }
}

impl Datapath {
    /// Lets XDP redirect frames to where they are sent on; elsewhere the stack sends
    /// them, and the operator is told.
    pub(super) fn keep_egress(&mut self) {
        if let Err(problem) = self.try_egress() {
            // What was so is so until the kernel answers again.
            self.warn(problem);
        }
    }

    fn try_egress(&mut self) -> Result<(), String> {
        if !self.attachments.any_at_xdp() && !self.slow.any {
            return self.egress.follow(&BTreeSet::new()).map_err(text);
        }
        let asked = |error: std::io::Error| {
            format!("which interfaces send what XDP redirects to them: {error}")
        };
        let natives = self.attachments.natives();
        let interfaces = interfaces::interfaces(&mut self.netlink).map_err(asked)?;
        if natives.is_empty() && self.attachments.any_at_xdp() {
            // In the stack, XDP sends as the stack does.
            let all = interfaces.values().map(|interface| interface.index);
            return self.egress.follow(&all.collect()).map_err(text);
        }
        let able = self.egress.able(&interfaces).map_err(asked)?;
        let wires: BTreeSet<u32> = self.attachments.wires().map(|(index, _)| index).collect();
        // A wire may be able as soon as it has a program: it does not count here.
        self.slow.any = (self.slow.next_hops.difference(&wires)).any(|it| !able.contains(it));
        let slow = interfaces.iter().filter(|(_, interface)| {
            let index = interface.index;
            let is_used = self.slow.next_hops.contains(&index) || wires.contains(&index);
            let from_elsewhere = natives.iter().any(|native| *native != index);
            is_used && from_elsewhere && !able.contains(&index)
        });
        let told: BTreeSet<String> = slow
            .map(|(name, interface)| message(name, interface))
            .collect();
        for gone in self.slow.told.difference(&told) {
            self.warnings.remove(gone);
        }
        self.slow.told.clone_from(&told);
        for text in told {
            self.warn(text);
        }
        self.egress.follow(&able).map_err(text)
    }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn message(name: &str, interface: &Interface) -> String {
    let driver = ethtool::driver(name).unwrap_or_default();
    let kind = match (driver.as_str(), interface.is_virtual) {
        ("", true) => "a virtual device",
        ("", false) => "no driver",
        (driver, _) => driver,
    };
    let or = if driver == "veth" {
        " or switch GRO on at its other end (`ethtool -K INTERFACE gro on`)"
    } else {
        ""
    };
    format!(
        "{name} ({kind}) sends no frames that XDP redirects to it: the stack sends them, which \
         costs more (`egress_miss`); set `attach: tc`{or}"
    )
}
