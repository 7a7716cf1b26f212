// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The composition root: the only file that makes channels and long-lived tasks.
