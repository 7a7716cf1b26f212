// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Handing connections over in an agent built without eBPF: not possible.
//! Callers look the same.

use std::{convert::Infallible, io, net::SocketAddr, ops::RangeInclusive, sync::Arc};

use gateway_common::tcp_splice::Splice;

pub use crate::datapath::relayed::{ConnectionNames, Ends, Moved, RelayMode, Relayed, Seen};

/// Never there.
#[derive(Debug)]
pub struct Handoffs(Infallible);

/// Never there.
#[derive(Debug)]
pub struct Observed(Infallible);

impl Handoffs {
    /// Never called.
    pub fn ports(&self) -> RangeInclusive<u16> {
        match self.0 {}
    }

    /// Never called.
    pub fn forwards(&self, _ends: &Ends) -> bool {
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
        _relayed: &Relayed,
        _keep: u32,
        _window_shift: [i32; 2],
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
    pub fn set_moved(&self, _moved: &Moved) {
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
