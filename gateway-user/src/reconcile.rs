// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The order in which a snapshot takes effect; the only writer of the published
//! snapshot.
//!
//! 1. Ways that replies need are made ([`Datapath::prepare`]). Tables are swapped:
//!    whoever is decided from now on finds the new ones.
//! 2. Kernel maps follow: backends and rings are added, services flipped, steer
//!    entries added, stale entries removed ([`Datapath::apply`] keeps that order).
//!    In userspace mode new sockets open, then sockets of removed listeners close.
//!
//! A failed step leaves what served before serving, says what failed, and is
//! tried again; connections and flows that exist are never touched.

use std::{io, sync::Arc};

use crate::{
    datapath::{Applied, Datapath, DatapathError},
    listener::Workers,
    model::{SourceAddress, Transport},
    snapshot::{ListenKey, Snapshot, SnapshotHandle},
};

/// Brings snapshots into effect.
pub struct Reconciler {
    snapshot: SnapshotHandle,
    edge: Edge,
    /// Whether the last snapshot is not fully in effect.
    pending: bool,
    failures: u64,
}

/// What stands between clients and the agent.
pub enum Edge {
    /// The kernel steers and forwards.
    Kernel(Box<Datapath>),
    /// The agent binds every listener itself.
    Sockets,
}

/// Why a snapshot is not fully in effect.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// A kernel map.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// Some addresses could not be bound; the others serve.
    #[error("cannot listen on {}; free the port or grant CAP_NET_BIND_SERVICE", list(.0))]
    Bind(Vec<(ListenKey, io::Error)>),
}

fn list(failed: &[(ListenKey, io::Error)]) -> String {
    let each: Vec<String> = failed
        .iter()
        .map(|(key, error)| format!("{key} ({error})"))
        .collect();
    each.join(", ")
}

impl Reconciler {
    /// Starts with nothing in effect.
    pub fn new(snapshot: SnapshotHandle, edge: Edge) -> Self {
        Self {
            snapshot,
            edge,
            pending: false,
            failures: 0,
        }
    }

    /// Brings `snapshot` into effect.
    ///
    /// # Errors
    /// When a step failed; call [`Self::retry`] later.
    pub async fn apply(
        &mut self,
        snapshot: Snapshot,
        workers: &mut Workers,
    ) -> Result<Option<Applied>, ReconcileError> {
        if let Edge::Kernel(datapath) = &mut self.edge {
            datapath.prepare(&snapshot);
        }
        self.snapshot.publish(Arc::new(snapshot));
        self.retry(workers).await
    }

    /// Does again what of the published snapshot is not in effect yet.
    ///
    /// # Errors
    /// When a step failed again.
    pub async fn retry(
        &mut self,
        workers: &mut Workers,
    ) -> Result<Option<Applied>, ReconcileError> {
        let snapshot = self.snapshot.load();
        self.pending = true;
        let outcome = match &mut self.edge {
            Edge::Kernel(datapath) => datapath
                .apply(&snapshot)
                .await
                .map(Some)
                .map_err(Into::into),
            Edge::Sockets => {
                let clusters = snapshot.clusters.values();
                for cluster in clusters.filter(|one| one.source_address == SourceAddress::Client) {
                    tracing::warn!(
                        cluster = %cluster.id,
                        "clients do not keep their addresses: that needs the kernel programs"
                    );
                }
                let datagrams = snapshot.services.keys();
                for key in datagrams.filter(|key| key.transport == Transport::Udp) {
                    tracing::warn!(listener = %key, "not served: UDP needs the kernel programs");
                }
                let streams = || {
                    let keys = snapshot.listeners.keys();
                    keys.filter(|key| key.transport == Transport::Tcp)
                };
                for key in streams().filter(|key| key.is_range()) {
                    tracing::warn!(
                        listener = %key,
                        "not served: a range of ports needs the kernel programs"
                    );
                }
                let wanted = streams().filter(|key| !key.is_range()).copied().collect();
                let failed = workers.bind(&wanted);
                if failed.is_empty() {
                    Ok(None)
                } else {
                    Err(ReconcileError::Bind(failed))
                }
            }
        };
        self.pending = outcome.is_err();
        self.failures += u64::from(self.pending);
        outcome
    }

    /// Whether a step failed and waits to be tried again.
    pub fn is_pending(&self) -> bool {
        self.pending
    }

    /// Failed attempts since the start.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// The kernel side, where there is one.
    pub fn datapath(&mut self) -> Option<&mut Datapath> {
        match &mut self.edge {
            Edge::Kernel(datapath) => Some(datapath),
            Edge::Sockets => None,
        }
    }
}
