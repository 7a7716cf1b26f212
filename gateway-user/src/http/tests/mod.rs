// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whole connections on loopback: scripted clients, this gateway, scripted
//! backends.

mod bad_input;
mod bodies;
mod http2;
mod proxy_header;
mod records;
mod rig;
mod routing;
mod upstreams;
