// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Source to snapshot: what `run` repeats on each change and `check` and
//! `explain` do once.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    bootstrap::Bootstrap,
    compile::{self, DnsAnswers, Observed},
    diagnostic::{Diagnostic, Severity},
    model::{Model, ProbeTarget},
    snapshot::Snapshot,
    source::file::FileSource,
    translate::{self, Options},
};

/// Reads, translates and compiles.
pub struct Pipeline {
    /// The files.
    pub source: FileSource,
    options: Options,
    model: Model,
    found: Vec<Diagnostic>,
}

/// A snapshot and what was found on the way to it.
pub struct Compiled {
    /// The successor of the previous one.
    pub snapshot: Snapshot,
    /// Sorted by file and line.
    pub diagnostics: Vec<Diagnostic>,
}

impl Pipeline {
    /// A pipeline over files and directories.
    pub fn new(paths: Vec<PathBuf>, bootstrap: &Bootstrap) -> Self {
        Self {
            source: FileSource::new(paths),
            options: Options {
                labels: bootstrap.labels.clone(),
                namespace: bootstrap.namespace.clone(),
                health: bootstrap.health.defaults(),
                ..Options::default()
            },
            model: Model::default(),
            found: Vec::new(),
        }
    }

    /// Reads everything anew.
    pub fn load(&mut self) {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.options.now_s = since_epoch.ok().map(|since| since.as_secs() as i64);
        self.options.last_good.clone_from(&self.model.certificates);
        let loaded = self.source.load();
        let (model, mut found) = translate::translate(&loaded.resources, &self.options);
        found.extend(loaded.diagnostics);
        self.model = model;
        self.found = found;
    }

    /// Names whose addresses [`Self::compile`] wants.
    pub fn dns_names(&self) -> BTreeSet<String> {
        compile::dns_names(&self.model)
    }

    /// Endpoints of which [`Self::compile`] wants to know whether they are down.
    pub fn probe_targets(&self, dns: &DnsAnswers) -> BTreeSet<ProbeTarget> {
        compile::probe_targets(&self.model, dns)
    }

    /// Compiles what was loaded last.
    pub fn compile(&self, observed: &Observed, previous: &Snapshot) -> Compiled {
        let (snapshot, found) = compile::compile(&self.model, observed, previous);
        let mut diagnostics = self.found.clone();
        diagnostics.extend(found);
        diagnostics.sort();
        diagnostics.dedup();
        Compiled {
            snapshot,
            diagnostics,
        }
    }
}

/// Whether any finding is an error.
pub fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics
        .iter()
        .any(|diagnostic| diagnostic.severity == Severity::Error)
}

/// The bootstrap named on the command line, or the defaults.
///
/// # Errors
/// When the file cannot be read or used.
pub fn bootstrap(path: Option<&Path>) -> anyhow::Result<Bootstrap> {
    Ok(path.map(Bootstrap::read).transpose()?.unwrap_or_default())
}

/// Checks that every path exists, so that a typing error is not an empty
/// configuration.
///
/// # Errors
/// Names the first that does not.
pub fn existing(paths: &[PathBuf]) -> anyhow::Result<()> {
    for path in paths {
        anyhow::ensure!(
            path.exists(),
            "{}: no such file or directory",
            path.display()
        );
    }
    Ok(())
}
