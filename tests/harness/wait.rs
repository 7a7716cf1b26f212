// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Waiting for a condition with a deadline: the tests never sleep blindly.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Asks `probe` every 5 ms until it yields a value.
///
/// # Errors
///
/// After `deadline`, naming `what` and the last refusal of `probe`. An error of
/// `probe` means "not yet".
pub fn until<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match probe() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        if start.elapsed() >= deadline {
            bail!("{what}: not within {deadline:?}{last}");
        }
        thread::sleep(INTERVAL);
    }
}

/// [`until`] for a condition without a value.
///
/// # Errors
///
/// After `deadline`.
pub fn until_true(what: &str, deadline: Duration, mut probe: impl FnMut() -> bool) -> Result<()> {
    until(what, deadline, || Ok(probe().then_some(())))
}

const INTERVAL: Duration = Duration::from_millis(5);
