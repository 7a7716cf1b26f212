// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The rounds of one scenario: its contenders in turn, again and again. What
//! else the machine does then hits all of them, and reversing every second
//! round takes a drift out.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{
    contender::{Contender, Start},
    load::{Load, Target},
    sample::{Comparison, Outcome, Sample, Series},
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
    let mut load = match scenario.plan {
        Plan::Most(load) => Some(load),
        Plan::HalfOfSlowest(of, load) => {
            let rate = match earlier.iter().find(|comparison| comparison.scenario == of) {
                Some(comparison) => slowest(comparison),
                None => probe(stage, scenario, load, contenders)?,
            };
            rate.map(|rate| Load::Rate(0.5 * rate))
        }
    };
    let rounds = stage.settings.rounds;
    let window = Duration::from_secs(stage.settings.seconds.into());
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..entries.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let Entry {
                contender, outcome, ..
            } = &mut entries[index];
            let what = format!("{name} round {}/{rounds} {contender}", round + 1);
            let Outcome::Measured(series) = outcome else {
                progress.step(&what, "SKIPPED, as before");
                continue;
            };
            let Some(load) = &mut load else {
                *outcome = Outcome::Skipped("no contender reached any rate to halve".to_owned());
                progress.step(&what, "SKIPPED");
                continue;
            };
            let once = once(stage, scenario, *contender, *load, window);
            stop::check()?;
            match once {
                Ok(Once::Sample(sample)) => {
                    let errors = match sample.errors {
                        0 => String::new(),
                        errors => format!(", {errors} errors"),
                    };
                    let rate = load.unit().show(sample.rate);
                    progress.step(&what, &format!("{rate}{errors}"));
                    series.samples.push(sample);
                }
                Ok(Once::Skipped(reason)) => {
                    progress.step(&what, &format!("SKIPPED: {reason}"));
                    *outcome = Outcome::Skipped(reason);
                }
                Err(error) => {
                    let reason = format!("FAILED: {}", one_line(&error));
                    progress.step(&what, &reason);
                    *outcome = Outcome::Skipped(reason.clone());
                    entries[index].failure = Some(format!("{name}: {contender}: {reason}"));
                }
            }
        }
    }
    let unit = match scenario.plan {
        Plan::Most(load) | Plan::HalfOfSlowest(_, load) => load.unit(),
    };
    let mut compared = Compared {
        comparison: Comparison {
            scenario: name.to_owned(),
            unit,
            outcomes: Vec::new(),
        },
        failures: Vec::new(),
    };
    for Entry {
        contender,
        outcome,
        failure,
    } in entries
    {
        let row = (contender.name().to_owned(), outcome);
        compared.comparison.outcomes.push(row);
        compared.failures.extend(failure);
    }
    Ok(compared)
}

struct Entry {
    contender: Contender,
    outcome: Outcome,
    failure: Option<String>,
}

impl Entry {
    fn new(contender: Contender) -> Self {
        Self {
            contender,
            outcome: Outcome::Measured(Series::default()),
            failure: None,
        }
    }
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

/// The lowest rate among contenders that ran.
fn slowest(comparison: &Comparison) -> Option<f64> {
    comparison
        .outcomes
        .iter()
        .filter_map(|(_, outcome)| Some(outcome.series()?.median_rate()))
        .min_by(f64::total_cmp)
}

/// The lowest rate of a brief round, when the scenario that would tell it was
/// not asked for.
fn probe(
    stage: &Stage<'_>,
    scenario: &Compare,
    load: Load,
    contenders: &[Contender],
) -> Result<Option<f64>> {
    let mut lowest: Option<f64> = None;
    for contender in contenders {
        let once = once(stage, scenario, *contender, load, Duration::from_secs(1));
        stop::check()?;
        // Who fails here fails in its round, which tells it.
        if let Ok(Once::Sample(sample)) = once {
            lowest = Some(lowest.map_or(sample.rate, |rate| rate.min(sample.rate)));
        }
    }
    Ok(lowest)
}

/// An error and its causes as one line.
pub fn one_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
