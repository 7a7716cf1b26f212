// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The contenders: each is started for its round, alone in the gateway
//! namespace, and ended after it, because kernel programs or connection
//! tracking of one would cost the next.

use std::{fmt, net::SocketAddr};

use anyhow::Result;

use super::{scenario::Service, stage::Stage};

mod envoy;
mod haproxy;
mod nftables;
mod nginx;
mod peer;
mod sluice;

/// Who carries the load from the client to the backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Contender {
    /// Nobody: the client asks backend 1 itself. The floor.
    Direct,
    /// A destination NAT of the kernel.
    Nftables,
    /// HAProxy, tcp mode with splicing, or http mode.
    Haproxy,
    /// nginx, stream or http.
    Nginx,
    /// Envoy.
    Envoy,
    /// Sluice with its kernel programs at tcx.
    Sluice,
    /// Sluice without kernel programs.
    SluiceUserspace,
    /// Sluice with its kernel program at native XDP.
    SluiceXdp,
    /// Sluice with its kernel programs at tcx, which take passthrough connections
    /// over from the agent.
    SluiceHandoff,
}

impl Contender {
    /// As in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nftables => "nftables",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Sluice => "sluice",
            Self::SluiceUserspace => "sluice-userspace",
            Self::SluiceXdp => "sluice-xdp",
            Self::SluiceHandoff => "sluice-handoff",
        }
    }

    /// Whether it runs whatever `--peer` says: the floor, and what is measured.
    pub fn is_kept(self) -> bool {
        matches!(
            self,
            Self::Direct
                | Self::Sluice
                | Self::SluiceUserspace
                | Self::SluiceXdp
                | Self::SluiceHandoff
        )
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    ///
    /// When it should be able to but does not come up.
    pub fn start<'lab>(self, stage: &'lab Stage<'lab>, service: Service) -> Result<Start<'lab>> {
        match self {
            Self::Direct => {
                let target = (stage.lab.backend_address(0), service.port()).into();
                Ok(Start::Running(Running::new(target, ())))
            }
            Self::Nftables => nftables::start(stage, service),
            Self::Haproxy => haproxy::start(stage, service),
            Self::Nginx => nginx::start(stage, service),
            Self::Envoy => envoy::start(stage, service),
            Self::Sluice => sluice::start(stage, service, sluice::Path::Kernel),
            Self::SluiceUserspace => sluice::start(stage, service, sluice::Path::Userspace),
            Self::SluiceXdp => sluice::start(stage, service, sluice::Path::Xdp),
            Self::SluiceHandoff => sluice::start(stage, service, sluice::Path::Handoff),
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What came of starting a contender.
pub enum Start<'lab> {
    /// It serves.
    Running(Running<'lab>),
    /// Why it cannot on this machine.
    Skipped(String),
}

/// A contender that serves; dropping the value ends it without a trace.
pub struct Running<'lab> {
    /// Where the client connects to.
    pub target: SocketAddr,
    _held: Box<dyn Held + 'lab>,
}

impl<'lab> Running<'lab> {
    /// A contender that lives as long as `held` does: its processes, or a value
    /// that removes its rules when dropped.
    pub fn new(target: SocketAddr, held: impl Sized + 'lab) -> Self {
        Self {
            target,
            _held: Box::new(held),
        }
    }
}

/// Anything that ends something when dropped.
trait Held {}

impl<T> Held for T {}
