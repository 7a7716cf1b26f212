// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Resources to the model, with diagnostics; never fails as a whole.
