// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where configuration comes from. A source yields complete resource sets and
//! the findings made while reading; it gives the resources no meaning.

use crate::{diagnostic::Diagnostic, resource::ResourceSet};

pub mod decode;
pub mod dns;
pub mod file;

pub use dns::Resolver;
pub use file::FileSource;

/// What a source holds now.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Every resource.
    pub resources: ResourceSet,
    /// Every finding, in order of files and lines.
    pub diagnostics: Vec<Diagnostic>,
}
