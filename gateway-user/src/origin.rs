// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where a piece of configuration was written.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A position in a configuration file, and the object found there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The file as it was named to the agent.
    pub file: Arc<str>,
    /// Line, from 1; 0 when only the file is known.
    pub line: u32,
}

impl Origin {
    /// A position in `file`.
    pub fn new(file: impl Into<Arc<str>>, line: u32) -> Self {
        Self {
            file: file.into(),
            line,
        }
    }

    /// Another line of the same file.
    pub fn at(&self, line: u32) -> Self {
        Self {
            file: Arc::clone(&self.file),
            line,
        }
    }

    /// A path as this file means it: relative ones start from its directory.
    pub fn beside(&self, path: &str) -> PathBuf {
        Path::new(&*self.file)
            .parent()
            .unwrap_or(Path::new(""))
            .join(path)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            f.write_str(&self.file)
        } else {
            write!(f, "{}:{}", self.file, self.line)
        }
    }
}
