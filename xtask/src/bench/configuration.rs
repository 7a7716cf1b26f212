// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How long a change among many routes and services takes.

use anyhow::{Result, bail};

use super::{sample::Figure, stage::Stage};

/// Measures it.
///
/// # Errors
///
/// When something it needs does not run.
pub fn measure(_stage: &Stage<'_>) -> Result<Vec<Figure>> {
    bail!("not built yet")
}
