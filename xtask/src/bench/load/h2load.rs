// SPDX-License-Identifier: Apache-2.0 OR MIT
//! HTTP/2 requests over TLS by h2load.

use std::time::Duration;

use anyhow::{Result, bail};

use super::Target;
use crate::bench::sample::Sample;

/// Runs h2load for `window`; the caller fills in the CPU time.
///
/// # Errors
///
/// When h2load fails or reports no figure.
pub fn measure(_target: &Target<'_>, _window: Duration) -> Result<Sample> {
    bail!("h2load: not built yet")
}
