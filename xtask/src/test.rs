// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask test`: every level, with what each needs set up first.

use std::{
    fmt,
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use gateway_tests::skip;

use crate::{
    bench, build,
    setup::{self, Scope},
    task::{self, say},
};

/// `cargo xtask test`.
#[derive(clap::Args)]
#[command(after_help = "\
unit and golden need no root. bpf loads the kernel programs, netns runs the
agent between real brokers and clients, bench runs each scenario of the
benchmark for a second: these need root, and are reported as SKIPPED without
it. With CI=true a skip is a failure. A filter leaves bench out.

Examples:
  cargo xtask test
  cargo xtask test unit golden
  cargo xtask test netns --filter reload")]
pub struct Options {
    /// Which levels; all without a name
    #[arg(value_enum)]
    levels: Vec<Level>,
    /// Only tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

/// A level of proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    /// Pure tests of every package
    Unit,
    /// Configuration in, snapshot and diagnostics out
    Golden,
    /// Packets in, packets out, through the real kernel programs
    Bpf,
    /// Whole connections between namespaces
    Netns,
    /// Each scenario of the benchmark, once
    Bench,
}

const LEVELS: [Level; 5] = [
    Level::Unit,
    Level::Golden,
    Level::Bpf,
    Level::Netns,
    Level::Bench,
];

impl Level {
    fn needs_root(self) -> bool {
        matches!(self, Self::Bpf | Self::Netns | Self::Bench)
    }

    /// Arguments of `cargo test`, one run each.
    fn runs(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Unit => &[
                &[],
                &["--package", "gateway-tests", "--lib", "--test", "latency"],
            ],
            Self::Golden => &[&["--package", "gateway-tests", "--test", "golden"]],
            Self::Bpf => &[&["--package", "gateway-tests", "--test", "bpf"]],
            Self::Netns => &[&["--package", "gateway-tests", "--test", "netns"]],
            Self::Bench => &[],
        }
    }

    /// Tests of one level that may run at once: labs share two cores with
    /// their brokers.
    fn threads(self) -> Option<&'static str> {
        (self == Self::Netns).then_some("2")
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unit => "unit",
            Self::Golden => "golden",
            Self::Bpf => "bpf",
            Self::Netns => "netns",
            Self::Bench => "bench",
        })
    }
}

/// What one level did.
#[derive(Debug, Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
    broken: bool,
    took: Duration,
}

/// Runs the task.
pub fn run(options: &Options) -> Result<()> {
    let Options { levels, filter } = options;
    let levels: Vec<Level> = LEVELS
        .into_iter()
        .filter(|level| levels.is_empty() || levels.contains(level))
        // The filter is for names of tests, which it has none of.
        .filter(|level| *level != Level::Bench || filter.is_none())
        .collect();
    let root = skip::is_root();
    setup::ensure(Scope::Build)?;
    if root && levels.contains(&Level::Netns) {
        setup::ensure(Scope::Tests)?;
        build::for_lab(true)?;
    }
    let tallies = levels
        .into_iter()
        .map(|level| {
            if level.needs_root() && !root {
                say(&format!("{level}: SKIPPED: needs root"));
                let skipped = vec!["needs root".to_owned()];
                return Ok((
                    level,
                    Tally {
                        skipped,
                        ..Tally::default()
                    },
                ));
            }
            let tally = match level {
                Level::Bench => run_bench(),
                _ => run_level(level, filter.as_deref())?,
            };
            Ok((level, tally))
        })
        .collect::<Result<Vec<_>>>()?;
    report(&tallies)
}

fn run_level(level: Level, filter: Option<&str>) -> Result<Tally> {
    let start = Instant::now();
    let mut tally = Tally::default();
    for arguments in level.runs() {
        say(&format!("{level}: cargo test {}", arguments.join(" ")));
        let mut command = task::cargo();
        command
            .arg("test")
            .args(*arguments)
            .env("SLUICE_BIN", task::target_dir().join("lab").join("sluice"))
            .env("SLUICE_PACKAGES", setup::packages_dir());
        command.arg("--no-fail-fast").arg("--").args(filter);
        // What passing tests print holds the figures and the skips.
        command.arg("--show-output");
        if let Some(threads) = level.threads() {
            command.args(["--test-threads", threads]);
        }
        tee(&mut command, &mut tally)?;
    }
    tally.took = start.elapsed();
    Ok(tally)
}

