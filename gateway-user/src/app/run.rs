// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `sluice run`: makes every channel and every long-lived task, in the order
//! start wants, and takes them down in the order a drain wants.

use std::{io, net::SocketAddr, os::fd::OwnedFd, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    admin::{self, Query},
    app::{
        flow_record::record,
        pipeline::{self, Pipeline},
    },
    bootstrap::{Bootstrap, HandoffMode},
    cli,
    compile::Observed,
    conn::{handoff::HandoffOptions, source::ClientAddresses},
    datapath::{self, Datapath},
    diagnostic::{Diagnostic, Severity},
    drain::{self, DrainTrigger},
    health::Prober,
    listener::{WorkerOptions, Workers},
    reconcile::{Edge, Reconciler},
    snapshot::SnapshotHandle,
    source::dns::Resolver,
    status::{self, Inputs, Readiness, flows},
    telemetry,
};

/// How often expired flows are collected.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// Changes of interfaces and routes come in bursts; on a node where they never
/// end this is how often they are looked at.
const SETTLE: Duration = Duration::from_millis(250);
/// How often failed steps are repeated, and changes looked at that were missed.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// How long the first configuration waits for the first probes, so that a
/// restart sends nothing to what is down.
const FIRST_PROBES: Duration = Duration::from_secs(1);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When the agent cannot start; afterwards nothing ends it but a signal.
pub fn run(options: &cli::Run) -> anyhow::Result<ExitCode> {
    let bootstrap = pipeline::bootstrap(options.bootstrap.as_deref())?;
    telemetry::log::start(options.log_format, bootstrap.access_log);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(options, &bootstrap))
}

async fn serve(options: &cli::Run, bootstrap: &Bootstrap) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let mut paths: Vec<_> = bootstrap
        .sources
        .iter()
        .map(|source| source.file.clone())
        .collect();
    paths.extend(options.config.iter().cloned());
    anyhow::ensure!(
        !paths.is_empty(),
        "nothing to serve: name a file or directory with --config, or sources in the bootstrap"
    );
    pipeline::existing(&paths)?;
    let mut signals = Signals::new()?;

    if options.datapath != cli::DatapathMode::Userspace {
        // Before the admin address, which another agent has as well.
        datapath::check_exclusive(&bootstrap.datapath())?;
    }
    let address = options.admin.unwrap_or(bootstrap.admin);
    let admin_listener = match TcpListener::bind(address).await {
        // An agent that drains has it, perhaps, and gives it up for this one.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
        other => Some(other.with_context(|| cannot_open(address))?),
    };
    let (queries, mut asked) = mpsc::channel(16);
    let (ready, readiness) = watch::channel(Readiness::Starting);
    let snapshot = SnapshotHandle::new();
    let (trigger, watcher) = drain::channel();
    let (mut datapath, missing) = open_datapath(options.datapath, bootstrap).await?;
    let admin_listener = match admin_listener {
        Some(listener) => listener,
        None => bind_again(address).await?,
    };
    let admin_task = tokio::spawn(admin::serve(
        admin_listener,
        admin::State::new(queries, readiness, snapshot.clone()),
    ));
    if datapath.is_none() && !bootstrap.vips.is_empty() {
        tracing::warn!(
            vips = ?bootstrap.vips,
            "VIPs are claimed with eBPF only: add them to an interface of this node (ip address add)"
        );
    }
    if let Some(datapath) = &datapath {
        // Ids in pinned maps go on from where the agent before left them.
        snapshot.publish(Arc::new(datapath.adopted()));
    }
    let count = match bootstrap.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    };
    let hands_off = bootstrap.handoff.mode != HandoffMode::Off;
    let clients = match &mut datapath {
        Some(datapath) => Some(ClientAddresses {
            table: Arc::new(datapath.handoffs(hands_off)?),
            returning: datapath.returning(),
        }),
        None => None,
    };
    let handoff = clients
        .as_ref()
        .filter(|_| hands_off)
        .map(|clients| HandoffOptions {
            table: Arc::clone(&clients.table),
            by_default: bootstrap.handoff.mode == HandoffMode::Auto,
            after: bootstrap.handoff.after(),
        });
    let options = WorkerOptions {
        handoff,
        clients,
        connection: bootstrap.connections(),
        http: bootstrap.http(),
        ..WorkerOptions::default()
    };
    let workers = Workers::start(count, options, snapshot.clone(), watcher)?;
    let mut changes = None;
    let edge = match datapath {
        Some(mut datapath) => {
            let watch = datapath.watch()?;
            // SAFETY: `watch` owns its descriptor, and nobody takes it out of
            // the AsyncFd or closes it.
            let watch = unsafe { AsyncFd::register_with_interest(watch, Interest::READABLE) };
            changes = Some(watch?);
            datapath.set_sockets(&workers.steered_sockets())?;
            Edge::Kernel(Box::new(datapath))
        }
        None => Edge::Sockets,
    };
    let mut agent = Agent {
        pipeline: Pipeline::new(paths, bootstrap),
        resolver: Resolver::new(),
        prober: Prober::start(bootstrap.health.max_concurrent)?,
        reconciler: Reconciler::new(snapshot.clone(), edge),
        workers,
        snapshot,
        diagnostics: Vec::new(),
        missing,
        ready,
    };
    agent.load();
    agent.prober.settle(FIRST_PROBES).await;
    agent.recompile().await;
    tracing::info!(
        admin = %address,
        datapath = if agent.missing.is_none() { "ebpf" } else { "userspace" },
        ready_ms = started.elapsed().as_millis() as u64,
        "serving"
    );

    let mut sweep = interval(SWEEP_INTERVAL);
    let mut refresh = interval(REFRESH_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = agent.pipeline.source.changed() => agent.reload().await,
            () = agent.resolver.changed() => agent.recompile().await,
            () = agent.prober.changed() => agent.recompile().await,
            _ = signals.hangup.recv() => agent.reload().await,
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = sweep.tick() => agent.sweep(),
            _ = refresh.tick() => agent.refresh().await,
            () = changed(changes.as_ref()) => agent.refresh().await,
            Some(query) = asked.recv() => agent.answer(query),
        }
    }
    agent
        .drain(
            &trigger,
            bootstrap.timeouts.drain,
            &mut asked,
            &mut sweep,
            &mut signals,
            &admin_task,
        )
        .await;
    admin_task.abort();
    Ok(ExitCode::SUCCESS)
}

