// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A worker thread: one single-threaded runtime, and everything its connections
//! share.

use std::{
    collections::HashMap,
    io,
    net::TcpListener,
    sync::{Arc, atomic::AtomicUsize},
    thread::{self, JoinHandle},
};

use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{mpsc, oneshot},
    task::spawn_local,
};

use crate::{
    conn::Worker,
    drain::DrainWatcher,
    listener::{WorkerOptions, accept::Acceptor},
    snapshot::{ListenKey, SnapshotHandle},
    telemetry::counters::WorkerCounters,
};

/// What a worker is told.
pub(super) enum Command {
    /// Accept from this socket.
    Open(ListenKey, TcpListener),
    /// Accept what waits, then close the socket.
    Close(ListenKey),
    /// Drop everything.
    Stop,
}

/// What a worker starts with.
pub(super) struct Start {
    pub(super) options: WorkerOptions,
    pub(super) snapshot: SnapshotHandle,
    pub(super) drain: DrainWatcher,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) active: Arc<AtomicUsize>,
    pub(super) steered: TcpListener,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
}

/// Starts worker `index`.
pub(super) fn spawn(index: usize, start: Start) -> io::Result<JoinHandle<()>> {
    // The runtime stays on the thread that made it: failing there is reported
    // from there.
    let (made, outcome) = std::sync::mpsc::sync_channel(1);
    let handle = thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    let _ = made.send(Ok(()));
                    // Connections that are left end with the runtime.
                    runtime.block_on(serve(start));
                }
                Err(error) => {
                    let _ = made.send(Err(error));
                }
            }
        })?;
    outcome.recv().unwrap_or(Ok(()))?;
    Ok(handle)
}

async fn serve(start: Start) {
    let Start {
        options,
        snapshot,
        drain,
        counters,
        active,
        steered,
        mut commands,
    } = start;
    let worker = Worker::new(
        snapshot,
        options.connection,
        options.http,
        options.handoff,
        options.clients,
        counters,
        drain,
    );
    let open = |socket| {
        let (close, closed) = oneshot::channel();
        match Acceptor::new(socket, &worker, &active) {
            Ok(acceptor) => {
                spawn_local(acceptor.run(closed));
            }
            Err(error) => tracing::error!(%error, "a listening socket cannot be watched"),
        }
        close
    };
    let _steered = open(steered);
    let mut bound: HashMap<ListenKey, oneshot::Sender<()>> = HashMap::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Open(key, socket) => {
                bound.insert(key, open(socket));
            }
            // Dropping the sender closes.
            Command::Close(key) => drop(bound.remove(&key)),
            Command::Stop => break,
        }
    }
}
