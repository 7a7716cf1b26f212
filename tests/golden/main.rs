// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Configuration in, model and findings out, as text that is kept beside the
//! configuration: `cases/NAME/*.yaml` yields `model.txt` and `diagnostics.txt`.
//!
//! `UPDATE_GOLDEN=1 cargo test -p gateway-tests --test golden` writes both anew;
//! read the difference before it is committed. A case may also hold `*.pem`
//! files or directories for its Gateways to name, and an `options.txt` with lines `label
//! KEY=VALUE` (beside `istio=ingressgateway`), `namespace NAME` and `health tcp`.
//! All keys here are throw-away ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use gateway_user::{
    diagnostic::{Diagnostic, Reason},
    model::Model,
    resource::ResourceSet,
    source::{decode::decode, file::FileSource},
    translate::{Options, translate},
};

mod explain;
mod invariants;
mod render;

/// Fewer cases than this is a mistake in the checkout.
const LEAST_CASES: usize = 65;
/// 2030-01-01: after the throw-away certificates begin and before they end.
const NOW_S: i64 = 1_893_456_000;
const EXAMPLES: &str = "../../config/examples";
const OPTIONS_FILE: &str = "options.txt";
const EXPECTED_FILES: [&str; 2] = ["model.txt", "diagnostics.txt"];

#[test]
fn every_case_yields_its_expected_text() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1");
    let cases = directories(&root().join("cases"));
    assert!(
        cases.len() >= LEAST_CASES,
        "{} cases, of {LEAST_CASES} at least",
        cases.len()
    );
    let mut report = String::new();
    let mut failed = 0;
    for case in &cases {
        let problems = check(case, update);
        if !problems.is_empty() {
            failed += 1;
            let _ = writeln!(report, "\n=== {}\n{problems}", name(case));
        }
    }
    assert!(
        failed == 0,
        "{failed} of {} cases differ (- expected, + seen; UPDATE_GOLDEN=1 accepts):{report}",
        cases.len()
    );
}

#[test]
fn every_example_is_read_without_a_finding() {
    for example in directories(&root().join(EXAMPLES)) {
        let read = read(&example, &options(None));
        let findings: Vec<String> = read
            .findings
            .iter()
            .filter(|finding| !is_made_by_the_demo(finding))
            .map(ToString::to_string)
            .collect();
        assert!(findings.is_empty(), "{}", findings.join("\n"));
        assert!(
            !read.model.listeners.is_empty(),
            "{} has no listener",
            example.display()
        );
        let broken = invariants::broken(&read.model);
        assert!(broken.is_empty(), "{}: {broken:?}", example.display());
    }
}

#[test]
fn an_example_cut_off_after_any_line_breaks_nothing() {
    for example in examples() {
        let text = fs::read_to_string(&example).expect("an example");
        for (end, _) in text.match_indices('\n') {
            let Ok(decoded) = decode(&"cut.yaml".into(), &text[..end]) else {
                continue;
            };
            let mut resources = ResourceSet::default();
            for resource in decoded.resources {
                resources.push(resource);
            }
            let (model, _) = translate(&resources, &options(None));
            let broken = invariants::broken(&model);
            assert!(
                broken.is_empty(),
                "{} up to byte {end}: {broken:?}",
                example.display()
            );
        }
    }
}

/// The demo issues the certificates of its lab when it starts.
fn is_made_by_the_demo(finding: &Diagnostic) -> bool {
    finding.origin.file.contains("/examples/demo/") && finding.reason == Reason::MissingCertificate
}

/// What became of some files.
struct Read {
    model: Model,
    /// Sorted.
    findings: Vec<Diagnostic>,
}

fn read(path: &Path, options: &Options) -> Read {
    let loaded = FileSource::new(vec![path.to_owned()]).load();
    let (model, mut findings) = translate(&loaded.resources, options);
    findings.extend(loaded.diagnostics);
    findings.sort();
    Read { model, findings }
}

