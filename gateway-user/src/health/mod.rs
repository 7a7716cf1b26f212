// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Active probes of endpoints that nobody else vouches for.
//!
//! What is found enters the next compilation as an input, as answers of DNS
//! do; nothing here changes routing by itself, and no flow or connection that
//! exists is touched.
//!
//! | file | job |
//! |---|---|
//! | `judge` | what the results of one endpoint mean: pure |
//! | `schedule` | when the next probe is due: pure |
//! | `board` | every target with its verdict, told the time: pure |
//! | `probe` | one question to one endpoint, one protocol a file |
//! | `prober` | the thread that asks |

pub mod board;
pub mod judge;
pub mod probe;
mod prober;
pub mod schedule;

pub use board::{Board, HealthReport, TargetReport};
pub use judge::Verdict;
pub use probe::Outcome;
pub use prober::{Prober, ProberError};
