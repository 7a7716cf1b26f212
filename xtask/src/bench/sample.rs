// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is measured: one round, the rounds of a contender, the contenders of a
//! scenario, the whole run. `bench.json` is these values as they are.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// One measured round of one contender.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The scenario's figure per second: bit/s for bulk, requests/s,
    /// connections/s.
    pub rate: f64,
    /// What was done in the round: bytes for bulk, else requests or
    /// connections.
    pub work: f64,
    /// Busy CPU seconds of the whole machine during the round (/proc/stat).
    pub cpu_seconds: f64,
    /// Errors the tool reported (socket errors, timeouts, answers other than
    /// 2xx).
    pub errors: u64,
    /// Percentiles, when the load is at a fixed rate.
    pub latency: Option<Latency>,
}

impl Sample {
    /// Busy CPU seconds per byte, request or connection.
    pub fn cpu_per_work(&self) -> f64 {
        self.cpu_seconds / self.work
    }
}

/// Percentiles of the time from when a request was due to its answer, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// 99 of 100 were faster.
    pub p99: f64,
    /// 999 of 1,000 were faster.
    pub p999: f64,
}

/// The rounds of one contender in one scenario.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// In the order they ran.
    pub samples: Vec<Sample>,
}

impl Series {
    /// The middle rate; not a number without a round.
    pub fn median_rate(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.rate))
    }

    /// The lowest rate; not a number without a round.
    pub fn min_rate(&self) -> f64 {
        let rates = self.samples.iter().map(|sample| sample.rate);
        rates.fold(f64::NAN, f64::min)
    }

    /// The highest rate; not a number without a round.
    pub fn max_rate(&self) -> f64 {
        let rates = self.samples.iter().map(|sample| sample.rate);
        rates.fold(f64::NAN, f64::max)
    }

    /// Busy CPU seconds per byte, request or connection: the middle of the
    /// rounds.
    pub fn cpu_per_work(&self) -> f64 {
        median(self.samples.iter().map(Sample::cpu_per_work))
    }

    /// Errors of all rounds.
    pub fn errors(&self) -> u64 {
        self.samples.iter().map(|sample| sample.errors).sum()
    }

    /// Each percentile's middle over the rounds, when the rounds have any.
    pub fn latency(&self) -> Option<Latency> {
        let all: Vec<Latency> = self.samples.iter().filter_map(|it| it.latency).collect();
        (!all.is_empty()).then(|| Latency {
            p50: median(all.iter().map(|latency| latency.p50)),
            p99: median(all.iter().map(|latency| latency.p99)),
            p999: median(all.iter().map(|latency| latency.p999)),
        })
    }
}

/// The middle value, of an even number the mean of the two middle ones; not a
/// number when there is none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

/// What came of one contender in one scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its rounds.
    Measured(Series),
    /// Why it could not run.
    Skipped(String),
}

impl Outcome {
    /// The rounds, if it ran.
    pub fn series(&self) -> Option<&Series> {
        match self {
            Self::Measured(series) => Some(series),
            Self::Skipped(_) => None,
        }
    }
}

/// All contenders of one scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Name of the scenario.
    pub scenario: String,
    /// What its rates count.
    pub unit: Unit,
    /// Contender and what came of it, in the order of a round.
    pub outcomes: Vec<(String, Outcome)>,
}

impl Comparison {
    /// The rounds of a contender, if it ran.
    pub fn series(&self, contender: &str) -> Option<&Series> {
        self.outcomes
            .iter()
            .find(|(name, _)| name == contender)
            .and_then(|(_, outcome)| outcome.series())
    }
}

/// What a rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(
    clippy::enum_variant_names,
    reason = "each is a rate, and bench.json says so"
)]
pub enum Unit {
    /// Payload bits; the work is counted in bytes.
    BitsPerSecond,
    /// Requests over kept connections.
    RequestsPerSecond,
    /// Connections, each with one request.
    ConnectionsPerSecond,
}

impl Unit {
    /// A rate for people, such as `23.1k req/s`.
    pub fn show(self, rate: f64) -> Shown {
        Shown { unit: self, rate }
    }
}

/// A rate that prints itself with its unit.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    unit: Unit,
    rate: f64,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unit, rate } = *self;
        match unit {
            Unit::BitsPerSecond => write!(f, "{:.2} Gbit/s", rate / 1e9),
            Unit::RequestsPerSecond => write!(f, "{:.1}k req/s", rate / 1e3),
            Unit::ConnectionsPerSecond => write!(f, "{:.2}k conn/s", rate / 1e3),
        }
    }
}

