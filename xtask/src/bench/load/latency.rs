// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests at a fixed rate: how long each takes from when it was due.

use std::time::Duration;

use anyhow::{Result, bail};

use super::Target;
use crate::bench::sample::Sample;

/// Sends `rate` requests a second for `window`; the caller fills in the CPU
/// time.
///
/// # Errors
///
/// When the tool fails or reports no figure.
pub fn measure(_target: &Target<'_>, _window: Duration, _rate: f64) -> Result<Sample> {
    bail!("latency: not built yet")
}
