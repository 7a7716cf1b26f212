// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses of endpoints that are configured by name.
//!
//! Every A and AAAA record is an address. Answers are asked for again when
//! their time to live ends. A failure keeps the last good answer and is retried
//! with growing pauses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use futures_util::{
    StreamExt as _,
    future::{BoxFuture, FutureExt as _},
    stream::FuturesUnordered,
};
use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};

#[cfg(test)]
mod tests;

/// Shortest time between two questions for one name, whatever its records say.
const MIN_TTL: Duration = Duration::from_secs(1);
/// Longest; entries of /etc/hosts have no time to live at all.
const MAX_TTL: Duration = Duration::from_secs(300);
/// Pause after the first failure; it doubles with every further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest pause after failures (Envoy's refresh rate of failed clusters).
const LAST_RETRY: Duration = Duration::from_secs(60);
/// One question takes at most so long.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Answers that come within so long of each other are reported together.
const GATHER: Duration = Duration::from_millis(20);

/// Resolves the names it is told to, and keeps them resolved.
pub struct Resolver {
    resolver: Option<TokioResolver>,
    names: BTreeMap<String, Name>,
    questions: FuturesUnordered<BoxFuture<'static, (String, Answer)>>,
    /// When the first answer came that has not been reported.
    unreported: Option<Instant>,
}

/// What is known of one name.
#[derive(Debug)]
struct Name {
    addresses: Option<Vec<IpAddr>>,
    state: State,
    failures: u32,
}

#[derive(Debug)]
enum State {
    /// A question is under way.
    Asked,
    /// The next one is due then.
    Due(Instant),
}

/// Addresses and how long they hold, or why there are none.
type Answer = Result<(Vec<IpAddr>, Duration), String>;

impl Resolver {
    /// A resolver that asks as the system would: /etc/hosts, then the servers
    /// and search domains of /etc/resolv.conf.
    pub fn new() -> Self {
        let builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "no DNS servers in /etc/resolv.conf: only /etc/hosts is used");
            TokioResolver::builder_with_config(
                ResolverConfig::default(),
                TokioRuntimeProvider::default(),
            )
        });
        Self::with_builder(builder)
    }

    fn with_builder(mut builder: hickory_resolver::ResolverBuilder<TokioRuntimeProvider>) -> Self {
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // The pauses are kept here; a cache would only make answers older.
        options.cache_size = 0;
        let resolver = builder
            .build()
            .inspect_err(|error| {
                tracing::error!(%error, "names of endpoints cannot be resolved");
            })
            .ok();
        Self {
            resolver,
            names: BTreeMap::new(),
            questions: FuturesUnordered::new(),
            unreported: None,
        }
    }

    /// Replaces the names that are kept resolved. Those that stay keep their
    /// answers.
    pub fn want(&mut self, names: BTreeSet<String>) {
        self.names.retain(|name, _| names.contains(name));
        for name in names {
            self.names.entry(name).or_insert_with(|| Name {
                addresses: None,
                state: State::Due(Instant::now()),
                failures: 0,
            });
        }
    }

    /// Every name that has been resolved, with its addresses sorted.
    pub fn answers(&self) -> BTreeMap<String, Vec<IpAddr>> {
        self.names
            .iter()
            .filter_map(|(name, known)| Some((name.clone(), known.addresses.clone()?)))
            .collect()
    }

    /// Waits until [`Resolver::answers`] differs from before. Names are only
    /// resolved while this is awaited; it may be dropped and called again at
    /// any point.
    pub async fn changed(&mut self) {
        loop {
            self.ask();
            let report_at = self.unreported.map(|first| first + GATHER);
            let settled = self.questions.is_empty();
            if report_at.is_some_and(|at| settled || at <= Instant::now()) {
                self.unreported = None;
                return;
            }
            let due = self.names.values().filter_map(|name| match name.state {
                State::Due(at) => Some(at),
                State::Asked => None,
            });
            let wake = due.chain(report_at).min();
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((name, answer)) = self.questions.next(), if !settled => {
                    self.take(&name, answer);
                }
                () = sleep => {}
            }
        }
    }

    /// Starts every question that is due.
    fn ask(&mut self) {
        let Some(resolver) = &self.resolver else {
            return;
        };
        let now = Instant::now();
        for (name, known) in &mut self.names {
            if !matches!(known.state, State::Due(at) if at <= now) {
                continue;
            }
            known.state = State::Asked;
            let resolver = resolver.clone();
            let name = name.clone();
            let question = async move {
                let lookup = resolver.lookup_ip(name.as_str());
                let answer = match tokio::time::timeout(QUESTION_TIMEOUT, lookup).await {
                    Err(_) => Err("no answer in time".to_owned()),
                    Ok(Err(error)) => Err(error.to_string()),
                    Ok(Ok(found)) => {
                        let holds = found
                            .valid_until()
                            .saturating_duration_since(Instant::now());
                        Ok((found.iter().collect(), holds))
                    }
                };
                (name, answer)
            };
            self.questions.push(question.boxed());
        }
    }

    fn take(&mut self, name: &str, answer: Answer) {
        // It may not be wanted any more.
        let Some(known) = self.names.get_mut(name) else {
            return;
        };
        let now = Instant::now();
        match answer {
            Ok((mut addresses, holds)) if !addresses.is_empty() => {
                addresses.sort();
                addresses.dedup();
                known.failures = 0;
                known.state = State::Due(now + holds.clamp(MIN_TTL, MAX_TTL));
                if known.addresses.as_ref() != Some(&addresses) {
                    tracing::debug!(name, ?addresses, "resolved");
                    known.addresses = Some(addresses);
                    self.unreported.get_or_insert(now);
                }
            }
            failure => {
                let error = failure.err().unwrap_or_else(|| "no address".to_owned());
                if known.failures == 0 {
                    tracing::warn!(
                        name,
                        error,
                        kept = known.addresses.is_some(),
                        "an endpoint's name cannot be resolved; it is asked for again"
                    );
                }
                let pause = FIRST_RETRY.saturating_mul(1 << known.failures.min(16));
                known.failures = known.failures.saturating_add(1);
                known.state = State::Due(now + pause.min(LAST_RETRY));
            }
        }
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}
