// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Files and directories as a source.
