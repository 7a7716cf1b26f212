// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Set-up, build, demo, tests and repository rules.

fn main() {}
