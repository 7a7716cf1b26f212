// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can go wrong at the kernel.

use std::{io, path::PathBuf};

/// An error of a library.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A failed operation of the datapath, on one line with its causes: an operator
/// sees it in a log, not in a debugger.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The kernel or the permissions do not allow eBPF.
    #[error("eBPF is not available: {}; run with --datapath userspace to do without", missing.join("; "))]
    Unavailable {
        /// What is missing, in plain words.
        missing: Vec<String>,
    },
    /// The process may not look at what is in the kernel.
    #[error("cannot look into the kernel: missing {}", missing.join(" and "))]
    NotAllowed {
        /// What is missing, in plain words.
        missing: Vec<String>,
    },
    /// No agent has left anything.
    #[error(
        "{}: nothing there: no agent of this version has run here with eBPF (another bpffs directory? name its settings with --bootstrap)",
        path.display()
    )]
    NothingPinned {
        /// Where the maps should be pinned.
        path: PathBuf,
    },
    /// Somebody else watches.
    #[error("somebody watches {} already: one `sluice trace --watch` at a time", path.display())]
    Watched {
        /// Where the maps are pinned.
        path: PathBuf,
    },
    /// Another agent is at work.
    #[error("another agent{} uses {what}: stop it first", pid(*holder))]
    InUse {
        /// The bpffs directory, or the network namespace.
        what: String,
        /// Its process, when it can be seen from here.
        holder: Option<u32>,
    },
    /// A number for the way of replies to clients is somebody else's.
    #[error("{by} has {what} {number}: set client_address.{what} in the bootstrap to another one")]
    Taken {
        /// `mark` or `table`.
        what: &'static str,
        /// The number.
        number: u32,
        /// Who has it.
        by: String,
    },
    /// Pins of another version are there; what they forward goes on.
    #[error(
        "{} holds layout v{found}, {} this version's v{wanted}: {}",
        path.display(),
        if found < wanted { "older than" } else { "newer than" },
        if found < wanted {
            "run `sluice detach` (its flows end) and start again, or go on with the version that wrote it"
        } else {
            "start the newer version again, or run `sluice detach` (its flows end)"
        }
    )]
    OtherLayout {
        /// The bpffs directory.
        path: PathBuf,
        /// The layout found.
        found: u32,
        /// The layout of this version.
        wanted: u32,
    },
    /// A pinned map is not what its name says.
    #[error(
        "the pinned map {map} has keys of {key_size} and values of {value_size} bytes, not what this version writes: run `sluice detach` (its flows end)"
    )]
    ForeignMap {
        /// Its name.
        map: &'static str,
        /// Bytes of a key.
        key_size: u32,
        /// Bytes of a value.
        value_size: u32,
    },
    /// The object, or one of its programs, was refused.
    #[error("cannot load {what} into the kernel: {}", chain(&**cause))]
    Load {
        /// The object or the program.
        what: String,
        /// Why.
        cause: Cause,
    },
    /// A program cannot be attached.
    #[error("cannot attach {program} to {target}: {}", chain(&**cause))]
    Attach {
        /// The program.
        program: &'static str,
        /// The interface, or the network namespace.
        target: String,
        /// Why.
        cause: Cause,
    },
    /// A map operation failed; what was in force before still is.
    #[error("cannot {operation} {key} in the kernel map {map}: {}", chain(&**cause))]
    Map {
        /// Its name.
        map: &'static str,
        /// What was tried.
        operation: &'static str,
        /// On which key.
        key: String,
        /// Why.
        cause: Cause,
    },
    /// A file or directory cannot be used.
    #[error("cannot {operation} {}: {cause}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The kernel's routing tables refused.
    #[error("cannot {operation}: {cause}")]
    Netlink {
        /// What was tried.
        operation: String,
        /// Why.
        cause: io::Error,
    },
    /// A name pattern of the configuration is not one.
    #[error("{pattern:?} is not an interface name or pattern: {}", chain(&**cause))]
    Pattern {
        /// As configured.
        pattern: String,
        /// Why.
        cause: Cause,
    },
    /// No interface matches what was asked for.
    #[error(
        "no wire interface: none matches {patterns:?} or has a default route; set wire_interfaces"
    )]
    NoWire {
        /// As configured.
        patterns: Vec<String>,
    },
}

#[cfg(feature = "ebpf")]
impl DatapathError {
    /// For `map_err`: a failed file operation.
    pub(super) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::File {
            operation,
            path,
            cause,
        }
    }
}

/// The process of another agent as a part of a sentence.
fn pid(holder: Option<u32>) -> String {
    holder.map_or_else(
        || " (in another container)".to_owned(),
        |pid| format!(" (pid {pid})"),
    )
}

/// An error and its causes on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
