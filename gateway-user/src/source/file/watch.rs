// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernel events for the directories in which files can change. They only say
//! when to look.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::sync::Notify;

use crate::source::file::listing::Listing;

/// Watches directories.
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    wake: Arc<Notify>,
    /// Directories watched, and the inode each had: one that is replaced is
    /// watched anew.
    directories: BTreeMap<PathBuf, u64>,
}

impl Watch {
    pub fn new() -> Self {
        let wake = Arc::new(Notify::new());
        let waker = Arc::clone(&wake);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let relevant = match event {
                // Reading leads to events, too; those would never end.
                Ok(event) => !matches!(
                    event.kind,
                    EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write)
                ),
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
            directories: BTreeMap::new(),
        }
    }

    /// Whether every directory is watched.
    pub fn works(&self) -> bool {
        self.watcher.is_some()
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

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("directories", &self.directories)
            .finish_non_exhaustive()
    }
}
