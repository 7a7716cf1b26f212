// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernel events for the directories in which files can change. They only say
//! when to look, and whether somebody is still writing.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ffi::OsString,
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::sync::Notify;

use crate::source::file::listing::{Listing, is_configuration};

/// Watches directories.
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    wake: Arc<Notify>,
    known: Arc<Mutex<Known>>,
    /// Directories watched, and the inode each had: one that is replaced is
    /// watched anew.
    directories: BTreeMap<PathBuf, u64>,
}

impl Watch {
    pub fn new() -> Self {
        let wake = Arc::new(Notify::new());
        let waker = Arc::clone(&wake);
        let known = Arc::new(Mutex::new(Known::default()));
        let noted = Arc::clone(&known);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let relevant = match event {
                Ok(event) => lock(&noted).note(&event),
                Err(_) => true,
            };
            if relevant {
                waker.notify_one();
            }
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(%error, "no file events from the kernel: files are compared four times a second instead");
            })
            .ok();
        Self {
            watcher,
            wake,
            known,
            directories: BTreeMap::new(),
        }
    }

    /// Whether every directory is watched.
    pub fn works(&self) -> bool {
        self.watcher.is_some()
    }

    /// Whether a file has been written to and not closed since.
    pub fn is_being_written(&self) -> bool {
        !lock(&self.known).open.is_empty()
    }

    /// Waits for an event; one that came before the call counts.
    pub async fn event(&self) {
        self.wake.notified().await;
    }

    /// Watches the directories of what is listed and named, and those that
    /// symbolic links lead to.
    pub fn follow(&mut self, paths: &[PathBuf], listing: &Listing, files: &BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let mut names = HashSet::new();
        let mut wanted: BTreeMap<PathBuf, u64> = BTreeMap::new();
        let mut want = |directory: &Path| {
            let directory = if directory.as_os_str().is_empty() {
                Path::new(".")
            } else {
                directory
            };
            if let Ok(metadata) = fs::metadata(directory) {
                wanted.insert(directory.to_owned(), metadata.ino());
            }
        };
        for directory in &listing.directories {
            want(directory);
        }
        for path in paths.iter().chain(listing.files.keys()).chain(files) {
            if let Some(parent) = path.parent() {
                want(parent);
            }
            let target = fs::canonicalize(path).ok();
            let ends = [Some(path.as_path()), target.as_deref()];
            let ends = ends.into_iter().flatten().filter_map(Path::file_name);
            names.extend(ends.map(OsString::from));
            if let Some(parent) = target.as_deref().and_then(Path::parent) {
                want(parent);
            }
        }
        lock(&self.known).names = names;
        self.directories.retain(|directory, inode| {
            let stays = wanted.get(directory) == Some(inode);
            if !stays {
                // It may be gone, and its watch with it.
                let _ = watcher.unwatch(directory);
            }
            stays
        });
        for (directory, inode) in wanted {
            if self.directories.contains_key(&directory) {
                continue;
            }
            match watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.directories.insert(directory, inode);
                }
                Err(error) => {
                    tracing::debug!(%error, directory = %directory.display(), "directory not watched");
                }
            }
        }
    }
}

/// What the events are compared with.
#[derive(Default)]
struct Known {
    /// Names of files that are read, whatever their extension.
    names: HashSet<OsString>,
    /// Files of such names, or of configuration, that were written to and not
    /// closed yet.
    open: HashSet<PathBuf>,
}

impl Known {
    /// Takes an event in; whether it may concern what is read. Directories that
    /// are watched can hold anything: a log that is written all the time is not
    /// to lead to a comparison each time.
    fn note(&mut self, event: &notify::Event) -> bool {
        let mut concerned = event.paths.iter().filter(|path| {
            let name = path.file_name().unwrap_or_default();
            is_configuration(path) || self.names.contains(name)
        });
        match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) => {
                let written: Vec<PathBuf> = concerned.cloned().collect();
                let relevant = !written.is_empty();
                self.open.extend(written);
                relevant
            }
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                let relevant = concerned.next().is_some();
                self.open.retain(|path| !event.paths.contains(path));
                relevant
            }
            // Reading leads to events, too; those would never end.
            EventKind::Access(_) => false,
            // Whatever is made, moved or removed may be a directory or a link.
            _ => {
                self.open.retain(|path| !event.paths.contains(path));
                true
            }
        }
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("directories", &self.directories)
            .finish_non_exhaustive()
    }
}
