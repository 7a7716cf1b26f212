// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `report.md`: all that the terminal shows, with what is needed to judge it and
//! to do it again.

use super::{
    chart,
    rows::{self, Row, Rows},
    summary,
    table::{scenarios_of_figures, skipped},
};
use crate::bench::{
    marks,
    sample::{Comparison, Machine, Outcome, Run, Settings},
};

/// The report.
pub fn render(run: &Run) -> String {
    let mut text = String::new();
    text.push_str("# Benchmark report\n");
    add_machine(&mut text, &run.machine);
    add_settings(&mut text, &run.settings);
    add_marks(&mut text, run);
    if !run.comparisons.is_empty() {
        text.push_str("\n## Summary\n");
        text.push_str(SUMMARY);
        add_table(&mut text, &summary::of_run(run));
    }
    text.push_str("\n## Scenarios\n");
    text.push_str(LEGEND);
    for comparison in &run.comparisons {
        add_comparison(&mut text, comparison);
    }
    for scenario in scenarios_of_figures(run) {
        text.push_str(&format!("\n### {scenario}\n\n"));
        let figures = run.figures.iter().filter(|it| it.scenario == scenario);
        add_table(&mut text, &rows::of_figures(figures));
        for chart in chart::of_figures(run, scenario) {
            add_chart(&mut text, &chart);
        }
    }
    add_skipped(&mut text, run);
    add_reproduction(&mut text, &run.settings);
    text
}

fn add_machine(text: &mut String, machine: &Machine) {
    let Machine {
        kernel,
        cpu,
        cores,
        memory_bytes,
        versions,
    } = machine;
    let memory = *memory_bytes as f64 / f64::from(1 << 30);
    text.push_str("\n## Machine\n\n| what | which |\n| --- | --- |\n");
    for (what, which) in [
        ("kernel", kernel),
        ("processor", cpu),
        ("cores", &cores.to_string()),
        ("memory", &format!("{memory:.1} GiB")),
    ]
    .into_iter()
    .chain(versions.iter().map(|(name, version)| (&**name, version)))
    {
        text.push_str(&format!("| {what} | {} |\n", cell(which)));
    }
}

fn add_settings(text: &mut String, settings: &Settings) {
    let Settings {
        seconds,
        rounds,
        profile,
        only: _,
        peers: _,
        notes,
    } = settings;
    text.push_str(&format!(
        "\n## Settings\n\n- {rounds} rounds of {seconds} s for each contender; the agent is built \
         with profile `{profile}`.\n"
    ));
    for note in notes {
        text.push_str(&format!("- {note}\n"));
    }
}

fn add_marks(text: &mut String, run: &Run) {
    text.push_str("\n## Marks\n\n| scenario | to reach | this run |\n| --- | --- | --- |\n");
    for (mark, verdict) in marks::judge(run) {
        let verdict = cell(&verdict.text());
        text.push_str(&format!(
            "| {} | {} | {verdict} |\n",
            mark.scenario, mark.text
        ));
    }
}

fn add_comparison(text: &mut String, comparison: &Comparison) {
    text.push_str(&format!("\n### {}\n\n", comparison.scenario));
    if rows::has_errors(comparison) {
        text.push_str("**There were errors (!): the figures of those rows are doubtful.**\n\n");
    }
    add_table(text, &rows::of_comparison(comparison));
    if let Some(chart) = chart::of_comparison(comparison) {
        add_chart(text, &chart);
    }
}

fn add_chart(text: &mut String, chart: &chart::Chart) {
    text.push_str(&format!("\n![{}]({})\n", chart.title(), chart.file()));
}

