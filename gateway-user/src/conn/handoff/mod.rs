// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Hands a relayed connection over to the kernel.
//!
//! Once a connection has moved enough bytes to be worth it, and its two sockets
//! fit together, its packets are noted down by the kernel's programs. At a moment
//! when nothing is on its way, the two sockets become one flow. Until then, and
//! whenever it does not work out, it is relayed as any other.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    net::TcpStream,
    time::{Sleep, sleep},
};

use crate::{
    datapath::handoff::{ConnectionNames, Ends, Handoffs, Observed, RelayMode, Relayed},
    drain::DrainWatcher,
    model::{
        HandoffPolicy,
        handoff::{HandoffAfter, HandoffChoice},
    },
    origin::Origin,
    snapshot::Cluster,
    telemetry::counters::{NOT_YET, WorkerCounters},
};

mod due;
mod eligible;
mod repair;
mod switch;

use due::Due;
use eligible::{Fit, Ineligible};
use switch::Attempt;

/// Attempts at once, each a moment after the other, while an answer to the first
/// is on its way: it takes a network's round trip, which no timer is that fine
/// for.
const QUICK_TRIES: u32 = 32;
/// Time between attempts after those, doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(1);
/// At most; then the connection rests.
const LAST_WAIT: Duration = Duration::from_millis(256);
/// Time until a connection that was never quiet is tried again, doubled each
/// time.
const FIRST_REST: Duration = Duration::from_secs(5);
const LAST_REST: Duration = Duration::from_secs(300);
/// The same while the agent drains.
const DRAIN_REST: Duration = Duration::from_millis(250);

/// What connections need to be handed off.
#[derive(Clone, Debug)]
pub struct HandoffOptions {
    /// The kernel's table.
    pub table: Arc<Handoffs>,
    /// Whether those are whose route does not say.
    pub by_default: bool,
    /// When, where the route does not say.
    pub after: HandoffAfter,
}

impl HandoffOptions {
    /// Whether connections of a route are handed off.
    pub fn includes(&self, route: &HandoffPolicy) -> bool {
        match route.mode {
            Some(mode) => mode != HandoffChoice::Off,
            None => self.by_default,
        }
    }
}

/// What is known of a connection that may be handed off, and goes with it.
#[derive(Clone, Debug)]
pub struct About {
    /// Its addresses.
    pub ends: Ends,
    /// How it came to its backend.
    pub mode: RelayMode,
    /// Server name of its ClientHello.
    pub sni: Option<String>,
    /// First protocol it offered.
    pub alpn: Option<String>,
    /// The rule.
    pub rule: Origin,
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// When it was accepted.
    pub accepted: Instant,
    /// Its idle timeout, if it has one.
    pub idle: Option<Duration>,
    /// What its route says.
    pub policy: HandoffPolicy,
}

impl About {
    /// Says what became of a try: to whoever has asked for it.
    fn tell(&self, outcome: &str, reason: &dyn fmt::Display) {
        let client = self.ends.client;
        let sni = self.sni.as_deref();
        if self.policy.mode == Some(HandoffChoice::AlwaysLog) {
            tracing::info!(%client, sni, %reason, "{outcome}");
        } else {
            tracing::debug!(%client, sni, %reason, "{outcome}");
        }
    }

    fn relayed(&self) -> Relayed {
        Relayed {
            ends: self.ends,
            names: ConnectionNames {
                mode: self.mode,
                sni: self.sni.clone(),
                alpn: self.alpn.clone(),
                rule: Some(self.rule.to_string()),
                cluster: Some(self.cluster.id.to_string()),
            },
            accepted: self.accepted,
            timeout_s: self.idle.map_or(0, |idle| {
                u32::try_from(idle.as_secs().max(1)).unwrap_or(u32::MAX)
            }),
        }
    }
}

/// One connection on its way out.
#[derive(Debug)]
pub struct Handoff {
    table: Arc<Handoffs>,
    counters: Arc<WorkerCounters>,
    about: About,
    due: Due,
    /// Why the last try came to nothing.
    kept: Option<&'static str>,
    /// The agent ends.
    drains: bool,
    rest: Duration,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// For enough bytes, or for the end of a rest.
    Waiting { rested: Option<Pin<Box<Sleep>>> },
    /// Its packets are noted down.
    Observing(Box<Observing>),
    /// It stays with the agent.
    Never,
}

