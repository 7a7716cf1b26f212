// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which way of the gateway served a row: the agent's own counters, before and
//! after.

use std::time::Duration;

use anyhow::{Result, bail};
use gateway_tests::{
    admin,
    gateway::{Gateway, closed},
    wait,
};
use serde_json::Value;

/// The way a row is to be served.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// Forwarded by the kernel programs: a port of the VIP, and how many flows.
    Kernel {
        /// Port, before the lab moves it.
        port: u16,
        /// New flows at least.
        flows: u64,
    },
    /// Served by the agent in this mode, so many connections at least.
    Agent {
        /// As in access records.
        mode: &'static str,
        /// Connections at least.
        connections: u64,
    },
    /// Refused with this reason.
    Refused {
        /// As in access records.
        reason: &'static str,
    },
}

impl Way {
    /// The word in the table.
    pub fn path(self, userspace: bool) -> &'static str {
        match self {
            Self::Kernel { .. } if userspace => "proxied",
            Self::Kernel { .. } => "kernel",
            Self::Agent { mode, .. } => match mode {
                "passthrough" => "passthrough",
                "plain-http" => "http",
                _ => "terminate",
            },
            Self::Refused { .. } => "refused",
        }
    }
}

/// Counters before a row.
pub struct Before {
    status: Value,
}

impl Before {
    /// Reads the counters.
    pub fn read(gateway: &Gateway<'_>) -> Result<Self> {
        Ok(Self {
            status: gateway.status()?,
        })
    }

    /// Waits until the counters show that the row went `way`; what they show.
    ///
    /// # Errors
    ///
    /// When they do not within 3 s.
    pub fn proves(&self, gateway: &Gateway<'_>, way: Way, userspace: bool) -> Result<String> {
        match way {
            Way::Kernel { flows, .. } if userspace => {
                self.connections(gateway, "forward", "", flows)
            }
            Way::Kernel { port, flows } => self.kernel(gateway, port, flows),
            Way::Agent { mode, connections } => self.connections(gateway, mode, "", connections),
            Way::Refused { reason } => self.connections(gateway, "refused", reason, 1),
        }
    }

    fn kernel(&self, gateway: &Gateway<'_>, port: u16, flows: u64) -> Result<String> {
        let listener = gateway.listener(port);
        let before = admin::service_counters(&self.status, &listener);
        let after = wait::until(&format!("kernel flows on {listener}"), PATIENCE, || {
            let now = admin::service_counters(&gateway.status()?, &listener);
            if now.flows < before.flows + flows {
                bail!("{} new, expected {flows}", now.flows - before.flows);
            }
            Ok(Some(now))
        })?;
        let accepted = |status: &Value| closed(status, "forward", "");
        if accepted(&gateway.status()?) != accepted(&self.status) {
            bail!("the agent proxied a connection that the kernel should forward");
        }
        Ok(format!(
            "{} flows, {} packets in, {} out",
            after.flows - before.flows,
            after.packets_in - before.packets_in,
            after.packets_out - before.packets_out
        ))
    }

    fn connections(
        &self,
        gateway: &Gateway<'_>,
        mode: &str,
        reason: &str,
        least: u64,
    ) -> Result<String> {
        let before = closed(&self.status, mode, reason);
        let what = format!("{mode} {reason}").trim_end().to_owned();
        let after = wait::until(&format!("{what} connections"), PATIENCE, || {
            let now = gateway.closed(mode, reason)?;
            if now < before + least {
                bail!("{} counted, expected {least}", now - before);
            }
            Ok(Some(now))
        })?;
        Ok(format!("{what} +{}", after - before))
    }
}

const PATIENCE: Duration = Duration::from_secs(3);
