// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The model to a snapshot: pure and deterministic.

pub mod l4;
pub mod maglev;
