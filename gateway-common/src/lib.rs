// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The contract between Sluice's kernel programs and its agent.
//!
//! Every byte that both sides read is a type of this crate: `#[repr(C)]`,
//! integers only, explicit padding, size asserted at compile time, network
//! byte order named in the field (`port_be`). The arithmetic both sides must
//! agree on (flow hash, ring slot, checksum deltas) lives here too and is
//! tested on the host.
//!
//! Changing the size or the meaning of any type here changes the layout of
//! pinned maps: bump [`names::LAYOUT_VERSION`].

#![no_std]
#![warn(missing_docs)]

pub mod addr;
pub mod backend;
pub mod checksum;
pub mod counters;
pub mod drop_reason;
pub mod flow;
pub mod fragment;
pub mod guard;
pub mod label;
pub mod limit;
pub mod limits;
pub mod maglev;
pub mod names;
pub mod next_hop;
#[cfg(feature = "user")]
mod pod;
pub mod port_range;
pub mod service;
pub mod settings;
pub mod snat;
pub mod source;
pub mod source_flows;
pub mod steer;
pub mod tcp_splice;
pub mod tcp_state;
pub mod udp_state;
pub mod watch;
