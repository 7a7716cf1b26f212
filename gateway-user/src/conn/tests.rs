// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whole connections over loopback.
