// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `sluice`: parse the command line, hand over.

fn main() {}
