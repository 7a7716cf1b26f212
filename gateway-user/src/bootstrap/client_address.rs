// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Numbers of the node that connections with their client's address need.

use serde::Deserialize;

use crate::datapath::DatapathConfig;

/// What marks replies to clients, and which table takes them for local.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientAddressSettings {
    /// Mark of packets (`fwmark` of ip-rule(8)).
    pub mark: u32,
    /// Routing table.
    pub table: u32,
}

impl Default for ClientAddressSettings {
    fn default() -> Self {
        let datapath = DatapathConfig::default();
        Self {
            mark: datapath.client_mark,
            table: datapath.client_table,
        }
    }
}

impl ClientAddressSettings {
    /// What cannot be, and of which key.
    pub(super) fn problem(&self) -> Option<(&'static str, &'static str)> {
        // 253 to 255 are those of rtnetlink(7): default, main, local.
        let is_known = self.table == 0 || (253..=255).contains(&self.table);
        if self.mark == 0 {
            Some(("client_address.mark", "must not be 0"))
        } else if is_known {
            Some(("client_address.table", "must not be 0, 253, 254 or 255"))
        } else {
            None
        }
    }
}
