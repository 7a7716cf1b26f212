// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernel events for the directories in which files can change. They only say
//! when to look, and whether somebody is still writing.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::sync::Notify;

use crate::source::file::listing::Listing;

/// Watches directories.
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    wake: Arc<Notify>,
    /// Files that were written to and not closed yet.
    open: Arc<Mutex<HashSet<PathBuf>>>,
    /// Directories watched, and the inode each had: one that is replaced is
    /// watched anew.
    directories: BTreeMap<PathBuf, u64>,
}

impl Watch {
    pub fn new() -> Self {
        let wake = Arc::new(Notify::new());
        let waker = Arc::clone(&wake);
        let open = Arc::new(Mutex::new(HashSet::new()));
        let written = Arc::clone(&open);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let relevant = match event {
                Ok(event) => {
                    note(&written, &event);
                    // Reading leads to events, too; those would never end.
                    !matches!(
                        event.kind,
                        EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write)
                    )
                }
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
            open,
            directories: BTreeMap::new(),
        }
    }

    /// Whether every directory is watched.
    pub fn works(&self) -> bool {
        self.watcher.is_some()
    }

    /// Whether a file has been written to and not closed since.
    pub fn is_being_written(&self) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        !open.is_empty()
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
            if let Some(parent) = target.as_deref().and_then(Path::parent) {
                want(parent);
            }
        }
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

/// Keeps the files that are being written. A file that is created only, as a
/// link is, is not among them: nobody closes it.
fn note(open: &Mutex<HashSet<PathBuf>>, event: &notify::Event) {
    let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
    match event.kind {
        EventKind::Modify(ModifyKind::Data(_)) => open.extend(event.paths.iter().cloned()),
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(_))
        | EventKind::Remove(_) => open.retain(|path| !event.paths.contains(path)),
        _ => {}
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("directories", &self.directories)
            .finish_non_exhaustive()
    }
}
