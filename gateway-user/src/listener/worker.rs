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
    runtime::{Builder, Runtime},
    sync::{mpsc, oneshot},
    task::{LocalSet, spawn_local},
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
    let runtime = Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || run(&runtime, start))
}

fn run(runtime: &Runtime, start: Start) {
    let local = LocalSet::new();
    local.block_on(runtime, serve(start));
    // Connections that are left end here, inside the runtime their sockets
    // belong to.
    let _inside = runtime.enter();
    drop(local);
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
    let worker = Worker::new(snapshot, options.connection, options.http, counters, drain);
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
