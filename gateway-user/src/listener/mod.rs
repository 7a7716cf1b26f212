// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Listening sockets: opened before they are announced, drained after.
