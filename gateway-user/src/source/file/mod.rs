// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Files and directories as a source.
//!
//! What is read is decided by contents, never by events: an event or a tick
//! only leads to a comparison of what is there with what was read. So a lost
//! event costs two seconds at most, and noise in a watched directory nothing.
//!
//! A file that cannot be read or parsed keeps its last good version, and so does
//! an object whose document has a value of the wrong type. A file that is gone
//! takes its resources with it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    fs::File,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{
    diagnostic::{Diagnostic, Reason},
    origin::Origin,
    resource::{
        FileContents, Lines, Meta, Object, ObjectId, Resource, ResourceSet,
        istio::AuthorizationPolicy,
    },
    source::{
        Loaded,
        decode::{Decoded, MAX_FILE_BYTES, decode},
    },
};

mod listing;
mod watch;

#[cfg(test)]
mod tests;

use listing::{Fingerprint, Listing};
use watch::Watch;

/// A change is taken once the files have not changed for so long, where it is
/// not known that whoever wrote them is done.
const QUIET: Duration = Duration::from_millis(50);
/// The same where it is: every file is closed, or was moved into place. What
/// comes within this belongs to the same change.
const PAUSE: Duration = Duration::from_millis(10);
/// And at the latest after so long, which is also what a file that is being
/// written is waited for.
const PATIENCE: Duration = Duration::from_millis(250);
/// How often the files are compared without any event.
const POLL: Duration = Duration::from_secs(2);
/// The same when the kernel gives no events.
const POLL_ALONE: Duration = Duration::from_millis(250);
/// How often the files are compared while events come: there can be thousands,
/// and of other files.
const THROTTLE: Duration = Duration::from_millis(5);
/// A file written so shortly before it was read may have been written again
/// without a change of its times.
const RACY: Duration = Duration::from_millis(20);
/// Largest certificate or key that is read.
const MAX_REFERENCED_BYTES: usize = 1 << 20;

/// Configuration from files and directories.
#[derive(Debug)]
pub struct FileSource {
    paths: Vec<PathBuf>,
    files: BTreeMap<PathBuf, Known>,
    /// Files that Gateways name.
    referenced: BTreeSet<PathBuf>,
    /// What was there when it was read.
    seen: BTreeMap<PathBuf, Option<Fingerprint>>,
    /// Files to be compared by content once more, and their hashes.
    suspects: Vec<(PathBuf, u64)>,
    /// When they can no longer change unnoticed.
    racy_until: Instant,
    /// A change that is not taken yet. Kept here, not in the future that waits:
    /// that one is dropped whenever the agent has something else to do.
    settling: Option<Settling>,
    watch: Watch,
}

/// A change that has been noticed.
#[derive(Debug)]
struct Settling {
    last: BTreeMap<PathBuf, Option<Fingerprint>>,
    since: Instant,
    deadline: Instant,
}

/// What is known of one file.
#[derive(Debug)]
struct Known {
    hash: u64,
    /// What the file looked like, if its contents could not change without it.
    settled: Option<Fingerprint>,
    good: Option<Arc<Decoded>>,
    problem: Option<Diagnostic>,
}

