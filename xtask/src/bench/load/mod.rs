// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The loads: which tool runs in the client namespace, and what it reports.

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::Result;

use super::{
    cpu,
    sample::{Sample, Unit},
    scenario::Service,
    stage::{HOST, Stage},
};

pub mod h2load;
pub mod iperf;
pub mod latency;
pub mod wrk;

/// A load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// iperf3 with so many streams.
    Bulk {
        /// At once.
        streams: u32,
        /// From the backend to the client.
        reverse: bool,
    },
    /// wrk.
    Requests(wrk::Requests),
    /// h2load over TLS, many requests at once on each connection.
    H2,
    /// Requests at this rate per second, for their latency.
    Rate(f64),
}

impl Load {
    /// What its rate counts.
    pub fn unit(self) -> Unit {
        match self {
            Self::Bulk { .. } => Unit::BitsPerSecond,
            Self::Requests(requests) => requests.unit(),
            Self::H2 | Self::Rate(_) => Unit::RequestsPerSecond,
        }
    }

    /// The same load for a moment, not counted: connections, routes, neighbours
    /// and caches are as they will be in the window.
    ///
    /// # Errors
    ///
    /// When the tool fails.
    pub fn warm_up(self, target: &Target<'_>) -> Result<()> {
        match self {
            Self::Bulk { streams, reverse } => iperf::warm_up(target, streams, reverse),
            Self::Requests(requests) => wrk::warm_up(target, WARM_UP, requests),
            Self::H2 => h2load::measure(target, WARM_UP).map(drop),
            Self::Rate(rate) => latency::measure(target, WARM_UP, rate).map(drop),
        }
    }

    /// Runs it for `window` and reads the machine's CPU time right before and
    /// after.
    ///
    /// # Errors
    ///
    /// When the tool is missing, fails or reports no figure.
    pub fn measure(self, target: &Target<'_>, window: Duration) -> Result<Sample> {
        let before = cpu::busy_seconds()?;
        let mut sample = match self {
            Self::Bulk { streams, reverse } => iperf::measure(target, window, streams, reverse)?,
            Self::Requests(requests) => wrk::measure(target, window, requests)?,
            Self::H2 => h2load::measure(target, window)?,
            Self::Rate(rate) => latency::measure(target, window, rate)?,
        };
        sample.cpu_seconds = cpu::busy_seconds()? - before;
        Ok(sample)
    }
}

/// Where a load goes.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The client's side, and the certificates.
    pub stage: &'a Stage<'a>,
    /// What is served there.
    pub service: Service,
    /// Address and port the client connects to.
    pub address: SocketAddr,
}

impl Target<'_> {
    /// The URL of a path, by name: server name and Host header come from it.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.service.is_tls() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{HOST}:{}{path}", self.address.port())
    }

    /// A command in the client namespace that resolves [`HOST`] to the address.
    ///
    /// # Errors
    ///
    /// When its hosts file cannot be written.
    pub fn command(&self, program: &str) -> Result<Command> {
        let lab = self.stage.lab;
        lab.client_resolving(program, &[(HOST, self.address.ip())])
    }
}

const WARM_UP: Duration = Duration::from_millis(500);
