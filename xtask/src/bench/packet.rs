// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cost of one packet in the kernel programs: runs the example `packet` of
//! the tests package, which says how it measures, and reads the JSON it prints.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{sample::Figure, stage::Stage};
use crate::{build, task::say};

/// Measures it.
///
/// # Errors
///
/// When the program does not build, a run takes another way than expected, or
/// this process is not root.
pub fn measure(stage: &Stage<'_>) -> Result<Vec<Figure>> {
    say("packet: running each kernel program on packets of each kind");
    let batches = if stage.settings.is_check() { "2" } else { "20" };
    let output = Command::new(build::example("packet", &stage.settings.profile)?)
        .args(["--batches", batches])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("start the program that measures")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!(
            "the example packet of the tests: {}: the reason is above",
            output.status
        );
    }
    let mut figures = Vec::new();
    let mut not_executed = None;
    for line in text.lines().filter(|line| line.starts_with('{')) {
        let line: Line =
            serde_json::from_str(line).with_context(|| format!("not understood: {line}"))?;
        match line {
            Line::Cost(mut cost) => {
                not_executed = cost.not_executed.take();
                figures.extend(cost.figures());
            }
            Line::Program(program) => figures.push(program.figure(not_executed.as_deref())),
        }
    }
    if figures.is_empty() {
        bail!("the example packet of the tests printed no figure");
    }
    Ok(figures)
}

/// A line of what it prints.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Cost(Cost),
    Program(Program),
}

/// Nanoseconds a run, less those of a program that does nothing.
#[derive(Debug, Deserialize)]
struct Cost {
    hook: String,
    case: String,
    burst: u32,
    ns: f64,
    min: f64,
    max: f64,
    empty_ns: f64,
    batches: u32,
    calls: u32,
    /// Instructions executed, where the processor counts them.
    executed: Option<f64>,
    /// Or why it does not.
    not_executed: Option<String>,
    note: Option<String>,
}

impl Cost {
    fn figures(self) -> Vec<Figure> {
        let Self {
            hook,
            case,
            burst,
            ns,
            min,
            max,
            empty_ns,
            batches,
            calls,
            executed,
            not_executed: _,
            note,
        } = self;
        let name = format!("{hook}: {case}");
        let how = match burst {
            1 => "one packet a call".to_owned(),
            burst => format!("{burst} packets a call"),
        };
        let mut text = format!(
            "{min:.0} to {max:.0} over {batches} batches of {calls} calls, {how}; \
             {empty_ns:.0} ns of an empty program taken off"
        );
        if let Some(note) = note {
            text.push_str("; ");
            text.push_str(&note);
        }
        let mut figures = vec![Figure {
            scenario: SCENARIO.to_owned(),
            name: name.clone(),
            value: ns,
            unit: "ns".to_owned(),
            note: text,
        }];
        figures.extend(executed.map(|value| Figure {
            scenario: SCENARIO.to_owned(),
            name,
            value,
            unit: "instructions".to_owned(),
            note: "executed, less those of an empty program".to_owned(),
        }));
        figures
    }
}

/// The size of a program.
#[derive(Debug, Deserialize)]
struct Program {
    program: String,
    instructions: f64,
    verified: f64,
}

impl Program {
    /// `not_executed` is why executed instructions were not counted.
    fn figure(self, not_executed: Option<&str>) -> Figure {
        let Self {
            program,
            instructions,
            verified,
        } = self;
        Figure {
            scenario: SCENARIO.to_owned(),
            name: format!("{program}: size of the program"),
            value: instructions,
            unit: "BPF instructions".to_owned(),
            note: format!(
                "no packet takes all of them; the verifier walked {verified:.0}{}",
                not_executed.map_or(String::new(), |why| format!(
                    "; how many a packet takes: {why}"
                ))
            ),
        }
    }
}

const SCENARIO: &str = "packet";

#[cfg(test)]
mod tests {
    use super::Line;

    #[test]
    fn both_kinds_of_line_are_read() {
        let cost = r#"{"hook":"tc","case":"hit","burst":64,"ns":1.5,"min":1,"max":2,
            "empty_ns":30,"batches":2,"calls":9,"executed":null,"not_executed":"no counters"}"#;
        let Line::Cost(cost) = serde_json::from_str(cost).unwrap() else {
            panic!("not a cost");
        };
        let figures = cost.figures();
        assert_eq!(figures.len(), 1);
        assert_eq!(
            (figures[0].name.as_str(), figures[0].value),
            ("tc: hit", 1.5)
        );
        let program = r#"{"program":"tc_ingress","instructions":900,"verified":2000}"#;
        let Line::Program(program) = serde_json::from_str(program).unwrap() else {
            panic!("not a program");
        };
        let figure = program.figure(Some("no counters"));
        assert_eq!(figure.value, 900.0);
        assert!(figure.note.contains("no counters"));
    }
}