impl FileSource {
    /// A source that reads `paths`: files as they are, directories with their
    /// `*.yaml`, `*.yml` and `*.json` files and subdirectories, sorted; hidden
    /// names are left out.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self {
            paths,
            files: BTreeMap::new(),
            referenced: BTreeSet::new(),
            seen: BTreeMap::new(),
            suspects: Vec::new(),
            racy_until: Instant::now(),
            settling: None,
            watch: Watch::new(),
        }
    }

    /// Reads everything now.
    pub fn load(&mut self) -> Loaded {
        let listing = Listing::new(&self.paths);
        let now = SystemTime::now();
        let mut seen = listing.fingerprints();
        let mut diagnostics = listing.problems.clone();
        self.suspects.clear();
        self.settling = None;
        self.racy_until = Instant::now() + RACY;
        // Under a path that cannot be listed, what was known stays.
        self.files.retain(|path, _| {
            listing.files.contains_key(path)
                || listing.unreadable.iter().any(|root| path.starts_with(root))
        });
        for path in listing.files.keys() {
            let fingerprint = seen.get(path).copied().flatten();
            self.read(path, fingerprint.filter(|it| !it.changed_within(RACY, now)));
        }
        let mut resources = ResourceSet::default();
        let mut defined: HashMap<(&'static str, &ObjectId), &Origin> = HashMap::new();
        for path in listing.order(self.files.keys()) {
            let Some(known) = self.files.get(path) else {
                continue;
            };
            diagnostics.extend(known.problem.clone());
            let Some(good) = &known.good else { continue };
            if known.problem.is_none() {
                diagnostics.extend(good.diagnostics.iter().cloned());
            }
            for resource in &good.resources {
                let meta = resource.meta();
                match defined.entry((resource.kind(), &meta.id)) {
                    Entry::Vacant(free) => {
                        free.insert(&meta.origin);
                        resources.push(resource.clone());
                    }
                    Entry::Occupied(first) => diagnostics.push(Diagnostic::error(
                        &meta.origin,
                        Reason::DuplicateObject,
                        format!(
                            "{} {} is already defined at {}; this one is ignored",
                            resource.kind(),
                            meta.id,
                            first.get()
                        ),
                    )),
                }
            }
        }
        self.referenced = referenced(&resources);
        for path in &self.referenced {
            seen.insert(path.clone(), listing::fingerprint(path));
            let contents = read_capped(path, MAX_REFERENCED_BYTES)
                .map(|bytes| FileContents(bytes.into()))
                .map_err(|error| error.to_string());
            if let Ok(contents) = &contents {
                self.suspects.push((path.clone(), hash(&contents.0)));
            }
            resources.files.insert(path.clone(), contents);
        }
        let racy = |fingerprint: &Option<Fingerprint>| {
            fingerprint.is_some_and(|known| known.changed_within(RACY, now))
        };
        self.suspects
            .retain(|(path, _)| seen.get(path).is_some_and(racy));
        self.watch.follow(&self.paths, &listing, &self.referenced);
        self.seen = seen;
        diagnostics.sort();
        diagnostics.dedup();
        Loaded {
            resources,
            diagnostics,
        }
    }

    /// Waits until something differs from what [`FileSource::load`] read, and
    /// has settled. May be dropped at any point: the next call goes on where
    /// this one was.
    pub async fn changed(&mut self) {
        let poll = if self.watch.works() { POLL } else { POLL_ALONE };
        if !self.suspects.is_empty() {
            tokio::time::sleep_until(self.racy_until).await;
            let suspects = std::mem::take(&mut self.suspects);
            let differs = suspects.iter().any(|(path, known)| {
                read_capped(path, MAX_FILE_BYTES).map_or(true, |bytes| hash(&bytes) != *known)
            });
            if differs {
                self.settle(false).await;
                return;
            }
        }
        let mut by_event = false;
        loop {
            if self.settling.is_some() || self.scan() != self.seen {
                self.settle(by_event).await;
                return;
            }
            by_event = tokio::time::timeout(poll, self.watch.event()).await.is_ok();
            tokio::time::sleep(THROTTLE).await;
        }
    }

    /// Waits until nothing changes any more, within limits. A change that no
    /// event told of says nothing about whether its writer is done.
    async fn settle(&mut self, by_event: bool) {
        loop {
            let now = self.scan();
            let settling = self.settling.get_or_insert_with(|| Settling {
                last: now.clone(),
                since: Instant::now(),
                deadline: Instant::now() + PATIENCE,
            });
            if settling.last != now {
                settling.last = now;
                settling.since = Instant::now();
            }
            let quiet = match self.watch.is_being_written() {
                true => PATIENCE,
                false if by_event => PAUSE,
                false => QUIET,
            };
            let until = (settling.since + quiet).min(settling.deadline);
            if Instant::now() >= until {
                self.settling = None;
                return;
            }
            // That a file is closed is an event.
            let event = tokio::time::timeout_at(until, self.watch.event()).await;
            if event.is_ok() {
                tokio::time::sleep(THROTTLE).await;
            }
        }
    }

    fn scan(&self) -> BTreeMap<PathBuf, Option<Fingerprint>> {
        let mut found = Listing::new(&self.paths).fingerprints();
        for path in &self.referenced {
            found.insert(path.clone(), listing::fingerprint(path));
        }
        found
    }

    /// Reads one file unless its contents are those already known. `settled` is
    /// the fingerprint of one whose contents can no longer change without it.
    fn read(&mut self, path: &Path, settled: Option<Fingerprint>) {
        if let Some(known) = self.files.get(path)
            && settled.is_some()
            && known.settled == settled
        {
            return;
        }
        let name: Arc<str> = path.to_string_lossy().into();
        let origin = Origin::new(Arc::clone(&name), 0);
        let previous = self.files.remove(path);
        let good = previous.as_ref().and_then(|known| known.good.clone());
        let had_any = good.as_ref().is_some_and(|good| !good.resources.is_empty());
        let stays = |mut problem: Diagnostic| {
            if had_any {
                problem
                    .message
                    .push_str("; the last good version of this file stays in effect");
            }
            Some(problem)
        };
        let bytes = match read_capped(path, MAX_FILE_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => {
                let problem = Diagnostic::error(
                    &origin,
                    Reason::Unreadable,
                    format!("cannot be read: {error}"),
                );
                self.files.insert(
                    path.to_owned(),
                    Known {
                        hash: 0,
                        settled: None,
                        good,
                        problem: stays(problem),
                    },
                );
                return;
            }
        };
        let hash = hash(&bytes);
        self.suspects.push((path.to_owned(), hash));
        if let Some(known) = previous.filter(|known| known.hash == hash) {
            let known = Known { settled, ..known };
            self.files.insert(path.to_owned(), known);
            return;
        }
        let result = if bytes.is_empty() && had_any {
            Err(Diagnostic::error(
                &origin,
                Reason::Syntax,
                "the file is empty, as if its writing was cut off; delete it to remove its resources",
            ))
        } else {
            match std::str::from_utf8(&bytes) {
                Ok(text) => decode(&name, text),
                Err(error) => {
                    let before = &bytes[..error.valid_up_to()];
                    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
                    Err(Diagnostic::error(
                        &origin.at(u32::try_from(line).unwrap_or(u32::MAX)),
                        Reason::Syntax,
                        "not UTF-8; save the file in that encoding",
                    ))
                }
            }
        };
        let known = match result {
            Ok(mut decoded) => {
                if let Some(good) = &good {
                    keep_last_good(&mut decoded, good);
                }
                hold_unreadable(&mut decoded);
                Known {
                    hash,
                    settled,
                    good: Some(Arc::new(decoded)),
                    problem: None,
                }
            }
            Err(problem) => Known {
                hash,
                settled,
                good,
                problem: stays(problem),
            },
        };
        self.files.insert(path.to_owned(), known);
    }
}

