// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can go wrong at the kernel.

use std::{io, path::PathBuf};

/// A failed operation of the datapath.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The kernel or the permissions do not allow eBPF.
    #[error("eBPF is not available: {}; run with --datapath userspace to do without", missing.join("; "))]
    Unavailable {
        /// What is missing, in plain words.
        missing: Vec<String>,
    },
    /// Another agent works on the same pins.
    #[error("another agent uses {}: stop it first, or give this one a bpffs directory of its own", path.display())]
    InUse {
        /// The bpffs directory.
        path: PathBuf,
    },
    /// Pins of another version are there.
    #[error(
        "{} holds layout {found}, this version writes layout {wanted}: run `sluice detach` (its flows end), or the version that wrote it",
        path.display()
    )]
    OtherLayout {
        /// The bpffs directory.
        path: PathBuf,
        /// The layout found.
        found: String,
        /// The layout of this version.
        wanted: String,
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
    #[error("cannot load {what} into the kernel")]
    Load {
        /// The object or the program.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A program cannot be attached.
    #[error("cannot attach {program} to {target}")]
    Attach {
        /// The program.
        program: &'static str,
        /// The interface, or the network namespace.
        target: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map operation failed; what was in force before still is.
    #[error("cannot {operation} {key} in the kernel map {map}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What was tried.
        operation: &'static str,
        /// On which key.
        key: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file or directory cannot be used.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel's routing tables refused.
    #[error("cannot {operation}")]
    Netlink {
        /// What was tried.
        operation: String,
        /// Why.
        source: io::Error,
    },
    /// A name pattern of the configuration is not one.
    #[error("{pattern:?} is not an interface name or pattern")]
    Pattern {
        /// As configured.
        pattern: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
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
        move |source| Self::File {
            operation,
            path,
            source,
        }
    }
}
