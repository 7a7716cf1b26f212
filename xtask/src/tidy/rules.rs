// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rules about single files: licence line, purpose, length, names, safety
//! notes, panics, documented drop reasons.

use super::{Finding, source::Source};

/// All findings of one file.
pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    head(source, &mut findings);
    length(source, &mut findings);
    name(source, &mut findings);
    safety(source, &mut findings);
    panics(source, &mut findings);
    drop_reasons(source, &mut findings);
    findings
}

fn head(source: &Source, findings: &mut Vec<Finding>) {
    let line = |index: usize| source.raw.get(index).map_or("", String::as_str);
    // The kernel programs link with GPL-only helpers and say so.
    let plain = line(0).replace("GPL-2.0-only OR ", "");
    if plain != LICENCE {
        findings.push(finding(1, format!("first line must be `{LICENCE}`")));
    }
    if !line(1).starts_with("//! ") {
        findings.push(finding(
            2,
            "second line must be the file's purpose (`//! ...`)",
        ));
    }
}

fn length(source: &Source, findings: &mut Vec<Finding>) {
    let lines = source.raw.len();
    if lines > MAX_LINES {
        findings.push(finding(
            MAX_LINES,
            format!("{lines} lines: split it by job, at most {MAX_LINES}"),
        ));
    }
}

/// No drawers: a file is named after its one job.
fn name(source: &Source, findings: &mut Vec<Finding>) {
    let drawer = source.path.iter().find_map(|part| {
        let stem = part.to_str()?.trim_end_matches(".rs");
        DRAWERS.contains(&stem).then(|| stem.to_owned())
    });
    if let Some(stem) = drawer {
        findings.push(finding(
            1,
            format!("`{stem}` is a drawer: name the file after its one job"),
        ));
    }
}

/// Every `unsafe` block and impl says which check makes it sound.
fn safety(source: &Source, findings: &mut Vec<Finding>) {
    for (index, code) in source.code.iter().enumerate() {
        let opens = code.contains("unsafe {") || code.contains("unsafe impl");
        if !opens || source.raw[index].contains("SAFETY:") {
            continue;
        }
        // A statement may begin some lines above the block.
        let start = (0..=index)
            .rev()
            .take(STATEMENT_LINES)
            .find(|above| source.comment_above(above + 1).contains("SAFETY:"));
        if start.is_none() {
            findings.push(finding(index + 1, "`unsafe` without a `// SAFETY:` note"));
        }
    }
}

/// Code that ships does not panic, unless a written invariant says it cannot.
fn panics(source: &Source, findings: &mut Vec<Finding>) {
    for (line, code) in source.shipped() {
        for call in PANICS {
            if !code.contains(call) {
                continue;
            }
            let comment = (line.saturating_sub(STATEMENT_LINES)..=line)
                .filter(|above| *above > 0)
                .map(|above| source.comment_above(above).to_lowercase())
                .find(|comment| comment.contains("invariant"));
            if comment.is_none() {
                findings.push(finding(
                    line,
                    format!(
                        "`{call}` outside tests: return an error, or write the invariant above it"
                    ),
                ));
            }
        }
    }
}

/// Every drop reason is documented and listed.
fn drop_reasons(source: &Source, findings: &mut Vec<Finding>) {
    if !source.path.ends_with("gateway-common/src/drop_reason.rs") {
        return;
    }
    let all = source.code.join("\n");
    let mut inside = false;
    for (index, code) in source.code.iter().enumerate() {
        if code.contains("pub enum DropReason") {
            inside = true;
        } else if inside && code.starts_with('}') {
            return;
        } else if inside && let Some((variant, _)) = code.trim().split_once(" = ") {
            if !source.comment_above(index + 1).contains("///") {
                findings.push(finding(
                    index + 1,
                    format!("drop reason `{variant}` says nothing about when it is counted"),
                ));
            }
            let listed = format!("Self::{variant}");
            if all.matches(&listed).count() < 2 {
                findings.push(finding(
                    index + 1,
                    format!("drop reason `{variant}` must be in `ALL` and have a name"),
                ));
            }
        }
    }
}

fn finding(line: usize, message: impl Into<String>) -> Finding {
    Finding {
        line,
        message: message.into(),
    }
}

const LICENCE: &str = "// SPDX-License-Identifier: Apache-2.0 OR MIT";
const MAX_LINES: usize = 500;
/// How far above an expression its statement may begin.
const STATEMENT_LINES: usize = 8;
const DRAWERS: &[&str] = &["utils", "util", "helpers", "types", "common", "misc"];
const PANICS: &[&str] = &[
    ".unwrap()",
    ".expect(",
    "todo!(",
    "unimplemented!(",
    "panic!(",
    "unreachable!(",
];
