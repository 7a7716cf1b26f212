// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Envoy as a contender.

use anyhow::Result;

use super::Start;
use crate::{
    bench::{scenario::Service, stage::Stage},
    setup,
};

/// Starts Envoy for `service` on [`Stage::bind`].
///
/// # Errors
///
/// When it does not come up.
pub fn start<'lab>(_stage: &'lab Stage<'lab>, _service: Service) -> Result<Start<'lab>> {
    Ok(Start::Skipped(format!(
        "not built yet: {}",
        setup::envoy().display()
    )))
}
