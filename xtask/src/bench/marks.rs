// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The marks Sluice is to reach, and by how much a run misses one. All but the
//! last few are ratios within one run: nothing else means anything on a noisy
//! machine.

use super::sample::{Comparison, Run, Series};

/// Something to reach.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// The scenario that tells.
    pub scenario: &'static str,
    /// What has to be so, in words.
    pub text: &'static str,
    /// The contender it is about.
    own: &'static str,
    measure: Measure,
    bound: Bound,
}

/// The figure of a run that a mark is about.
#[derive(Clone, Copy, Debug)]
enum Measure {
    /// Sluice's rate over the highest of these contenders.
    Rate(&'static [&'static str]),
    /// Sluice's CPU per byte, request or connection over the lowest of these
    /// contenders, client and backends included: for paths that cost so little
    /// that the difference to direct is within the noise.
    Cpu(&'static [&'static str]),
    /// The same with what direct takes subtracted from both.
    CpuOverDirect(&'static [&'static str]),
    /// The highest figure of the scenario in this unit whose name has all of
    /// these words.
    Figure {
        unit: &'static str,
        words: &'static [&'static str],
    },
}

/// What reaches a mark.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

/// What a run says about a mark.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is reached.
    Reached {
        /// What was measured.
        value: f64,
        /// What was asked for.
        bound: Bound,
    },
    /// It is not.
    Missed {
        /// What was measured.
        value: f64,
        /// What was asked for.
        bound: Bound,
    },
    /// The run does not tell.
    NotMeasured {
        /// Why.
        why: String,
    },
}

impl Verdict {
    /// In words: the value, the bound, and by how much it is missed.
    pub fn text(&self) -> String {
        match self {
            Self::Reached { value, bound } => {
                format!("reached: {}, {}", short(*value), bound.text())
            }
            Self::Missed { value, bound } => {
                let (Bound::AtLeast(limit) | Bound::AtMost(limit)) = bound;
                let off = 100.0 * (value / limit - 1.0);
                format!(
                    "MISSED by {:.0} %: {}, {}",
                    off.abs().max(1.0),
                    short(*value),
                    bound.text()
                )
            }
            Self::NotMeasured { why } => format!("not measured: {why}"),
        }
    }
}

impl Bound {
    fn text(self) -> String {
        match self {
            Self::AtLeast(limit) => format!("at least {} wanted", short(limit)),
            Self::AtMost(limit) => format!("at most {} wanted", short(limit)),
        }
    }

    fn is_reached(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
        }
    }
}

/// All marks and what a run says about each.
pub fn judge(run: &Run) -> Vec<(Mark, Verdict)> {
    MARKS.iter().map(|mark| (*mark, mark.judge(run))).collect()
}

impl Mark {
    fn judge(&self, run: &Run) -> Verdict {
        let bound = self.bound;
        match self.value(run) {
            Ok(value) if bound.is_reached(value) => Verdict::Reached { value, bound },
            Ok(value) => Verdict::Missed { value, bound },
            Err(why) => Verdict::NotMeasured { why },
        }
    }

    /// The figure, or why there is none.
    fn value(&self, run: &Run) -> Result<f64, String> {
        if let Some((_, why)) = run.skipped.iter().find(|(name, _)| name == self.scenario) {
            return Err(why.clone());
        }
        let value = match self.measure {
            Measure::Rate(peers) => {
                let comparison = self.comparison(run)?;
                let own = measured(comparison, self.own)?.median_rate();
                own / best(comparison, peers, |series| -series.median_rate())?.median_rate()
            }
            Measure::Cpu(peers) => {
                let comparison = self.comparison(run)?;
                let own = measured(comparison, self.own)?.cpu_per_work();
                own / best(comparison, peers, Series::cpu_per_work)?.cpu_per_work()
            }
            Measure::CpuOverDirect(peers) => {
                let comparison = self.comparison(run)?;
                let direct = measured(comparison, DIRECT)?.cpu_per_work();
                let own = measured(comparison, self.own)?.cpu_per_work() - direct;
                let peer = best(comparison, peers, Series::cpu_per_work)?.cpu_per_work() - direct;
                if own <= 0.0 || peer <= 0.0 {
                    return Err("the difference to direct is within the noise".to_owned());
                }
                own / peer
            }
            Measure::Figure { unit, words } => run
                .figures
                .iter()
                .filter(|figure| figure.scenario == self.scenario && figure.unit == unit)
                .filter(|figure| words.iter().all(|word| figure.name.contains(word)))
                .map(|figure| figure.value)
                .max_by(f64::total_cmp)
                .ok_or_else(|| self.not_run())?,
        };
        if value.is_finite() {
            Ok(value)
        } else {
            Err("a rate or a CPU time is zero".to_owned())
        }
    }

