// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask bench`: Sluice side by side with its peers, in one lab and one
//! run, because only ratios mean anything on a noisy machine.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use gateway_tests::{lab::Lab, skip};

use crate::{
    build,
    setup::{self, Scope},
    task::{self, say},
};

mod configuration;
mod contender;
mod cpu;
mod footprint;
mod idle;
mod load;
mod marks;
mod packet;
mod report;
mod rounds;
mod sample;
mod scenario;
mod stage;
mod stop;

use contender::Contender;
use rounds::Progress;
use sample::{Comparison, Outcome, Run, Settings};
use scenario::{Kind, SCENARIOS, Scenario};
use stage::Stage;

/// `cargo xtask bench`.
#[derive(clap::Args)]
#[command(after_help = "\
Needs root: client, gateway node and three backends are network namespaces.
SCENARIO is a name or its beginning up to a hyphen: l4-bulk, l4-bulk-8,
l4-bulk-reverse, l4-requests, l4-connections, sni-bulk, sni-requests,
sni-connections, https-requests, https-connections, h2-requests, http-requests,
http-100kb, http-1000-routes, latency-l4, latency-sni, latency-http, packet,
idle, configuration. Ctrl-C ends it and leaves nothing behind.

Examples:
  cargo xtask bench                              everything, 3 rounds of 3 s
  cargo xtask bench --only l4 --only latency-l4
  cargo xtask bench --only sni-requests --peer haproxy --rounds 9
  cargo xtask bench --output /tmp/before         bench.json, report, charts")]
pub struct Options {
    /// Only these scenarios (repeatable)
    #[arg(long, value_name = "SCENARIO")]
    only: Vec<String>,
    /// Only these besides direct and Sluice (repeatable)
    #[arg(long, value_enum, value_name = "NAME")]
    peer: Vec<Contender>,
    /// Length of a measured window
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Measured windows of each contender
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Where the report goes [default: target/bench]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Measure the lab build, which links fast, not what ships
    #[arg(long)]
    lab_build: bool,
}

/// Runs the task.
pub fn run(options: &Options) -> Result<()> {
    let scenarios = selected(&options.only)?;
    if !skip::is_root() {
        bail!("bench makes network namespaces: run it as root");
    }
    let (run, failures) = measure(&scenarios, &options.peer, settings(options))?;
    let output = options
        .output
        .clone()
        .unwrap_or_else(|| task::target_dir().join("bench"));
    report::write(&run, &output)?;
    say(&format!("the report is in {}", output.display()));
    for failure in &failures {
        eprintln!("bench: {failure}");
    }
    if !failures.is_empty() {
        bail!(
            "{} measurements failed: the report says which",
            failures.len()
        );
    }
    Ok(())
}

/// What a check of the benchmark itself came to.
pub struct Checked {
    /// Contenders in scenarios, and other scenarios, with figures.
    pub measured: usize,
    /// One line each.
    pub failures: Vec<String>,
    /// One line each.
    pub skipped: Vec<String>,
}

/// Runs each scenario once for a second with the lab build, so that the
/// benchmark cannot rot; the report goes where `run` leaves none.
///
/// # Errors
///
/// When the lab cannot be made or the report not be written.
pub fn check() -> Result<Checked> {
    let options = Options {
        only: Vec::new(),
        peer: Vec::new(),
        seconds: 1,
        rounds: 1,
        output: None,
        lab_build: true,
    };
    let scenarios = selected(&options.only)?;
    let (run, failures) = measure(&scenarios, &options.peer, settings(&options))?;
    report::write(&run, &task::target_dir().join("bench-check"))?;
    let mut checked = Checked {
        measured: 0,
        failures,
        skipped: Vec::new(),
    };
    for Comparison {
        scenario, outcomes, ..
    } in &run.comparisons
    {
        for (contender, outcome) in outcomes {
            match outcome {
                Outcome::Measured(_) => checked.measured += 1,
                Outcome::Skipped(reason) if reason.starts_with(rounds::FAILED) => {}
                Outcome::Skipped(reason) => checked
                    .skipped
                    .push(format!("{scenario}: {contender}: {reason}")),
            }
        }
    }
    let mut figures: Vec<&str> = run.figures.iter().map(|it| it.scenario.as_str()).collect();
    figures.dedup();
    checked.measured += figures.len();
    Ok(checked)
}

