// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Listening sockets and the worker threads that accept from them.
//!
//! Every worker has its own sockets. *Steered* sockets, one a worker, sit on a
//! port of no meaning and are fed by the kernel's sk_lookup program: a
//! connection accepted there has the address and port the client asked for as
//! its local address. *Bound* sockets, one a worker and listener, sit on the
//! listener's own port (userspace mode).

use std::{
    collections::BTreeSet,
    io,
    net::TcpListener,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use tokio::sync::mpsc;

use crate::{
    conn::{
        handoff::HandoffOptions,
        limits::{ConnectionLimits, HttpLimits},
        source::ClientAddresses,
        splice,
    },
    drain::DrainWatcher,
    listener::worker::{Command, Start},
    snapshot::{ListenKey, SnapshotHandle},
    telemetry::counters::WorkerCounters,
};

mod accept;
mod socket;
mod worker;

/// How workers serve.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Limits of every connection.
    pub connection: ConnectionLimits,
    /// Limits of HTTP.
    pub http: HttpLimits,
    /// How connections are handed to the kernel, where they can be.
    pub handoff: Option<HandoffOptions>,
    /// How they have their client's address, where they can.
    pub clients: Option<ClientAddresses>,
    /// Connections the kernel completes ahead of accept, per socket (listen(2);
    /// net.core.somaxconn caps it).
    pub backlog: i32,
}

/// Why workers cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// No listening socket.
    #[error("a listening socket for steered connections cannot be opened: {0}")]
    Steered(io::Error),
    /// No thread.
    #[error("worker thread {index} cannot be started")]
    Thread {
        /// Which, from 0.
        index: usize,
        /// Why.
        source: io::Error,
    },
}

/// The worker threads. Dropping it stops them, which ends their connections.
pub struct Workers {
    threads: Vec<Thread>,
    counters: Vec<Arc<WorkerCounters>>,
    /// Second descriptors of the steered sockets, for the kernel's map.
    steered: Vec<TcpListener>,
    bound: BTreeSet<ListenKey>,
    backlog: i32,
    active: Arc<AtomicUsize>,
}

struct Thread {
    commands: mpsc::UnboundedSender<Command>,
    handle: Option<JoinHandle<()>>,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            connection: ConnectionLimits::default(),
            http: HttpLimits::default(),
            handoff: None,
            clients: None,
            backlog: 4096,
        }
    }
}

impl Workers {
    /// Starts `count` threads (at least one), each with its steered socket open
    /// and nothing bound.
    ///
    /// # Errors
    /// [`ListenerError`]; threads started before are stopped again.
    pub fn start(
        count: usize,
        options: WorkerOptions,
        snapshot: SnapshotHandle,
        drain: DrainWatcher,
    ) -> Result<Self, ListenerError> {
        let mut options = options;
        options.connection.max_connections =
            affordable(options.connection.max_connections, count.max(1));
        let mut workers = Self {
            threads: Vec::new(),
            counters: Vec::new(),
            steered: Vec::new(),
            bound: BTreeSet::new(),
            backlog: options.backlog,
            active: Arc::default(),
        };
        for index in 0..count.max(1) {
            let steered = socket::steered(options.backlog).map_err(ListenerError::Steered)?;
            let ours = steered.try_clone().map_err(ListenerError::Steered)?;
            let counters = Arc::<WorkerCounters>::default();
            let (commands, received) = mpsc::unbounded_channel();
            let handle = worker::spawn(
                index,
                Start {
                    options: options.clone(),
                    snapshot: snapshot.clone(),
                    drain: drain.clone(),
                    counters: Arc::clone(&counters),
                    active: Arc::clone(&workers.active),
                    steered: ours,
                    commands: received,
                },
            )
            .map_err(|source| ListenerError::Thread { index, source })?;
            workers.threads.push(Thread {
                commands,
                handle: Some(handle),
            });
            workers.counters.push(counters);
            workers.steered.push(steered);
        }
        Ok(workers)
    }

    /// The sockets for the kernel's sk_lookup program, one a worker: listening,
    /// IPv4 and IPv6.
    pub fn steered_sockets(&self) -> Vec<BorrowedFd<'_>> {
        self.steered.iter().map(AsFd::as_fd).collect()
    }

    /// Makes the bound sockets those of `wanted`: new ones are opened first,
    /// then those no longer wanted are closed, after what waits in them has
    /// been accepted. Established connections go on. Keys that fail are
    /// returned with the reason, and are tried again by the next call.
    pub fn bind(&mut self, wanted: &BTreeSet<ListenKey>) -> Vec<(ListenKey, io::Error)> {
        let mut failed = Vec::new();
        let missing: Vec<ListenKey> = wanted.difference(&self.bound).copied().collect();
        for key in missing {
            match self.open(key) {
                Ok(()) => {
                    self.bound.insert(key);
                }
                Err(error) => failed.push((key, error)),
            }
        }
        let gone: Vec<ListenKey> = self.bound.difference(wanted).copied().collect();
        for key in gone {
            self.bound.remove(&key);
            for thread in &self.threads {
                thread.send(Command::Close(key));
            }
        }
        failed
    }

    /// All workers or none.
    fn open(&self, key: ListenKey) -> io::Result<()> {
        let sockets = self
            .threads
            .iter()
            .map(|_| socket::bound(key, self.backlog))
            .collect::<io::Result<Vec<_>>>()?;
        for (thread, socket) in self.threads.iter().zip(sockets) {
            thread.send(Command::Open(key, socket));
        }
        Ok(())
    }

    /// What is bound now.
    pub fn bound(&self) -> &BTreeSet<ListenKey> {
        &self.bound
    }

    /// One a worker.
    pub fn counters(&self) -> &[Arc<WorkerCounters>] {
        &self.counters
    }

    /// Connections open now, over all workers.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Ends what is left of the connections (recorded as drained) and waits for
    /// the threads. Blocks for milliseconds.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for thread in &self.threads {
            thread.send(Command::Stop);
        }
        for thread in &mut self.threads {
            if let Some(handle) = thread.handle.take()
                && handle.join().is_err()
            {
                tracing::error!("a worker thread ended in a panic");
            }
        }
    }
}

impl Thread {
    fn send(&self, command: Command) {
        // A worker that is gone has no sockets to open or close.
        let _ = self.commands.send(command);
    }
}

/// `wanted` connections, or as many as the process may open files for: two a
/// connection, two a pipe, and some for everything else.
fn affordable(wanted: usize, workers: usize) -> usize {
    const RESERVED: u64 = 512;
    let pipes = 2 * (workers * splice::MAX_PIPES) as u64;
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is that of a live rlimit, which the call fills.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return wanted;
    }
    let spare = limit.rlim_cur.saturating_sub(RESERVED + pipes);
    let files = spare.max(RESERVED);
    let affordable = usize::try_from(files / 2).unwrap_or(usize::MAX);
    if affordable < wanted {
        tracing::info!(
            limit = affordable,
            wanted,
            "connections are limited by the number of open files (RLIMIT_NOFILE)"
        );
    }
    wanted.min(affordable)
}

#[cfg(test)]
mod tests;
