// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The marks Sluice is to reach, and by how much a run misses one.
