// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Real clients: curl, the mosquitto tools, kcat, iperf3, openssl, raw sockets.

pub mod curl;
pub mod iperf;
pub mod kafka;
pub mod mqtt;
pub mod openssl;
pub mod raw;