/// How long an agent that drains may take to see that another one has come.
const ADMIN_WAIT: Duration = Duration::from_secs(5);

fn cannot_open(address: SocketAddr) -> String {
    format!("{address}: cannot open the admin endpoints; choose another address with --admin")
}

/// Opens the admin address as soon as it is free.
async fn bind_again(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let start = Instant::now();
    loop {
        match TcpListener::bind(address).await {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && start.elapsed() < ADMIN_WAIT =>
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => return other.with_context(|| cannot_open(address)),
        }
    }
}

/// Opens the kernel side, or says why it is left out.
async fn open_datapath(
    mode: cli::DatapathMode,
    bootstrap: &Bootstrap,
) -> anyhow::Result<(Option<Datapath>, Option<Vec<String>>)> {
    if mode == cli::DatapathMode::Userspace {
        return Ok((None, Some(vec!["asked for by --datapath userspace".into()])));
    }
    let config = bootstrap.datapath();
    let missing = datapath::probe(&config);
    if missing.is_empty() {
        return Ok((Some(Datapath::open(config).await?), None));
    }
    anyhow::ensure!(
        mode == cli::DatapathMode::Auto,
        "eBPF is not possible here: {}; --datapath userspace proxies instead",
        missing.join(", ")
    );
    tracing::warn!(
        missing = missing.join(", "),
        "no eBPF here: forwarded services are proxied in userspace and end with the agent"
    );
    Ok((None, Some(missing)))
}

