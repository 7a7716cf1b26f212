// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Configuration in, model and diagnostics out, as text to be read and diffed.
//!
//! A case is a folder of `cases/` with configuration files, `model.txt` and
//! `diagnostics.txt`. An `options.txt` sets the agent's `label KEY=VALUE` (the
//! default is `istio=ingressgateway`) and `namespace NAME`.
//! `UPDATE_GOLDEN=1 cargo test -p gateway-tests --test golden` writes what it
//! sees; read the difference before it is committed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use gateway_user::{
    diagnostic::Severity,
    source::FileSource,
    translate::{Options, translate},
};

mod render;

/// The time of every case: 2030-01-01T00:00:00Z.
const NOW_S: i64 = 1_893_456_000;

/// Fewest cases there are; a path that breaks must not pass as success.
const MIN_CASES: usize = 65;

#[test]
fn every_case_yields_what_it_says() {
    let root = Path::new("golden/cases");
    let mut cases: Vec<PathBuf> = fs::read_dir(root)
        .expect("cases")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    assert!(cases.len() >= MIN_CASES, "{} cases", cases.len());
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut failures = Vec::new();
    for case in &cases {
        for (name, seen) in ["model.txt", "diagnostics.txt"].into_iter().zip(run(case)) {
            let path = case.join(name);
            if update {
                fs::write(&path, seen).expect("written");
                continue;
            }
            let expected = fs::read_to_string(&path).unwrap_or_default();
            if expected != seen {
                failures.push(format!(
                    "--- {}\n{}",
                    path.display(),
                    difference(&expected, &seen)
                ));
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} files differ; UPDATE_GOLDEN=1 writes them\n{}",
        failures.len(),
        cases.len() * 2,
        failures.join("\n")
    );
}

#[test]
fn every_example_translates_without_findings() {
    let root = Path::new("../config/examples");
    let mut paths: Vec<PathBuf> = fs::read_dir(root)
        .expect("examples")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 7, "{paths:?}");
    for path in paths {
        let [model, diagnostics] = translated(&path, &options(Path::new("nothing")));
        // The demo makes its certificates when it runs.
        let findings: Vec<&str> = diagnostics
            .lines()
            .filter(|line| !(path.is_dir() && line.ends_with("[missing-certificate]")))
            .collect();
        assert!(findings.is_empty(), "{}: {findings:?}", path.display());
        assert!(model.contains("listener"), "{}", path.display());
    }
}

#[test]
fn the_same_input_yields_the_same_text() {
    let root = Path::new("golden/cases");
    for case in fs::read_dir(root).expect("cases") {
        let case = case.expect("an entry").path();
        assert_eq!(run(&case), run(&case), "{}", case.display());
    }
}

/// Model and diagnostics of a case.
fn run(case: &Path) -> [String; 2] {
    translated(case, &options(case))
}

fn translated(path: &Path, options: &Options) -> [String; 2] {
    let loaded = FileSource::new(vec![path.to_owned()]).load();
    let (model, findings) = translate(&loaded.resources, options);
    let mut diagnostics = loaded.diagnostics;
    diagnostics.extend(findings);
    diagnostics.sort();
    let prefix = format!("{}/", path.display());
    let mut lines: Vec<String> = diagnostics
        .iter()
        .map(|diagnostic| diagnostic.to_string().replace(&prefix, ""))
        .collect();
    lines.push(String::new());
    let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error);
    assert!(
        errors.clone().all(|d| !d.message.ends_with('.')),
        "a message ends with a full stop"
    );
    [
        render::model(&model).replace(&prefix, ""),
        if diagnostics.is_empty() {
            String::new()
        } else {
            lines.join("\n")
        },
    ]
}

fn options(case: &Path) -> Options {
    let mut options = Options {
        labels: BTreeMap::from([("istio".to_owned(), "ingressgateway".to_owned())]),
        now_s: Some(NOW_S),
        ..Options::default()
    };
    let text = fs::read_to_string(case.join("options.txt")).unwrap_or_default();
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("label", pair)) => {
                let (key, value) = pair.split_once('=').expect("KEY=VALUE");
                options.labels.insert(key.to_owned(), value.to_owned());
            }
            Some(("namespace", name)) => options.namespace = Some(name.to_owned()),
            _ => panic!("options.txt: {line:?}"),
        }
    }
    options
}

/// Lines of the one that the other does not have.
fn difference(expected: &str, seen: &str) -> String {
    let expected: Vec<&str> = expected.lines().collect();
    let seen: Vec<&str> = seen.lines().collect();
    let mut lines: Vec<String> = Vec::new();
    lines.extend(
        expected
            .iter()
            .filter(|line| !seen.contains(line))
            .map(|line| format!("- {line}")),
    );
    lines.extend(
        seen.iter()
            .filter(|line| !expected.contains(line))
            .map(|line| format!("+ {line}")),
    );
    if lines.is_empty() {
        lines.push("the same lines in another order".to_owned());
    }
    lines.join("\n")
}