/// What the agent of a case knows of itself.
fn options(text: Option<String>) -> Options {
    let mut options = Options {
        labels: BTreeMap::from([("istio".to_owned(), "ingressgateway".to_owned())]),
        now_s: Some(NOW_S),
        ..Options::default()
    };
    for line in text.unwrap_or_default().lines() {
        match line.split_once(' ') {
            Some(("label", pair)) => {
                let (key, value) = pair.split_once('=').expect("KEY=VALUE");
                options.labels.insert(key.to_owned(), value.to_owned());
            }
            Some(("namespace", name)) => options.namespace = Some(name.to_owned()),
            Some(("health", "tcp")) => options.health.probe_tcp = true,
            _ => panic!("options.txt: {line:?}"),
        }
    }
    options
}

/// What is wrong with a case; nothing when it is as expected.
fn check(case: &Path, update: bool) -> String {
    let mut problems = String::new();
    let mut present = BTreeSet::new();
    let mut inputs = 0;
    for entry in fs::read_dir(case).expect("a directory of cases") {
        let path = entry.expect("an entry").path();
        let name = name(&path);
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("yaml" | "yml" | "json") => inputs += 1,
            Some("pem") => {}
            _ if path.is_dir() => {}
            _ if name == OPTIONS_FILE => {}
            _ if EXPECTED_FILES.contains(&name.as_str()) => {
                present.insert(name);
            }
            _ => {
                let _ = writeln!(problems, "{name} does not belong here");
            }
        }
    }
    if inputs == 0 {
        problems.push_str("no configuration\n");
        return problems;
    }
    let options = options(fs::read_to_string(case.join(OPTIONS_FILE)).ok());
    let read = read(case, &options);
    let mut findings = String::new();
    for finding in &read.findings {
        let _ = writeln!(findings, "{finding}");
        if finding.message.ends_with('.') || finding.message.contains('\n') {
            let _ = writeln!(problems, "not one line without a final stop: {finding}");
        }
    }
    for broken in invariants::broken(&read.model) {
        let _ = writeln!(problems, "broken invariant: {broken}");
    }
    // Paths of the checkout would differ from one machine to the next.
    let prefix = format!("{}/", case.display());
    for (file, seen) in EXPECTED_FILES
        .iter()
        .zip([render::model(&read.model), findings])
    {
        let seen = seen.replace(&prefix, "");
        let path = case.join(file);
        if update {
            fs::write(&path, &seen).expect("a writable checkout");
        } else if !present.contains(*file) {
            let _ = writeln!(problems, "{file} is not there; it would be:\n{seen}");
        } else {
            let expected = fs::read_to_string(&path).expect("an expected text");
            if expected != seen {
                let _ = write!(problems, "{file}:\n{}", difference(&expected, &seen));
            }
        }
    }
    problems
}

/// Lines of both, marked, by a longest common subsequence.
fn difference(expected: &str, seen: &str) -> String {
    let old: Vec<&str> = expected.lines().collect();
    let new: Vec<&str> = seen.lines().collect();
    let mut common = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = if old[i] == new[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut text = String::new();
    while i < old.len() || j < new.len() {
        let (mark, line) = if i < old.len() && j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
            (' ', new[j - 1])
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            i += 1;
            ('-', old[i - 1])
        } else {
            j += 1;
            ('+', new[j - 1])
        };
        let _ = writeln!(text, "{mark} {line}");
    }
    text
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Everything in a directory, in the order of names.
fn directories(parent: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(parent)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    all.sort();
    all
}

/// Every file of the examples, at any depth.
fn examples() -> Vec<PathBuf> {
    let mut pending = vec![root().join(EXAMPLES)];
    let mut found = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(directories(&path));
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            found.push(path);
        }
    }
    assert!(!found.is_empty(), "no examples");
    found.sort();
    found
}