    fn comparison<'run>(&self, run: &'run Run) -> Result<&'run Comparison, String> {
        run.comparisons
            .iter()
            .find(|comparison| comparison.scenario == self.scenario)
            .ok_or_else(|| self.not_run())
    }

    fn not_run(&self) -> String {
        format!("{} did not run", self.scenario)
    }
}

fn measured<'run>(comparison: &'run Comparison, name: &str) -> Result<&'run Series, String> {
    comparison
        .series(name)
        .filter(|series| !series.samples.is_empty())
        .ok_or_else(|| format!("{name} was not measured"))
}

/// The series of the peer with the lowest `rank`.
fn best<'run>(
    comparison: &'run Comparison,
    peers: &[&str],
    rank: impl Fn(&Series) -> f64,
) -> Result<&'run Series, String> {
    peers
        .iter()
        .filter_map(|peer| measured(comparison, peer).ok())
        .min_by(|a, b| rank(a).total_cmp(&rank(b)))
        .ok_or_else(|| format!("{} was not measured", peers.join(" or ")))
}

/// A number with as many digits as say something.
fn short(value: f64) -> String {
    if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

/// The contender most marks are about.
const SLUICE: &str = "sluice";
/// The same once the kernel has the connection.
const HANDOFF: &str = "sluice-handoff";
/// The floor: no gateway.
const DIRECT: &str = "direct";
const PROXIES: &[&str] = &["haproxy", "nginx"];
const PEERS: &[&str] = &["haproxy", "nginx", "envoy"];

const MARKS: &[Mark] = &[
    at_least(
        "l4-bulk",
        "0.95 of nftables' throughput",
        Measure::Rate(&["nftables"]),
        0.95,
    ),
    at_most(
        "l4-bulk",
        "1.05 of nftables' CPU",
        Measure::Cpu(&["nftables"]),
        1.05,
    ),
    at_least(
        "l4-bulk",
        "3 times HAProxy's throughput",
        Measure::Rate(&["haproxy"]),
        3.0,
    ),
    at_least(
        "l4-requests",
        "0.95 of nftables' throughput",
        Measure::Rate(&["nftables"]),
        0.95,
    ),
    at_most(
        "l4-requests",
        "1.05 of nftables' CPU",
        Measure::Cpu(&["nftables"]),
        1.05,
    ),
    at_least(
        "l4-connections",
        "nftables' connections",
        Measure::Rate(&["nftables"]),
        1.0,
    ),
    at_most(
        "sni-bulk",
        "0.9 of the CPU of HAProxy and nginx, over direct",
        Measure::CpuOverDirect(PROXIES),
        0.9,
    ),
    at_most(
        "sni-requests",
        "0.9 of the CPU of HAProxy and nginx, over direct",
        Measure::CpuOverDirect(PROXIES),
        0.9,
    ),
    at_least(
        "sni-bulk",
        "handed off: 0.9 of nftables' throughput",
        Measure::Rate(&["nftables"]),
        0.9,
    )
    .of_handoff(),
    at_most(
        "sni-requests",
        "handed off: 1.3 of nftables' CPU",
        Measure::Cpu(&["nftables"]),
        1.3,
    )
    .of_handoff(),
    at_most(
        "sni-requests",
        "handed off: 0.6 of the CPU of the best proxy, over direct",
        Measure::CpuOverDirect(PEERS),
        0.6,
    )
    .of_handoff(),
    at_least(
        "sni-connections",
        "1.2 of the best peer's connections",
        Measure::Rate(PEERS),
        1.2,
    ),
    at_least(
        "https-requests",
        "1.5 times Envoy's requests",
        Measure::Rate(&["envoy"]),
        1.5,
    ),
    at_least(
        "h2-requests",
        "1.5 times Envoy's requests",
        Measure::Rate(&["envoy"]),
        1.5,
    ),
    at_least(
        "http-requests",
        "1.5 times Envoy's requests",
        Measure::Rate(&["envoy"]),
        1.5,
    ),
    at_most(
        "packet",
        "100 ns for a hit of IPv4 TCP",
        Measure::Figure {
            unit: "ns",
            words: &["tc", "hit"],
        },
        100.0,
    ),
    at_most(
        "idle",
        "10 kB of agent memory a passthrough connection",
        Measure::Figure {
            unit: "bytes/connection",
            words: &["passthrough", "agent"],
        },
        10_000.0,
    ),
    at_most(
        "idle",
        "no agent memory a handed-off connection",
        Measure::Figure {
            unit: "bytes/connection",
            words: &["sluice-handoff", "agent"],
        },
        64.0,
    ),
    at_most(
        "configuration",
        "100 ms until a change among 10,000 routes is in effect",
        Measure::Figure {
            unit: "ms",
            words: &["route of 10,000 in effect"],
        },
        100.0,
    ),
];

const fn at_least(
    scenario: &'static str,
    text: &'static str,
    measure: Measure,
    limit: f64,
) -> Mark {
    Mark {
        scenario,
        text,
        measure,
        own: SLUICE,
        bound: Bound::AtLeast(limit),
    }
}

const fn at_most(scenario: &'static str, text: &'static str, measure: Measure, limit: f64) -> Mark {
    Mark {
        scenario,
        text,
        measure,
        own: SLUICE,
        bound: Bound::AtMost(limit),
    }
}

impl Mark {
    const fn of_handoff(self) -> Self {
        Self {
            own: HANDOFF,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Bound, Verdict, judge};
    use crate::bench::{
        report::sketch,
        sample::{Figure, Run},
    };

    fn verdict(run: &Run, scenario: &str, text: &str) -> Verdict {
        let found = judge(run)
            .into_iter()
            .find(|(mark, _)| mark.scenario == scenario && mark.text.contains(text));
        found.unwrap().1
    }

    #[test]
    fn rates_are_held_against_the_peer_the_mark_names() {
        let run = sketch::run(vec![sketch::comparison(
            "l4-bulk",
            &[("nftables", 20e9), ("haproxy", 5e9), ("sluice", 18e9)],
        )]);
        let bound = Bound::AtLeast(3.0);
        assert_eq!(
            verdict(&run, "l4-bulk", "HAProxy"),
            Verdict::Reached { value: 3.6, bound }
        );
        let missed = verdict(&run, "l4-bulk", "nftables' throughput");
        assert_eq!(missed.text(), "MISSED by 5 %: 0.90, at least 0.95 wanted");
    }

    #[test]
    fn the_best_of_several_peers_counts() {
        let run = sketch::run(vec![
            sketch::comparison(
                "sni-connections",
                &[("haproxy", 10.0), ("envoy", 20.0), ("sluice", 25.0)],
            ),
            sketch::comparison(
                "sni-requests",
                &[
                    ("direct", 40.0),
                    ("haproxy", 10.0),
                    ("nginx", 20.0),
                    ("sluice", 25.0),
                ],
            ),
        ]);
        let bound = Bound::AtLeast(1.2);
        assert_eq!(
            verdict(&run, "sni-connections", "best peer"),
            Verdict::Reached { value: 1.25, bound }
        );
        // All take the same CPU time, so who does more takes less for each:
        // (1/25 - 1/40) / (1/20 - 1/40).
        let Verdict::Reached { value, .. } = verdict(&run, "sni-requests", "CPU") else {
            panic!("missed");
        };
        assert!((value - 0.6).abs() < 1e-9, "{value}");
    }

    #[test]
    fn what_did_not_run_says_so() {
        let mut run = sketch::run(vec![sketch::comparison("l4-bulk", &[("sluice", 1.0)])]);
        run.skipped.push(("idle".to_owned(), "no files".to_owned()));
        let why = |why: &str| Verdict::NotMeasured {
            why: why.to_owned(),
        };
        assert_eq!(
            verdict(&run, "l4-bulk", "HAProxy"),
            why("haproxy was not measured")
        );
        assert_eq!(
            verdict(&run, "l4-connections", ""),
            why("l4-connections did not run")
        );
        assert_eq!(verdict(&run, "idle", ""), why("no files"));
    }

    #[test]
    fn the_worst_figure_that_fits_counts() {
        let mut run = sketch::run(Vec::new());
        for (name, value) in [
            ("tc: hit, in", 80.0),
            ("tc: hit, out", 120.0),
            ("tc: drop", 300.0),
        ] {
            run.figures.push(Figure {
                scenario: "packet".to_owned(),
                name: name.to_owned(),
                value,
                unit: "ns".to_owned(),
                note: String::new(),
            });
        }
        let bound = Bound::AtMost(100.0);
        assert_eq!(
            verdict(&run, "packet", "hit"),
            Verdict::Missed {
                value: 120.0,
                bound
            }
        );
    }
}
