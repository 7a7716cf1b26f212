// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The thread that asks: neither a long compilation nor a busy connection may
//! make an endpoint look slow.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::watch;

use crate::{
    health::{
        board::{Board, HealthReport, Turn},
        judge::Verdict,
        probe,
    },
    model::ProbeTarget,
};

#[cfg(test)]
mod tests;

/// Verdicts that come within so long of each other are reported together: each
/// report is a compilation.
const GATHER: Duration = Duration::from_millis(20);

/// Probes the targets it is told, for as long as it lives.
pub struct Prober {
    wanted: watch::Sender<Wanted>,
    down: watch::Receiver<Arc<BTreeSet<ProbeTarget>>>,
    /// The [`Wanted`] whose targets all have a verdict.
    complete: watch::Receiver<u64>,
    board: Arc<Mutex<Board>>,
}

/// What is to be probed; the number grows with every change.
#[derive(Clone, Default)]
struct Wanted {
    number: u64,
    targets: Arc<BTreeSet<ProbeTarget>>,
}

/// Why there can be no probes.
#[derive(Debug, thiserror::Error)]
pub enum ProberError {
    /// No thread.
    #[error("cannot start the thread that probes endpoints: {0}")]
    Thread(#[from] io::Error),
    /// No TLS.
    #[error("cannot prepare TLS for probes: {0}")]
    Tls(#[from] rustls::Error),
}

impl Prober {
    /// Starts the thread; at most `max_concurrent` probes are under way at once.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(max_concurrent: usize) -> Result<Self, ProberError> {
        let (wanted, wants) = watch::channel(Wanted::default());
        let (shown, down) = watch::channel(Arc::default());
        let (completed, complete) = watch::channel(0);
        let board = Arc::new(Mutex::new(Board::new(fastrand::u64(..))));
        let asker = Asker {
            wants,
            shown,
            completed,
            board: Arc::clone(&board),
            tls: probe::client_config()?,
            max_concurrent,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::Builder::new()
            .name("health".to_owned())
            .spawn(move || runtime.block_on(asker.run()))?;
        Ok(Self {
            wanted,
            down,
            complete,
            board,
        })
    }

    /// Replaces the targets; those that stay keep their verdicts.
    pub fn want(&self, targets: BTreeSet<ProbeTarget>) {
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted.targets != targets;
            if changed {
                wanted.number += 1;
                wanted.targets = Arc::new(targets);
            }
            changed
        });
    }

    /// Targets that are down.
    pub fn down(&mut self) -> BTreeSet<ProbeTarget> {
        (**self.down.borrow_and_update()).clone()
    }

    /// Waits until [`Self::down`] differs from before. It may be dropped and
    /// called again at any point.
    pub async fn changed(&mut self) {
        if self.down.changed().await.is_err() {
            // The thread has ended: nothing will change any more.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until every target has a verdict, at most for `limit`.
    pub async fn settle(&mut self, limit: Duration) {
        let number = self.wanted.borrow().number;
        let complete = self.complete.wait_for(|complete| *complete >= number);
        // Those without a verdict count as up.
        let _ = tokio::time::timeout(limit, complete).await;
    }

    /// What was found so far.
    pub fn report(&self) -> HealthReport {
        lock(&self.board).report(Instant::now())
    }
}

/// What the thread owns.
struct Asker {
    wants: watch::Receiver<Wanted>,
    shown: watch::Sender<Arc<BTreeSet<ProbeTarget>>>,
    completed: watch::Sender<u64>,
    board: Arc<Mutex<Board>>,
    tls: Arc<rustls::ClientConfig>,
    max_concurrent: usize,
}

impl Asker {
    /// Asks until nobody wants anything any more.
    async fn run(mut self) {
        let mut under_way = FuturesUnordered::new();
        // When the first verdict came that has not been reported.
        let mut unreported: Option<Instant> = None;
        let mut number = 0;
        loop {
            let now = Instant::now();
            let report_at = unreported.map(|first| first + GATHER);
            if report_at.is_some_and(|at| at <= now) {
                self.report();
                unreported = None;
            }
            self.complete(number);
            let due = {
                let mut board = lock(&self.board);
                while under_way.len() < self.max_concurrent
                    && let Some((id, target)) = board.start(now)
                {
                    let tls = Arc::clone(&self.tls);
                    under_way.push(async move { (id, probe::ask(&target, &tls).await) });
                }
                board
                    .next_due()
                    .filter(|_| under_way.len() < self.max_concurrent)
            };
            let wake = due
                .into_iter()
                .chain(report_at.filter(|at| *at > now))
                .min();
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.wants.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let wanted = self.wants.borrow_and_update().clone();
                    number = wanted.number;
                    let left = lock(&self.board).want(&wanted.targets, Instant::now());
                    if left {
                        unreported.get_or_insert(now);
                    }
                }
                Some((id, outcome)) = under_way.next(), if !under_way.is_empty() => {
                    let turn = lock(&self.board).finish(id, outcome, Instant::now());
                    if let Some(turn) = turn {
                        log(&turn, outcome);
                        unreported.get_or_insert(now);
                    }
                }
                () = sleep => {}
            }
        }
    }

    /// Shows what is down, if it is not what is shown.
    fn report(&self) {
        let down = lock(&self.board).down();
        self.shown.send_if_modified(|shown| {
            let changed = **shown != down;
            if changed {
                *shown = Arc::new(down);
            }
            changed
        });
    }

    /// Says once that all targets of a number have verdicts.
    fn complete(&self, number: u64) {
        if *self.completed.borrow() < number && lock(&self.board).unknown() == 0 {
            self.report();
            self.completed.send_replace(number);
        }
    }
}

/// At a start most endpoints come up, which nobody has to read.
fn log(turn: &Turn, outcome: probe::Outcome) {
    let Turn {
        target,
        before,
        verdict,
    } = turn;
    let (address, probe) = (target.address, target.probe.protocol.as_str());
    match (before, verdict) {
        (_, Verdict::Down) => tracing::warn!(
            %address,
            probe,
            outcome = outcome.as_str(),
            "endpoint down: it takes no new connections until its probes pass"
        ),
        (Verdict::Unknown, _) => tracing::debug!(%address, probe, "endpoint up"),
        _ => tracing::info!(%address, probe, "endpoint up again"),
    }
}

/// A panic cannot leave the board half changed for long: its verdicts are
/// found again by the next probes.
fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}
