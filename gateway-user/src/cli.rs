// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Command line: subcommands and their options.
