// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses of endpoints that are configured by name.
