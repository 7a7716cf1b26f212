// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The commands. [`run`] is the composition root: the only file that makes
//! channels between rooms and long-lived tasks.

mod flow_record;
pub mod offline;
pub mod pipeline;
pub mod remote;
pub mod run;
pub mod trace;
