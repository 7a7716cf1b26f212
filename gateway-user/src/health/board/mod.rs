// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every target with its verdict and its next probe: pure. The time is told to
//! it, and the probes are made elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::Instant,
};

use serde::Serialize;

use crate::{
    health::{
        judge::{Judge, Verdict},
        probe::Outcome,
        schedule,
    },
    model::ProbeTarget,
};

#[cfg(test)]
mod tests;

/// Names one stay of a target on the board: a target that left and came back
/// has another.
pub type TargetId = u64;

/// All targets.
pub struct Board {
    targets: HashMap<TargetId, Entry>,
    ids: BTreeMap<ProbeTarget, TargetId>,
    due: BTreeSet<(Instant, TargetId)>,
    next_id: TargetId,
    unknown: usize,
    rng: fastrand::Rng,
    counts: Counts,
}

struct Entry {
    target: ProbeTarget,
    judge: Judge,
    /// When the next probe begins; none while one is under way.
    due: Option<Instant>,
    /// When the last probe began.
    started: Option<Instant>,
    /// When the verdict was found.
    since: Instant,
    last: Option<Outcome>,
}

/// What happened since the start.
#[derive(Clone, Debug, Default)]
struct Counts {
    probes: BTreeMap<(&'static str, Outcome), u64>,
    went_up: u64,
    went_down: u64,
    late: u64,
}

/// A verdict that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Of whom.
    pub target: ProbeTarget,
    /// From what.
    pub before: Verdict,
    /// Into what.
    pub verdict: Verdict,
}

/// What probes found, for reports.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HealthReport {
    /// Every target, by address.
    pub targets: Vec<TargetReport>,
    /// Probes made, by what was asked and what came of it.
    pub probes: Vec<ProbeCount>,
    /// Times an endpoint came up; its first verdict counts.
    pub went_up: u64,
    /// Times an endpoint went down; its first verdict counts.
    pub went_down: u64,
    /// Probes that began more than one interval late, because too many others
    /// were under way.
    pub late: u64,
}

/// One target.
#[derive(Clone, Debug, Serialize)]
pub struct TargetReport {
    /// Where probes go.
    pub address: SocketAddr,
    /// `tcp`, `http`, `tls`, `mqtt` or `kafka`.
    pub protocol: &'static str,
    /// How it is probed, in words.
    pub probe: String,
    /// What is thought of it.
    pub verdict: Verdict,
    /// Seconds since that is so.
    pub for_s: u64,
    /// What came of the last probe.
    pub last: Option<&'static str>,
}

/// Probes that ended one way.
#[derive(Clone, Debug, Serialize)]
pub struct ProbeCount {
    /// What was asked.
    pub protocol: &'static str,
    /// What came of it.
    pub outcome: &'static str,
    /// How many.
    pub count: u64,
}

impl Board {
    /// An empty board; `seed` spreads the probes over time.
    pub fn new(seed: u64) -> Self {
        Self {
            targets: HashMap::new(),
            ids: BTreeMap::new(),
            due: BTreeSet::new(),
            next_id: 0,
            unknown: 0,
            rng: fastrand::Rng::with_seed(seed),
            counts: Counts::default(),
        }
    }

    /// Replaces the targets. Those that stay keep their verdict, new ones are
    /// due at once. Whether one that was down has left.
    pub fn want(&mut self, wanted: &BTreeSet<ProbeTarget>, now: Instant) -> bool {
        let gone: Vec<ProbeTarget> = self
            .ids
            .keys()
            .filter(|target| !wanted.contains(target))
            .cloned()
            .collect();
        let mut was_down = false;
        for target in gone {
            let Some(id) = self.ids.remove(&target) else {
                continue;
            };
            let Some(entry) = self.targets.remove(&id) else {
                continue;
            };
            if let Some(due) = entry.due {
                self.due.remove(&(due, id));
            }
            was_down |= entry.judge.verdict() == Verdict::Down;
            self.unknown -= usize::from(entry.judge.verdict() == Verdict::Unknown);
        }
        for target in wanted {
            if self.ids.contains_key(target) {
                continue;
            }
            let id = self.next_id;
            self.next_id += 1;
            self.ids.insert(target.clone(), id);
            self.due.insert((now, id));
            self.unknown += 1;
            self.targets.insert(
                id,
                Entry {
                    target: target.clone(),
                    judge: Judge::default(),
                    due: Some(now),
                    started: None,
                    since: now,
                    last: None,
                },
            );
        }
        was_down
    }

    /// When the next probe is due; none when all are under way.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Begins a probe that is due. Tell its end with [`Self::finish`].
    pub fn start(&mut self, now: Instant) -> Option<(TargetId, ProbeTarget)> {
        let &(at, id) = self.due.first().filter(|(at, _)| *at <= now)?;
        self.due.pop_first();
        let entry = self.targets.get_mut(&id)?;
        if now.saturating_duration_since(at) > entry.target.probe.interval {
            self.counts.late += 1;
        }
        entry.due = None;
        entry.started = Some(now);
        Some((id, entry.target.clone()))
    }

    /// Takes what came of a probe; the verdict if it changed. Ignored when the
    /// target has left meanwhile.
    pub fn finish(&mut self, id: TargetId, outcome: Outcome, now: Instant) -> Option<Turn> {
        let entry = self.targets.get_mut(&id)?;
        let probe = &entry.target.probe;
        let protocol = probe.protocol.as_str();
        *self.counts.probes.entry((protocol, outcome)).or_default() += 1;
        entry.last = Some(outcome);
        let before = entry.judge.verdict();
        let turned = outcome
            .passed()
            .is_some_and(|passed| entry.judge.take(passed, probe));
        let pause = schedule::pause(probe, &entry.judge, self.rng.f64());
        let next = entry
            .started
            .map_or(now, |started| started + pause)
            .max(now);
        entry.due = Some(next);
        self.due.insert((next, id));
        if !turned {
            return None;
        }
        entry.since = now;
        let verdict = entry.judge.verdict();
        self.unknown -= usize::from(before == Verdict::Unknown);
        match verdict {
            Verdict::Down => self.counts.went_down += 1,
            Verdict::Up | Verdict::Unknown => self.counts.went_up += 1,
        }
        Some(Turn {
            target: entry.target.clone(),
            before,
            verdict,
        })
    }

    /// Targets without a verdict.
    pub fn unknown(&self) -> usize {
        self.unknown
    }

    /// Targets that are down.
    pub fn down(&self) -> BTreeSet<ProbeTarget> {
        let down = self
            .targets
            .values()
            .filter(|entry| entry.judge.verdict() == Verdict::Down);
        down.map(|entry| entry.target.clone()).collect()
    }

    /// What was found so far.
    pub fn report(&self, now: Instant) -> HealthReport {
        let Counts {
            probes,
            went_up,
            went_down,
            late,
        } = &self.counts;
        let targets = self.ids.values().filter_map(|id| self.targets.get(id));
        HealthReport {
            targets: targets
                .map(|entry| TargetReport {
                    address: entry.target.address,
                    protocol: entry.target.probe.protocol.as_str(),
                    probe: entry.target.probe.to_string(),
                    verdict: entry.judge.verdict(),
                    for_s: now.saturating_duration_since(entry.since).as_secs(),
                    last: entry.last.map(Outcome::as_str),
                })
                .collect(),
            probes: probes
                .iter()
                .map(|((protocol, outcome), count)| ProbeCount {
                    protocol,
                    outcome: outcome.as_str(),
                    count: *count,
                })
                .collect(),
            went_up: *went_up,
            went_down: *went_down,
            late: *late,
        }
    }
}