/// A figure that is not a comparison of contenders: packet cost, idle
/// connections, a change of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Name of the scenario.
    pub scenario: String,
    /// What was measured.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what, such as `ns` or `bytes/connection`.
    pub unit: String,
    /// How it was measured, or what to know about it.
    pub note: String,
}

/// The whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Where it ran.
    pub machine: Machine,
    /// How it ran.
    pub settings: Settings,
    /// Scenarios that compare contenders.
    pub comparisons: Vec<Comparison>,
    /// All other figures.
    pub figures: Vec<Figure>,
    /// Scenarios that did not run at all, each with the reason.
    pub skipped: Vec<(String, String)>,
}

/// The machine of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Release of the kernel.
    pub kernel: String,
    /// Model name of the processor.
    pub cpu: String,
    /// Processors this process may use.
    pub cores: usize,
    /// Main memory.
    pub memory_bytes: u64,
    /// Program or contender, and its version.
    pub versions: BTreeMap<String, String>,
}

/// The settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Length of a measured window.
    pub seconds: u32,
    /// Measured windows of each contender.
    pub rounds: u32,
    /// Cargo profile the agent was built with.
    pub profile: String,
    /// Patterns of the scenarios that were asked for; empty: all.
    pub only: Vec<String>,
    /// Contenders that were asked for besides the ones that always run; empty:
    /// all.
    pub peers: Vec<String>,
    /// What else makes this run what it is, one sentence each.
    pub notes: Vec<String>,
}

impl Settings {
    /// Whether the run is so brief that only whether it works matters: large
    /// scenarios may then run small.
    pub fn is_check(&self) -> bool {
        self.seconds <= 1 && self.rounds <= 1
    }
}

#[cfg(test)]
mod tests {
    use super::{Comparison, Latency, Outcome, Sample, Series, Unit, median};

    fn sample(rate: f64, cpu_seconds: f64) -> Sample {
        Sample {
            rate,
            work: 10.0 * rate,
            cpu_seconds,
            errors: 1,
            latency: None,
        }
    }

    #[test]
    fn the_median_is_the_middle_one_or_between_the_middle_two() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }

    #[test]
    fn a_series_shows_its_middle_and_its_spread() {
        let series = Series {
            samples: vec![sample(30.0, 30.0), sample(10.0, 20.0), sample(20.0, 60.0)],
        };
        assert_eq!(series.median_rate(), 20.0);
        assert_eq!((series.min_rate(), series.max_rate()), (10.0, 30.0));
        // Per round 0.1, 0.2 and 0.3.
        assert_eq!(series.cpu_per_work(), 0.2);
        assert_eq!(series.errors(), 3);
        assert_eq!(series.latency(), None);
        assert!(Series::default().min_rate().is_nan());
    }

    #[test]
    fn percentiles_are_the_middle_of_the_rounds() {
        let with = |p50: f64| Sample {
            latency: Some(Latency {
                p50,
                p99: 2.0 * p50,
                p999: 3.0 * p50,
            }),
            ..sample(1.0, 1.0)
        };
        let series = Series {
            samples: vec![with(1.0), with(3.0), with(2.0)],
        };
        let latency = series.latency().unwrap();
        assert_eq!((latency.p50, latency.p99, latency.p999), (2.0, 4.0, 6.0));
    }

    #[test]
    fn a_comparison_survives_json() {
        let comparison = Comparison {
            scenario: "l4-requests".to_owned(),
            unit: Unit::RequestsPerSecond,
            outcomes: vec![
                (
                    "direct".to_owned(),
                    Outcome::Measured(Series {
                        samples: vec![sample(1.0, 1.0)],
                    }),
                ),
                ("envoy".to_owned(), Outcome::Skipped("no wheel".to_owned())),
            ],
        };
        let text = serde_json::to_string(&comparison).unwrap();
        assert_eq!(
            serde_json::from_str::<Comparison>(&text).unwrap(),
            comparison
        );
        assert!(comparison.series("direct").is_some());
        assert!(comparison.series("envoy").is_none());
    }

    #[test]
    fn rates_are_shown_with_their_unit() {
        let shown = |unit: Unit, rate| unit.show(rate).to_string();
        assert_eq!(shown(Unit::BitsPerSecond, 23.456e9), "23.46 Gbit/s");
        assert_eq!(shown(Unit::RequestsPerSecond, 23_140.0), "23.1k req/s");
        assert_eq!(shown(Unit::ConnectionsPerSecond, 9_876.0), "9.88k conn/s");
    }
}
