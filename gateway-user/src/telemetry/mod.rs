// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the agent reports about itself while it runs: the log, access records
//! and the counters behind `/metrics`.

pub mod access;
pub mod counters;
pub mod histogram;
pub mod log;
