// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Choice of an endpoint: one algorithm a file.