fn add_table(text: &mut String, table: &Rows) {
    let Rows { headings, rows } = table;
    text.push_str(&format!("| {} |\n", headings.join(" | ")));
    let line = |(index, heading): (usize, &String)| match heading.as_str() {
        "unit" | "note" => "---",
        _ if index == 0 => "---",
        _ => "---:",
    };
    let lines: Vec<_> = headings.iter().enumerate().map(line).collect();
    text.push_str(&format!("| {} |\n", lines.join(" | ")));
    for row in rows {
        let mut cells: Vec<String> = match row {
            Row::Measured(cells) => cells.iter().map(|it| cell(it)).collect(),
            Row::Skipped(name, reason) => vec![cell(name), cell(&skipped(reason))],
        };
        cells.resize(headings.len(), String::new());
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
}

/// What is missing, in one place.
fn add_skipped(text: &mut String, run: &Run) {
    text.push_str("\n## Skipped\n\n");
    let mut any = false;
    let mut add = |what: &str, reason: &str| {
        any = true;
        text.push_str(&format!("- {what}: {}\n", skipped(reason)));
    };
    for (scenario, reason) in &run.skipped {
        add(scenario, reason);
    }
    for comparison in &run.comparisons {
        for (contender, outcome) in &comparison.outcomes {
            if let Outcome::Skipped(reason) = outcome {
                add(&format!("{}, {contender}", comparison.scenario), reason);
            }
        }
    }
    if !any {
        text.push_str("Nothing.\n");
    }
}

fn add_reproduction(text: &mut String, settings: &Settings) {
    let Settings {
        seconds,
        rounds,
        profile,
        only,
        peers,
        notes: _,
    } = settings;
    let mut command = format!("cargo xtask bench --seconds {seconds} --rounds {rounds}");
    for name in only {
        command.push_str(&format!(" --only {name}"));
    }
    for name in peers {
        command.push_str(&format!(" --peer {name}"));
    }
    if profile == "lab" {
        command.push_str(" --lab-build");
    }
    text.push_str(&format!(
        "\n## How to reproduce\n\nAs root, on a machine that does nothing else:\n\n\
         ```sh\n{command}\n```\n\nThe configurations of all contenders are in `config/bench`; \
         every round is in `bench.json` beside this file. Only ratios within one run can be \
         compared with those of another machine or day.\n"
    ));
}

/// Text that ends no cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

const SUMMARY: &str = "
Of the contenders other than direct: the rate as a share of direct's, and the CPU beyond direct's
for each unit of work.

";

const LEGEND: &str = "
Each table has the median of the rounds with the lowest and the highest, and beside it the ratio
to a reference: nftables where it takes part, else the fastest peer. CPU is that of the whole
machine, client and backends included; *over direct* is what it is more than without a gateway.
Latency counts from when a request was due, so the wait for a stalled gateway is in it.
";

#[cfg(test)]
mod tests {
    use super::render;
    use crate::bench::{report::sketch, sample::Outcome};

    #[test]
    fn the_report_says_what_how_and_how_again() {
        let mut comparison = sketch::comparison("l4-bulk", &[("direct", 2e9), ("sluice", 1e9)]);
        let reason = "needs a|b".to_owned();
        let skipped = ("envoy".to_owned(), Outcome::Skipped(reason));
        comparison.outcomes.push(skipped);
        let mut run = sketch::run(vec![comparison]);
        run.settings.only.push("l4".to_owned());
        let text = render(&run);
        for part in [
            "| processor | some CPU |\n",
            "| nginx | 1.22 |\n",
            "- 2 rounds of 3 s",
            "- a note\n",
            "| l4-bulk | 3 times HAProxy's throughput | not measured: haproxy was not measured |\n",
            "| l4-bulk (CPU-s/GB) | 2.00 Gbit/s | 0.50, +0.100 | - |\n",
            "| sluice | 1.00 (0.90-1.10) | 0.200 | 0.100 | 0 |\n",
            "| envoy | SKIPPED: needs a\\|b |  |  |  |\n",
            "![l4-bulk: Gbit/s](l4-bulk.svg)\n",
            "- l4-bulk, envoy: SKIPPED: needs a|b\n",
            "cargo xtask bench --seconds 3 --rounds 2 --only l4\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