/// Puts the last good version of every object that cannot be used as written
/// in its place.
fn keep_last_good(decoded: &mut Decoded, good: &Decoded) {
    // From the last to the first, so that positions stay what they are.
    for failed in decoded.failed.iter().rev() {
        let last = good
            .resources
            .iter()
            .find(|resource| resource.kind() == failed.kind && resource.meta().id == failed.id);
        let Some(last) = last else { continue };
        decoded.resources.insert(failed.position, last.clone());
        decoded.diagnostics.push(Diagnostic::warning(
            &failed.origin,
            Reason::InvalidValue,
            format!(
                "the last good version of {} {} stays in effect until this one is correct",
                failed.kind, failed.id
            ),
        ));
    }
}

/// Puts a policy that takes nobody in the place of one that was never readable:
/// without it, those would be served whom it was to keep out.
fn hold_unreadable(decoded: &mut Decoded) {
    for failed in &decoded.failed {
        let policy = Resource::AuthorizationPolicy(Arc::new(Object {
            meta: Meta {
                id: failed.id.clone(),
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
                origin: failed.origin.clone(),
                lines: Lines::default(),
            },
            spec: AuthorizationPolicy {
                unreadable: true,
                ..AuthorizationPolicy::default()
            },
        }));
        let is_there =
            |known: &Resource| known.kind() == policy.kind() && known.meta().id == policy.meta().id;
        if failed.kind == policy.kind() && !decoded.resources.iter().any(is_there) {
            decoded.resources.push(policy);
        }
    }
}

/// Paths of the certificates and keys that Gateways name.
fn referenced(resources: &ResourceSet) -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::new();
    for gateway in &resources.gateways {
        for tls in gateway
            .spec
            .servers
            .iter()
            .filter_map(|server| server.tls.as_ref())
        {
            let pairs = tls.tls_certificates.iter().flat_map(|pair| {
                [
                    &pair.server_certificate,
                    &pair.private_key,
                    &pair.ca_certificates,
                ]
            });
            let own = [
                &tls.server_certificate,
                &tls.private_key,
                &tls.ca_certificates,
            ];
            for path in own.into_iter().chain(pairs).flatten() {
                paths.insert(gateway.meta.origin.beside(path));
            }
        }
    }
    paths
}

fn read_capped(path: &Path, cap: usize) -> io::Result<Vec<u8>> {
    // A pipe or a device could block for ever or never end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(cap as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > cap {
        return Err(io::Error::other(format!(
            "larger than {cap} bytes; split it"
        )));
    }
    Ok(bytes)
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
