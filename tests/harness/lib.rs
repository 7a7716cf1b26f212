// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The lab: namespaces, brokers, clients, and the agent under test.
//!
//! ```text
//! client ──(wire)── gateway ──(pod1)── backend 1
//!                      ├─────(pod2)── backend 2
//!                      └─────(pod3)── backend 3
//! ```
//!
//! Everything a [`lab::Lab`] starts or mounts ends with it, also when a test
//! panics. The same calls work without namespaces on loopback
//! ([`lab::Lab::loopback`]), which is how the demo runs without root.

pub mod admin;
pub mod attached;
pub mod backend;
pub mod budget;
pub mod capture;
pub mod checked;
pub mod client;
pub mod decap;
pub mod file_limit;
pub mod foreign;
pub mod gateway;
pub mod lab;
pub mod netns;
pub mod offload;
pub mod pki;
pub mod process;
pub mod revision;
pub mod sequence;
pub mod skip;
pub mod wait;
