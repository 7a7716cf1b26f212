// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reports: diagnostics and the applied generation.