/// Waits until something has changed on the node, and for what comes with it.
async fn changed(changes: Option<&AsyncFd<OwnedFd>>) {
    match changes {
        Some(changes) => match changes.readable().await {
            Ok(mut guard) => {
                guard.clear_ready();
                tokio::time::sleep(SETTLE).await;
            }
            // The next tick looks anyway.
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// Time since `start`, milliseconds.
fn millis(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// Signals the agent listens to.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// What the loop owns.
struct Agent {
    pipeline: Pipeline,
    resolver: Resolver,
    prober: Prober,
    reconciler: Reconciler,
    workers: Workers,
    snapshot: SnapshotHandle,
    diagnostics: Vec<Diagnostic>,
    /// Why eBPF is left out; nothing when it is in use.
    missing: Option<Vec<String>>,
    ready: watch::Sender<Readiness>,
}

impl Agent {
    async fn reload(&mut self) {
        self.load();
        self.recompile().await;
    }

    /// Reads the configuration and says what it wants to know of the world.
    fn load(&mut self) {
        let started = Instant::now();
        self.pipeline.load();
        tracing::debug!(took_ms = millis(started), "configuration read");
        self.resolver.want(self.pipeline.dns_names());
        let targets = self.pipeline.probe_targets(&self.resolver.answers());
        self.prober.want(targets);
    }

    async fn recompile(&mut self) {
        let started = Instant::now();
        let dns = self.resolver.answers();
        self.prober.want(self.pipeline.probe_targets(&dns));
        let down = self.prober.down();
        let observed = Observed { dns, down };
        let compiled = self.pipeline.compile(&observed, &self.snapshot.load());
        for diagnostic in &compiled.diagnostics {
            // Say what is new, once.
            if self.diagnostics.binary_search(diagnostic).is_err() {
                match diagnostic.severity {
                    Severity::Error => tracing::error!(target: "config", "{diagnostic}"),
                    Severity::Warning => tracing::warn!(target: "config", "{diagnostic}"),
                }
            }
        }
        self.diagnostics = compiled.diagnostics;
        tracing::debug!(took_ms = millis(started), "configuration compiled");
        let started = Instant::now();
        let generation = compiled.snapshot.generation;
        let outcome = self
            .reconciler
            .apply(compiled.snapshot, &mut self.workers)
            .await;
        self.conclude(outcome.map(|applied| {
            let took_ms = millis(started);
            tracing::info!(generation, ?applied, took_ms, "configuration in effect");
        }));
    }

    /// Becomes ready with the first success and stays so: later failures leave
    /// the previous state serving.
    fn conclude(&self, outcome: Result<(), crate::reconcile::ReconcileError>) {
        match outcome {
            Ok(()) => {
                self.ready.send_replace(Readiness::Ready);
            }
            Err(error) => {
                tracing::error!(%error, "configuration not fully in effect; trying again");
                self.ready.send_if_modified(|ready| {
                    let starting = !matches!(ready, Readiness::Ready);
                    if starting {
                        *ready = Readiness::Failing(error.to_string());
                    }
                    starting
                });
            }
        }
    }

    fn sweep(&mut self) {
        if let Some(datapath) = self.reconciler.datapath() {
            let swept = datapath.sweep();
            for ended in datapath.take_ended() {
                record(&ended).emit();
            }
            if swept.closed + swept.expired + swept.reclaimed > 0 {
                tracing::debug!(?swept, "flows collected");
            }
        }
    }

    /// Whether another agent serves while this one drains.
    fn has_successor(&mut self) -> bool {
        let datapath = self.reconciler.datapath();
        datapath.is_some_and(|datapath| datapath.has_successor())
    }

    async fn refresh(&mut self) {
        let changed = match self.reconciler.datapath() {
            Some(datapath) => datapath.refresh().await.unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot follow interfaces and routes; trying again");
                false
            }),
            None => false,
        };
        if changed || self.reconciler.is_pending() {
            let outcome = self.reconciler.retry(&mut self.workers).await;
            self.conclude(outcome.map(drop));
        }
    }

    fn answer(&mut self, query: Query) {
        // A receiver that has gone away no longer wants the answer.
        match query {
            Query::Status(reply) => {
                let report = status::report(Inputs {
                    snapshot: &self.snapshot.load(),
                    diagnostics: &self.diagnostics,
                    missing: self.missing.as_deref(),
                    datapath: self.reconciler.datapath().map(|datapath| datapath.report()),
                    counters: self.workers.counters(),
                    active: self.workers.active(),
                    health: self.prober.report(),
                    apply_failures: self.reconciler.failures(),
                    readiness: &self.ready.borrow(),
                });
                let _ = reply.send(report);
            }
            Query::Flows(filter, reply) => {
                let datapath = self.reconciler.datapath();
                let list = datapath.map(|datapath| flows::list(datapath.flows(), &filter));
                let _ = reply.send(list.unwrap_or_default());
            }
        }
    }

    /// Stops accepting, waits for connections, gives up at the deadline or at
    /// a second signal. Flows of the kernel are not concerned.
    async fn drain(
        mut self,
        trigger: &DrainTrigger,
        deadline: Duration,
        asked: &mut mpsc::Receiver<Query>,
        sweep: &mut tokio::time::Interval,
        signals: &mut Signals,
        admin: &JoinHandle<()>,
    ) {
        self.ready.send_replace(Readiness::Draining);
        tracing::info!(connections = self.workers.active(), ?deadline, "draining");
        trigger.start();
        if let Some(datapath) = self.reconciler.datapath()
            && let Err(error) = datapath.retire()
        {
            tracing::warn!(%error, "`sluice detach` may end what is handed off now");
        }
        {
            let finished = trigger.wait(deadline);
            tokio::pin!(finished);
            loop {
                tokio::select! {
                    _ = &mut finished => break,
                    _ = signals.terminate.recv() => break,
                    _ = signals.interrupt.recv() => break,
                    _ = sweep.tick() => {
                        if self.has_successor() && !admin.is_finished() {
                            tracing::info!("another agent has taken over");
                            admin.abort();
                        }
                    }
                    Some(query) = asked.recv() => self.answer(query),
                }
            }
        }
        let left = self.workers.active();
        if left > 0 {
            tracing::warn!(connections = left, "closing what the drain left");
        }
        self.workers.shutdown();
        tracing::info!("stopped");
    }
}
