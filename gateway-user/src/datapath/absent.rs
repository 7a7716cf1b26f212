// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The datapath of an agent built without eBPF: none. Callers look the same.

use std::{
    convert::Infallible,
    os::fd::{BorrowedFd, OwnedFd},
};

use crate::{
    datapath::{
        Applied, DatapathConfig, DatapathError, DatapathReport, Detached, FlowReport, Swept,
        TraceQuery, TraceReport,
        handoff::Handoffs,
        relayed::EndedFlow,
        report::{DecisionReport, WatchFilter},
        returning::Returning,
    },
    snapshot::Snapshot,
};

/// Never there.
pub struct Datapath(Infallible);

/// What is missing for the kernel datapath.
pub fn probe(_config: &DatapathConfig) -> Vec<String> {
    vec!["this agent was built without the ebpf feature".to_owned()]
}

/// There is nothing to fight for.
///
/// # Errors
/// Never.
pub fn check(_config: &DatapathConfig) -> Result<(), DatapathError> {
    Ok(())
}

fn unavailable(config: &DatapathConfig) -> DatapathError {
    DatapathError::Unavailable {
        missing: probe(config),
    }
}

impl Datapath {
    /// Not possible.
    pub async fn open(config: DatapathConfig) -> Result<Self, DatapathError> {
        Err(unavailable(&config))
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn handoffs(&mut self, _are_used: bool) -> Result<Handoffs, DatapathError> {
        match self.0 {}
    }

    /// Never called.
    pub fn returning(&self) -> std::sync::Arc<Returning> {
        match self.0 {}
    }

    /// Never called.
    pub fn prepare(&mut self, _snapshot: &Snapshot) {
        match self.0 {}
    }

    /// Never called.
    pub fn adopted(&self) -> Snapshot {
        match self.0 {}
    }

    /// Never called.
    pub fn set_sockets(&mut self, _sockets: &[BorrowedFd<'_>]) -> Result<(), DatapathError> {
        match self.0 {}
    }

    /// Never called.
    pub async fn apply(&mut self, _snapshot: &Snapshot) -> Result<Applied, DatapathError> {
        match self.0 {}
    }

    /// Never called.
    pub fn watch(&self) -> std::io::Result<OwnedFd> {
        match self.0 {}
    }

    /// Never called.
    pub async fn refresh(&mut self) -> Result<bool, DatapathError> {
        match self.0 {}
    }

    /// Never called.
    pub fn sweep(&mut self) -> Swept {
        match self.0 {}
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn retire(&mut self) -> Result<(), DatapathError> {
        match self.0 {}
    }

    /// Never called.
    pub fn is_retired(&self) -> bool {
        match self.0 {}
    }

    /// Never called.
    pub fn has_successor(&self) -> bool {
        match self.0 {}
    }

    /// Never called.
    pub fn take_ended(&mut self) -> Vec<EndedFlow> {
        match self.0 {}
    }

    /// Never called.
    pub fn report(&self) -> DatapathReport {
        match self.0 {}
    }

    /// Never called.
    pub fn flows(&self) -> std::iter::Empty<FlowReport> {
        match self.0 {}
    }
}

/// Not possible.
///
/// # Errors
/// Always.
pub async fn detach(config: &DatapathConfig) -> Result<Detached, DatapathError> {
    Err(unavailable(config))
}

/// Not possible.
///
/// # Errors
/// Always.
pub fn trace(config: &DatapathConfig, _query: &TraceQuery) -> Result<TraceReport, DatapathError> {
    Err(DatapathError::NotAllowed {
        missing: probe(config),
    })
}

/// Never there.
pub struct Watcher(Infallible);

impl Watcher {
    /// Not possible.
    ///
    /// # Errors
    /// Always.
    pub fn start(config: &DatapathConfig, _filter: &WatchFilter) -> Result<Self, DatapathError> {
        Err(DatapathError::NotAllowed {
            missing: probe(config),
        })
    }

    /// Never called.
    pub fn refresh(&mut self) -> Result<(), DatapathError> {
        match self.0 {}
    }

    /// Never called.
    pub fn decisions(&mut self) -> Vec<DecisionReport> {
        match self.0 {}
    }

    /// Never called.
    pub fn left_out(&self) -> Result<u64, DatapathError> {
        match self.0 {}
    }
}
