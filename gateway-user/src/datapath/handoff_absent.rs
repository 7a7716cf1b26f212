// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Handing connections over in an agent built without eBPF: not possible.
//! Callers look the same.

use std::{convert::Infallible, io, net::SocketAddr, ops::RangeInclusive, sync::Arc};

use gateway_common::tcp_splice::Splice;

/// The four addresses of a relayed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client,
    pub client: SocketAddr,
    /// where it called,
    pub destination: SocketAddr,
    /// the agent's end towards the backend,
    pub source: SocketAddr,
    /// and the backend.
    pub backend: SocketAddr,
}

/// Never there.
#[derive(Debug)]
pub struct Handoffs(Infallible);

/// Never there.
#[derive(Debug)]
pub struct Observed(Infallible);

/// What the programs have let through to one of the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// TCP flags, or-ed.
    pub flags: u32,
    /// The highest number that follows a segment.
    pub seq_end: u32,
    /// The last timestamp.
    pub timestamp: u32,
}

impl Handoffs {
    /// Never called.
    pub fn ports(&self) -> RangeInclusive<u16> {
        match self.0 {}
    }

    /// Never called.
    pub fn is_taken(&self, _source: SocketAddr, _backend: SocketAddr) -> bool {
        match self.0 {}
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn observe(
        self: &Arc<Self>,
        _ends: &Ends,
        _keep: u32,
        _window_shift: [i32; 2],
        _timeout_s: u32,
    ) -> io::Result<Observed> {
        match self.0 {}
    }
}

impl Observed {
    /// Never called.
    pub fn seen(&self, _direction: u32) -> Seen {
        match self.0 {}
    }

    /// Never called.
    pub fn hold(&self, _nanoseconds: u64) -> bool {
        match self.0 {}
    }

    /// Never called.
    pub fn release(&self) {
        match self.0 {}
    }

    /// Never called.
    pub fn activate(&mut self, _splices: &[Splice; 2]) -> bool {
        match self.0 {}
    }
}
