// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a kernel's verifier said, against what is recorded.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use gateway_tests::budget::{self, BUDGETS};
use serde::Deserialize;

/// A line that the example `verify` of the tests package prints.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Taken(Taken),
    Refused {
        program: String,
        error: String,
        log: Vec<String>,
    },
    Broken {
        error: String,
    },
}

/// A program that the kernel took.
#[derive(Debug, Deserialize)]
struct Taken {
    program: String,
    size: u64,
    walked: u64,
    peak_states: u64,
    stack: u64,
}

/// One program on one kernel.
#[derive(Debug)]
pub struct Judged {
    /// Its name.
    pub program: String,
    /// What is measured and its ceiling; none of a program that does not load.
    pub figures: Option<Figures>,
    /// What is wrong; nothing when it is fine.
    pub faults: Vec<String>,
    /// The end of the verifier's log of a program that does not load.
    pub log: Vec<String>,
}

/// Figures of a program that loads.
#[derive(Debug)]
pub struct Figures {
    /// Instructions after the verifier's additions.
    pub size: u64,
    /// Walked, remembered, bytes of stack: measured and allowed.
    pub against: [(u64, Option<u64>); 3],
}

/// Names of [`Figures::against`].
pub const MEASURES: [&str; 3] = ["walked", "states", "stack"];

/// Judges what was printed.
///
/// # Errors
///
/// When it is not what the example prints, or says why it could not begin.
pub fn judge<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Judged>> {
    let mut judged = Vec::new();
    for line in lines.filter(|line| line.starts_with('{')) {
        let line: Line =
            serde_json::from_str(line).with_context(|| format!("not understood: {line}"))?;
        judged.push(match line {
            Line::Taken(taken) => taken.judge(),
            Line::Refused {
                program,
                error,
                log,
            } => Judged {
                faults: vec![format!("does not load: {error}")],
                program,
                figures: None,
                log,
            },
            Line::Broken { error } => bail!("{error}"),
        });
    }
    if judged.is_empty() {
        bail!("no program was loaded: what the programs' loader printed is above");
    }
    let seen: BTreeSet<&str> = judged
        .iter()
        .map(|judged| judged.program.as_str())
        .collect();
    let missing: Vec<Judged> = BUDGETS
        .iter()
        .filter(|budget| !seen.contains(budget.program))
        .map(|budget| Judged {
            program: budget.program.to_owned(),
            figures: None,
            faults: vec![format!("has a budget but is not in the object: {FILE}")],
            log: Vec::new(),
        })
        .collect();
    judged.extend(missing);
    Ok(judged)
}

/// Where budgets are recorded.
const FILE: &str = "see tests/harness/budget.rs";

impl Taken {
    fn judge(self) -> Judged {
        let budget = budget::of(&self.program);
        let measured = [self.walked, self.peak_states, self.stack];
        let allowed = budget.map(|budget| [budget.walked, budget.peak_states, budget.stack]);
        let mut faults = Vec::new();
        match allowed {
            None => faults.push(format!("no budget recorded: {FILE}")),
            Some(allowed) => {
                for ((name, measured), allowed) in MEASURES.iter().zip(measured).zip(allowed) {
                    if measured > allowed {
                        faults.push(format!("{name} {measured} over {allowed}: {FILE}"));
                    }
                }
            }
        }
        let [walked, states, stack] = measured;
        let [a, b, c] = allowed.map_or([None; 3], |allowed| allowed.map(Some));
        Judged {
            program: self.program,
            figures: Some(Figures {
                size: self.size,
                against: [(walked, a), (states, b), (stack, c)],
            }),
            faults,
            log: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BUDGETS, judge};

    fn taken(program: &str, walked: u64) -> String {
        format!(r#"{{"program":"{program}","size":1,"walked":{walked},"peak_states":1,"stack":8}}"#)
    }

    fn faults_of(changed: &str, line: String) -> Vec<String> {
        let others = BUDGETS.iter().filter(|budget| budget.program != changed);
        let mut lines: Vec<String> = others
            .map(|budget| taken(budget.program, budget.walked))
            .collect();
        lines.push(line);
        let judged = judge(lines.iter().map(String::as_str)).unwrap();
        judged
            .into_iter()
            .flat_map(|judged| judged.faults)
            .collect()
    }

    #[test]
    fn programs_are_held_against_their_budgets() {
        let first = BUDGETS[0];
        let fine = taken(first.program, first.walked);
        assert_eq!(faults_of(first.program, fine), [""; 0]);
        let over = faults_of(first.program, taken(first.program, first.walked + 1));
        let expected = format!("walked {} over {}", first.walked + 1, first.walked);
        assert!(over[0].starts_with(&expected), "{over:?}");
    }

    #[test]
    fn a_program_without_budget_and_a_budget_without_program_are_faults() {
        let faults = faults_of(BUDGETS[0].program, taken("unheard_of", 1));
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].starts_with("no budget recorded"), "{faults:?}");
        assert!(faults[1].contains("not in the object"), "{faults:?}");
    }

    #[test]
    fn a_refused_program_keeps_the_log() {
        let line = r#"{"program":"sk_steer","error":"Permission denied","log":["R1 invalid"]}"#;
        let judged = judge(std::iter::once(line)).unwrap();
        assert_eq!(judged[0].log, ["R1 invalid"]);
        assert!(judged[0].faults[0].starts_with("does not load"));
        assert!(judge(std::iter::once(r#"{"error":"no bpffs"}"#)).is_err());
        assert!(judge(std::iter::once("nothing")).is_err());
    }
}
