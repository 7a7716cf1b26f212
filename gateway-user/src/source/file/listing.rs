// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which files there are, and by what a change of them is noticed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{
    diagnostic::{Diagnostic, Reason},
    origin::Origin,
};

/// Deepest directory below a path that is read.
const MAX_DEPTH: usize = 32;

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    /// Whether it was last written within `span` before `now`, or after it.
    pub fn changed_within(&self, span: Duration, now: SystemTime) -> bool {
        let seconds = u64::try_from(self.changed.0).unwrap_or(0);
        let nanos = u64::try_from(self.changed.1).unwrap_or(0);
        let at =
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanos);
        now.duration_since(at).map_or(true, |age| age < span)
    }
}

/// The fingerprint of what `path` leads to, if anything.
pub fn fingerprint(path: &Path) -> Option<Fingerprint> {
    let metadata = fs::metadata(path).ok()?;
    Some(Fingerprint {
        device: metadata.dev(),
        inode: metadata.ino(),
        len: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// The files under some paths.
#[derive(Debug, Default)]
pub struct Listing {
    /// Each with the position of the path it was found under.
    pub files: BTreeMap<PathBuf, usize>,
    /// Directories that were read.
    pub directories: BTreeSet<PathBuf>,
    /// Paths that could not be read.
    pub unreadable: Vec<PathBuf>,
    /// Findings about them.
    pub problems: Vec<Diagnostic>,
    /// What symbolic links were followed to, so that nothing is read twice.
    canonical: BTreeSet<PathBuf>,
}

impl Listing {
    /// Lists `paths` now.
    pub fn new(paths: &[PathBuf]) -> Self {
        let mut listing = Self::default();
        for (position, path) in paths.iter().enumerate() {
            match fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => listing.directory(path, position, 0),
                Ok(_) => listing.file(path.clone(), position),
                Err(error) => listing.unreadable(path, &error),
            }
        }
        listing
    }

    /// Fingerprints of the files; none for one that cannot be read.
    pub fn fingerprints(&self) -> BTreeMap<PathBuf, Option<Fingerprint>> {
        let absent = self.unreadable.iter().map(|path| (path.clone(), None));
        self.files
            .keys()
            .map(|path| (path.clone(), fingerprint(path)))
            .chain(absent)
            .collect()
    }

    /// `files` in order of precedence: as the paths were given, then sorted.
    pub fn order<'a>(&self, files: impl Iterator<Item = &'a PathBuf>) -> Vec<&'a PathBuf> {
        let mut files: Vec<&PathBuf> = files.collect();
        files.sort_by_key(|path| (self.files.get(*path).copied().unwrap_or(0), *path));
        files
    }

    fn directory(&mut self, path: &Path, position: usize, depth: usize) {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => return self.unreadable(path, &error),
        };
        let first_visit = fs::canonicalize(path).is_ok_and(|real| self.canonical.insert(real));
        if depth > MAX_DEPTH || !first_visit {
            return;
        }
        self.directories.insert(path.to_owned());
        let mut found: Vec<PathBuf> = entries
            .filter_map(Result::ok)
            // Kubernetes keeps the versions of a mounted ConfigMap under names
            // that start with two dots, and links to them.
            .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
            .map(|entry| entry.path())
            .collect();
        found.sort();
        for path in found {
            if path.is_dir() {
                self.directory(&path, position, depth + 1);
            } else if is_configuration(&path) {
                self.file(path, position);
            }
        }
    }

    fn file(&mut self, path: PathBuf, position: usize) {
        // A dangling link stays listed, so that it is reported.
        let real = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
        if self.canonical.insert(real) {
            self.files.entry(path).or_insert(position);
        }
    }

    fn unreadable(&mut self, path: &Path, error: &std::io::Error) {
        self.problems.push(Diagnostic::error(
            &Origin::new(path.to_string_lossy(), 0),
            Reason::Unreadable,
            format!("cannot be read: {error}; what was known of it stays in effect"),
        ));
        self.unreadable.push(path.to_owned());
    }
}

/// Whether a file in a directory is read, by its name.
pub fn is_configuration(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}
