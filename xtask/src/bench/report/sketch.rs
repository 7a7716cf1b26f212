// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Small made-up runs for the tests of reports and marks.

use crate::bench::sample::{
    Comparison, Latency, Machine, Outcome, Run, Sample, Series, Settings, Unit,
};

/// A run of these comparisons.
pub fn run(comparisons: Vec<Comparison>) -> Run {
    Run {
        machine: Machine {
            kernel: "6.1".to_owned(),
            cpu: "some CPU".to_owned(),
            cores: 2,
            memory_bytes: 8 << 30,
            versions: [("nginx".to_owned(), "1.22".to_owned())].into(),
        },
        settings: Settings {
            seconds: 3,
            rounds: 2,
            profile: "release".to_owned(),
            only: Vec::new(),
            peers: Vec::new(),
            notes: vec!["a note".to_owned()],
        },
        comparisons,
        figures: Vec::new(),
        skipped: Vec::new(),
    }
}

/// Contenders with their median rates, of two rounds a tenth below and above,
/// each two CPU seconds long.
pub fn comparison(scenario: &str, rates: &[(&str, f64)]) -> Comparison {
    let outcome = |rate: f64| {
        let sample = |factor: f64| Sample {
            rate: factor * rate,
            // The same in both rounds: CPU ratios are those of the medians.
            work: 10.0 * rate,
            cpu_seconds: 2.0,
            errors: 0,
            latency: None,
        };
        let samples = vec![sample(0.9), sample(1.1)];
        Outcome::Measured(Series { samples })
    };
    Comparison {
        scenario: scenario.to_owned(),
        unit: if scenario.contains("bulk") {
            Unit::BitsPerSecond
        } else {
            Unit::RequestsPerSecond
        },
        outcomes: rates
            .iter()
            .map(|(name, rate)| ((*name).to_owned(), outcome(*rate)))
            .collect(),
    }
}

/// Gives every round these percentiles, p50, p99 and p99.9, seconds.
pub fn with_latency(mut comparison: Comparison, percentiles: [f64; 3]) -> Comparison {
    let [p50, p99, p999] = percentiles;
    for (_, outcome) in &mut comparison.outcomes {
        if let Outcome::Measured(series) = outcome {
            for sample in &mut series.samples {
                sample.latency = Some(Latency { p50, p99, p999 });
            }
        }
    }
    comparison
}
