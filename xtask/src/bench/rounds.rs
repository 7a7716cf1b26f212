// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The rounds of one scenario: its contenders in turn, again and again. What
//! else the machine does then hits all of them, and reversing every second
//! round takes a drift out.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{
    contender::{Contender, Start},
    load::{Load, Target},
    sample::{Comparison, Latency, Outcome, Sample, Series},
    scenario::{Compare, Plan},
    stage::Stage,
    stop,
};

/// Counts steps and says what each came to.
pub struct Progress {
    done: usize,
    total: usize,
}

impl Progress {
    /// Nothing done of `total` steps.
    pub fn new(total: usize) -> Self {
        Self { done: 0, total }
    }

    /// One more step.
    pub fn step(&mut self, what: &str, outcome: &str) {
        self.done += 1;
        println!("[{}/{}] {what}: {outcome}", self.done, self.total);
    }
}

/// What the contenders of a scenario came to.
pub struct Compared {
    /// Their figures.
    pub comparison: Comparison,
    /// Contenders that should have run but failed, one line each.
    pub failures: Vec<String>,
}

/// Runs all rounds of a scenario. `earlier` are the scenarios before it, which a
/// rate may be taken from.
///
/// # Errors
///
/// When the user stops it. A contender that fails is noted, and the others go
/// on.
pub fn compare(
    stage: &Stage<'_>,
    name: &str,
    scenario: &Compare,
    contenders: &[Contender],
    earlier: &[Comparison],
    progress: &mut Progress,
) -> Result<Compared> {
    let mut entries: Vec<Entry> = contenders.iter().copied().map(Entry::new).collect();
    let load = load(stage, scenario, contenders, earlier)?;
    let rounds = stage.settings.rounds;
    for round in 0..rounds {
        let mut order: Vec<&mut Entry> = entries.iter_mut().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for entry in order {
            let what = format!("{name} round {}/{rounds} {}", round + 1, entry.contender);
            let said = entry.play(stage, scenario, load)?;
            progress.step(&what, &said);
        }
    }
    let unit = match scenario.plan {
        Plan::Most(load) | Plan::HalfOfSlowest(_, load) => load.unit(),
    };
    let failures = entries
        .iter()
        .filter(|entry| entry.failed)
        .map(|entry| format!("{name}: {}: {}", entry.contender, entry.reason()))
        .collect();
    let outcomes = entries
        .into_iter()
        .map(|entry| (entry.contender.name().to_owned(), entry.outcome))
        .collect();
    Ok(Compared {
        comparison: Comparison {
            scenario: name.to_owned(),
            unit,
            outcomes,
        },
        failures,
    })
}

/// A contender in one scenario.
struct Entry {
    contender: Contender,
    outcome: Outcome,
    failed: bool,
}

impl Entry {
    fn new(contender: Contender) -> Self {
        Self {
            contender,
            outcome: Outcome::Measured(Series::default()),
            failed: false,
        }
    }

    /// Its round, unless an earlier one showed that it cannot; what to say.
    fn play(
        &mut self,
        stage: &Stage<'_>,
        scenario: &Compare,
        load: Option<Load>,
    ) -> Result<String> {
        let Outcome::Measured(series) = &mut self.outcome else {
            return Ok("SKIPPED, as before".to_owned());
        };
        let Some(load) = load else {
            return Ok(self.skip("no contender reached a rate to halve".to_owned()));
        };
        let window = Duration::from_secs(stage.settings.seconds.into());
        let once = once(stage, scenario, self.contender, load, window);
        // A tool that the signal ended has not failed.
        stop::check()?;
        match once {
            Ok(Once::Sample(sample)) => {
                let said = said(load, &sample);
                series.samples.push(sample);
                Ok(said)
            }
            Ok(Once::Skipped(reason)) => Ok(self.skip(reason)),
            Err(error) => {
                self.failed = true;
                self.outcome = Outcome::Skipped(failed(&error));
                Ok(self.reason().to_owned())
            }
        }
    }

