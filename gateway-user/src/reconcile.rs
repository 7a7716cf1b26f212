// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The order in which a snapshot takes effect; the only writer of the published snapshot.
