// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask tidy`: the rules of this repository as a program. Every finding
//! is printed as file:line; the rules are in [`rules`] and [`rooms`].

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::task::{self, say};

mod rooms;
mod rules;
mod source;
#[cfg(test)]
mod tests;

use source::Source;

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    message: String,
}

/// Runs the task.
pub fn run() -> Result<()> {
    let root = task::root();
    let mut files = Vec::new();
    for package in PACKAGES {
        collect(&root.join(package), &mut files)?;
    }
    files.sort();
    let mut count = 0;
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let path = file.strip_prefix(&root).unwrap_or(file);
        for Finding { line, message } in check(path, &text) {
            println!("{}:{line}: {message}", path.display());
            count += 1;
        }
    }
    if count > 0 {
        bail!("tidy: {count} findings in {} files", files.len());
    }
    say(&format!("tidy: {} files, nothing to say", files.len()));
    Ok(())
}

/// All findings of one file; `path` is relative to the workspace.
fn check(path: &Path, text: &str) -> Vec<Finding> {
    let source = Source::new(path, text);
    let mut findings = rules::check(&source);
    findings.extend(rooms::check(&source));
    findings.sort_by_key(|finding| finding.line);
    findings
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

const PACKAGES: &[&str] = &[
    "gateway-common",
    "gateway-ebpf",
    "gateway-user",
    "tests",
    "xtask",
];