    fn skip(&mut self, reason: String) -> String {
        let said = format!("SKIPPED: {reason}");
        self.outcome = Outcome::Skipped(reason);
        said
    }

    fn reason(&self) -> &str {
        match &self.outcome {
            Outcome::Skipped(reason) => reason,
            Outcome::Measured(_) => "",
        }
    }
}

fn said(load: Load, sample: &Sample) -> String {
    let mut text = load.unit().show(sample.rate).to_string();
    if let Some(Latency { p50, p99, .. }) = sample.latency {
        text.push_str(&format!(
            ", p50 {:.2} ms, p99 {:.2} ms",
            p50 * 1e3,
            p99 * 1e3
        ));
    }
    if sample.errors > 0 {
        text.push_str(&format!(", {} errors", sample.errors));
    }
    text
}

/// The load of all rounds; none when there is no rate to halve.
fn load(
    stage: &Stage<'_>,
    scenario: &Compare,
    contenders: &[Contender],
    earlier: &[Comparison],
) -> Result<Option<Load>> {
    let (of, load) = match scenario.plan {
        Plan::Most(load) => return Ok(Some(load)),
        Plan::HalfOfSlowest(of, load) => (of, load),
    };
    let rate = match earlier.iter().find(|earlier| earlier.scenario == of) {
        Some(comparison) => slowest(comparison, contenders),
        None => probe(stage, scenario, load, contenders)?,
    };
    Ok(rate.map(|rate| Load::Rate(0.5 * rate)))
}

enum Once {
    Sample(Sample),
    Skipped(String),
}

/// One round of one contender: started, warmed up, measured, ended.
fn once(
    stage: &Stage<'_>,
    scenario: &Compare,
    contender: Contender,
    load: Load,
    window: Duration,
) -> Result<Once> {
    let running = match contender.start(stage, scenario.service)? {
        Start::Running(running) => running,
        Start::Skipped(reason) => return Ok(Once::Skipped(reason)),
    };
    let target = Target {
        stage,
        service: scenario.service,
        address: running.target,
    };
    load.warm_up(&target).context("warm up")?;
    load.measure(&target, window).map(Once::Sample)
}

/// The lowest rate among peers that ran; without one, among all that did.
fn slowest(comparison: &Comparison, contenders: &[Contender]) -> Option<f64> {
    let rate = |it: &Contender| Some(comparison.series(it.name())?.median_rate());
    let peers = contenders.iter().filter(|it| !it.is_kept());
    peers
        .filter_map(rate)
        .min_by(f64::total_cmp)
        .or_else(|| contenders.iter().filter_map(rate).min_by(f64::total_cmp))
}

/// [`slowest`] of a brief round, when the scenario that would tell it was not
/// asked for.
fn probe(
    stage: &Stage<'_>,
    scenario: &Compare,
    load: Load,
    contenders: &[Contender],
) -> Result<Option<f64>> {
    let (kept, peers): (Vec<Contender>, Vec<Contender>) =
        contenders.iter().partition(|it| it.is_kept());
    for group in [peers, kept] {
        let mut lowest: Option<f64> = None;
        for contender in group {
            let once = once(stage, scenario, contender, load, Duration::from_secs(1));
            stop::check()?;
            // Who fails here fails in its round, which tells it.
            if let Ok(Once::Sample(sample)) = once {
                lowest = Some(lowest.map_or(sample.rate, |rate| rate.min(sample.rate)));
            }
        }
        if lowest.is_some() {
            return Ok(lowest);
        }
    }
    Ok(None)
}

/// An error and its causes as one line, told from what could not run here.
pub fn failed(error: &anyhow::Error) -> String {
    let text = format!("{FAILED} {error:#}");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// How the reason of something that should have run begins.
pub const FAILED: &str = "FAILED:";
