// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Admin endpoints: health, readiness, metrics, snapshot.
