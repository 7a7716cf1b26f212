// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TLS termination: handshake and certificate choice.
