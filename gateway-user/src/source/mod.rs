// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sources: complete resource sets, debounced, last good kept.