/// The benchmark's own check; its scenarios count as tests.
fn run_bench() -> Tally {
    let start = Instant::now();
    say("bench: each scenario once");
    let mut tally = Tally::default();
    match bench::check() {
        Ok(checked) => {
            tally.passed = checked.measured as u64;
            tally.failed = checked.failures.len() as u64;
            tally.skipped = checked.skipped;
            for failure in checked.failures {
                eprintln!("bench: {failure}");
            }
        }
        Err(error) => {
            eprintln!("bench: {error:#}");
            tally.broken = true;
        }
    }
    tally.took = start.elapsed();
    tally
}

/// Runs a command, shows its output as it comes, and counts what it reports.
fn tee(command: &mut Command, tally: &mut Tally) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start cargo test")?;
    let stdout = child.stdout.take().context("no output of cargo test")?;
    let stderr = child.stderr.take().context("no output of cargo test")?;
    let (lines, other_lines) = thread::scope(|scope| {
        let errors = scope.spawn(move || show(stderr));
        (show(stdout), errors.join().unwrap_or_default())
    });
    let status = child.wait().context("wait for cargo test")?;
    for line in lines.iter().chain(&other_lines) {
        count(line, tally);
    }
    tally.broken |= !status.success();
    Ok(())
}

fn show(stream: impl Read) -> Vec<String> {
    let mut lines = Vec::new();
    for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        println!("{line}");
        lines.push(line);
    }
    lines
}

/// Reads one line of libtest's report.
fn count(line: &str, tally: &mut Tally) {
    if let Some(reason) = line.trim_start().strip_prefix("SKIPPED") {
        let reason = reason.trim_start_matches(':').trim().to_owned();
        if !tally.skipped.contains(&reason) {
            tally.skipped.push(reason);
        }
    }
    let Some(result) = line.strip_prefix("test result: ") else {
        return;
    };
    for part in result.split([';', '.']) {
        let mut words = part.split_whitespace();
        let (Some(number), Some(word)) = (words.next(), words.next()) else {
            continue;
        };
        let Ok(number) = number.parse::<u64>() else {
            continue;
        };
        match word {
            "passed" => tally.passed += number,
            "failed" => tally.failed += number,
            "ignored" if number > 0 => tally.skipped.push(format!("{number} ignored")),
            _ => {}
        }
    }
}

fn report(tallies: &[(Level, Tally)]) -> Result<()> {
    println!("\n  level    passed  failed  skipped    time");
    let mut failed = false;
    for (level, tally) in tallies {
        let Tally {
            passed,
            failed: failures,
            skipped,
            broken,
            took,
        } = tally;
        let in_ci = skip::in_ci() && !skipped.is_empty();
        let bad = *broken || *failures > 0 || in_ci;
        failed |= bad;
        println!(
            "  {level:<8} {passed:>6}  {failures:>6}  {:>7}  {:>5.0} s  {}{}",
            skipped.len(),
            took.as_secs_f64(),
            if bad { "FAILED" } else { "ok" },
            if skipped.is_empty() {
                String::new()
            } else {
                format!("  (SKIPPED: {})", skipped.join("; "))
            },
        );
    }
    if failed {
        bail!("tests failed: the reasons are above, by test name");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Tally, count};

    #[test]
    fn results_and_skips_are_counted() {
        let mut tally = Tally::default();
        for line in [
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s",
            "test result: FAILED. 1 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out",
            "SKIPPED: needs root",
            "SKIPPED: needs root",
            "test a ... ok",
        ] {
            count(line, &mut tally);
        }
        assert_eq!((tally.passed, tally.failed), (13, 2));
        assert_eq!(tally.skipped, ["1 ignored", "needs root"]);
    }
}
