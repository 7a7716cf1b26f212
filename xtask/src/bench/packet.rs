// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cost of one packet in the kernel programs.

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
