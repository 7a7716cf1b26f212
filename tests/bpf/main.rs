// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packet in, packet out: the kernel programs through BPF_PROG_TEST_RUN, and
//! the steering program on real sockets.
//!
//! Each case runs at tc and at XDP, in a network namespace and with maps of its
//! own, so the tests run side by side. What comes out is compared whole, with a
//! packet built from scratch. They need root; without it they print SKIPPED.

mod acl;
mod adopt;
mod drops;
mod dsr;
mod flow;
mod forward_v4;
mod forward_v6;
mod found;
mod found_handoffs;
mod fragments;
mod guard;
mod handoff;
mod icmp;
mod lab;
mod live;
mod live_icmp;
mod malformed;
mod maps;
mod model;
mod next_hop;
mod packet;
mod port_ranges;
mod property;
mod reply;
mod select;
mod snat;
mod steer;
mod syn_cookies;
mod too_big;
mod udp;
mod watch;