#[derive(Debug)]
struct Observing {
    observed: Observed,
    fit: Fit,
    tries: u32,
    wait: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Handoff {
    /// For one connection.
    pub fn new(
        options: &HandoffOptions,
        counters: Arc<WorkerCounters>,
        drain: &DrainWatcher,
        about: About,
    ) -> Self {
        let after = about.policy.after.unwrap_or(options.after);
        Self {
            table: Arc::clone(&options.table),
            counters,
            due: Due::new(after, about.accepted, drain),
            about,
            kept: None,
            drains: false,
            rest: FIRST_REST,
            stage: Stage::Waiting { rested: None },
        }
    }

    /// Ready once the kernel has the connection: the sockets are to be dropped.
    /// `moved` says how many bytes from the client and to it, `quiet` whether the caller
    /// holds none of them; it is asked again after anything has moved.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        moved: [u64; 2],
        quiet: bool,
        client: &TcpStream,
        backend: &TcpStream,
    ) -> Poll<()> {
        if let Stage::Waiting { rested } = &mut self.stage {
            let drains = self.due.poll_drain(cx);
            let is_due = self.due.poll(cx, moved) || drains;
            if let Some(sleep) = rested {
                // A drain does not wait for the end of the rest that it finds.
                if sleep.as_mut().poll(cx).is_pending() && (!drains || self.drains) {
                    return Poll::Pending;
                }
                *rested = None;
            }
            self.drains = drains;
            if !is_due || !quiet {
                return Poll::Pending;
            }
            self.stage = self.begin(cx, client, backend);
        }
        let Stage::Observing(observing) = &mut self.stage else {
            return Poll::Pending;
        };
        if let Some(sleep) = &mut observing.sleep {
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            observing.sleep = None;
        }
        if quiet {
            let fit = observing.fit;
            // Once at the start, then each time it has waited.
            let may_ask = observing.tries == 0 || observing.tries >= QUICK_TRIES;
            let observed = &mut observing.observed;
            match switch::attempt(client, backend, observed, fit, moved, may_ask) {
                Ok(Attempt::Done(hold)) => {
                    self.counters.handoff.holds.observe(hold);
                    self.about
                        .tell("handed off", &format_args!("held for {hold:?}"));
                    self.stage = Stage::Never;
                    return Poll::Ready(());
                }
                Ok(Attempt::NotYet(reason)) => {
                    self.counters.handoff.not_yet[reason as usize].add(1);
                    let reason = NOT_YET[reason as usize];
                    if self.kept.replace(reason) != Some(reason) {
                        self.about.tell("not yet handed off", &reason);
                    }
                }
                Ok(Attempt::Ending) => {
                    self.about.tell("not handed off", &"it ends");
                    self.stage = Stage::Never;
                    return Poll::Pending;
                }
                Err(error) => {
                    self.about.tell("not handed off", &error);
                    self.counters.handoff.failed.add(1);
                    self.stage = Stage::Never;
                    return Poll::Pending;
                }
            }
        }
        observing.tries += 1;
        if observing.tries < QUICK_TRIES {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if observing.wait > LAST_WAIT {
            self.counters.handoff.gave_up.add(1);
            self.about
                .tell("given up for a while", &self.kept.unwrap_or("never quiet"));
            self.stage = self.rest(cx);
        } else {
            let mut wait = Box::pin(sleep(observing.wait));
            observing.wait *= 2;
            // Registers the waker; it cannot be over yet.
            let _ = wait.as_mut().poll(cx);
            observing.sleep = Some(wait);
        }
        Poll::Pending
    }

    /// Leaves it to the agent for a while.
    fn rest(&mut self, cx: &mut Context<'_>) -> Stage {
        self.drains |= self.due.poll_drain(cx);
        let mut rested = Box::pin(sleep(if self.drains { DRAIN_REST } else { self.rest }));
        self.rest = (self.rest * 2).min(LAST_REST);
        let _ = rested.as_mut().poll(cx);
        Stage::Waiting {
            rested: Some(rested),
        }
    }

    /// Begins to observe the connection, if it can be handed off at all.
    fn begin(&mut self, cx: &mut Context<'_>, client: &TcpStream, backend: &TcpStream) -> Stage {
        let fit = match (repair::info(client), repair::info(backend)) {
            (Ok(_), Ok(_)) if !self.table.forwards(&self.about.ends) => {
                Err(Ineligible::NotForwarded)
            }
            (Ok(client), Ok(backend)) => eligible::fit(&client, &backend),
            _ => return Stage::Never,
        };
        let fit = match fit {
            Ok(fit) => fit,
            Err(reason) => {
                self.about.tell("cannot be handed off", &reason.name());
                self.counters.handoff.ineligible[reason as usize].add(1);
                return Stage::Never;
            }
        };
        match self
            .table
            .observe(&self.about.relayed(), fit.keep, fit.window_shift)
        {
            Ok(observed) => {
                self.counters.handoff.begun.add(1);
                Stage::Observing(Box::new(Observing {
                    observed,
                    fit,
                    tries: 0,
                    wait: FIRST_WAIT,
                    sleep: None,
                }))
            }
            Err(error) => {
                self.about.tell("not yet handed off", &error);
                let counters = &self.counters.handoff;
                match error.kind() {
                    io::ErrorKind::QuotaExceeded => counters.table_full.add(1),
                    io::ErrorKind::AlreadyExists => counters.ports_taken.add(1),
                    _ => counters.failed.add(1),
                }
                self.rest(cx)
            }
        }
    }
}

/// Lets a connection to a backend send, and be sent, no longer segments than its
/// client's connection can.
pub fn limit_mss(backend: &impl std::os::fd::AsFd, client: &TcpStream) -> io::Result<()> {
    repair::limit_mss(backend, eligible::mss_for(&repair::info(client)?))
}