/// Prepares everything, runs the scenarios and takes everything down.
fn measure(
    scenarios: &[&Scenario],
    peers: &[Contender],
    settings: Settings,
) -> Result<(Run, Vec<String>)> {
    stop::listen();
    setup::ensure(Scope::Bench)?;
    let agent = if settings.profile == LAB {
        build::for_lab(true)?
    } else {
        build::for_release()?
    };
    stop::check()?;
    say("making namespaces: client -- gateway -- backend 1, 2, 3");
    let lab = Lab::new().context("make the lab")?;
    let stage = Stage::set(&lab, agent, setup::packages_dir(), settings)?;
    play(&stage, scenarios, peers)
}

/// The scenarios that are asked for, in their order.
fn selected(only: &[String]) -> Result<Vec<&'static Scenario>> {
    for pattern in only {
        if !SCENARIOS.iter().any(|scenario| scenario.matches(pattern)) {
            let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            bail!("no scenario `{pattern}`: there are {}", names.join(", "));
        }
    }
    let wanted = |scenario: &&Scenario| {
        only.is_empty() || only.iter().any(|pattern| scenario.matches(pattern))
    };
    Ok(SCENARIOS.iter().filter(wanted).collect())
}

fn settings(options: &Options) -> Settings {
    let Options {
        only,
        peer,
        seconds,
        rounds,
        output: _,
        lab_build,
    } = options;
    let profile = if *lab_build { LAB } else { "release" };
    Settings {
        seconds: *seconds,
        rounds: *rounds,
        profile: profile.to_owned(),
        only: only.clone(),
        peers: peer.iter().map(|peer| peer.name().to_owned()).collect(),
        notes: NOTES.iter().map(|note| (*note).to_owned()).collect(),
    }
}

/// Runs the scenarios; what failed besides.
fn play(
    stage: &Stage<'_>,
    scenarios: &[&Scenario],
    peers: &[Contender],
) -> Result<(Run, Vec<String>)> {
    let contenders = |all: &[Contender]| -> Vec<Contender> {
        let wanted = |it: &Contender| it.is_kept() || peers.is_empty() || peers.contains(it);
        all.iter().copied().filter(wanted).collect()
    };
    let steps = |scenario: &&Scenario| match &scenario.kind {
        Kind::Compare(compare) => {
            contenders(compare.contenders).len() * stage.settings.rounds as usize
        }
        Kind::Figures(_) => 1,
    };
    let mut progress = Progress::new(scenarios.iter().map(steps).sum());
    let mut run = Run {
        machine: report::machine(stage),
        settings: stage.settings.clone(),
        comparisons: Vec::new(),
        figures: Vec::new(),
        skipped: Vec::new(),
    };
    let mut failures = Vec::new();
    for Scenario { name, kind } in scenarios {
        match kind {
            Kind::Compare(scenario) => {
                let contenders = contenders(scenario.contenders);
                let compared = rounds::compare(
                    stage,
                    name,
                    scenario,
                    &contenders,
                    &run.comparisons,
                    &mut progress,
                )?;
                run.comparisons.push(compared.comparison);
                failures.extend(compared.failures);
            }
            Kind::Figures(measure) => {
                let measured = measure(stage);
                stop::check()?;
                match measured {
                    Ok(figures) => {
                        progress.step(name, &format!("{} figures", figures.len()));
                        run.figures.extend(figures);
                    }
                    Err(error) => {
                        let reason = rounds::failed(&error);
                        progress.step(name, &reason);
                        failures.push(format!("{name}: {reason}"));
                        run.skipped.push(((*name).to_owned(), reason));
                    }
                }
            }
        }
    }
    Ok((run, failures))
}

/// The profile of `--lab-build`.
const LAB: &str = "lab";
/// What a reader of the figures has to know.
const NOTES: &[&str] = &[
    "Client, gateway and backends share the machine; CPU is that of the whole machine.",
    "Each contender runs alone, is started for its round and ended after it; rounds alternate, \
     every second one in reverse order.",
    "TCP uses cubic on every link; links are veth with the offloads they have by default \
     (checksums, and segments of up to 64 kB).",
    "Nobody writes an access log (Sluice's default is to write one).",
    "sluice-xdp runs over links with a network card's offloads, so without the super-packets that \
     all others pass on: its bulk data is not comparable.",
];
