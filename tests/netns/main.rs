// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whole connections: the real agent between real clients and real servers, in
//! network namespaces. Needs root; each test has a lab of its own.

mod attach;
mod detach;
mod drain;
mod examples;
mod exclusive;
mod explain;
mod flow_table;
mod footprint;
mod forward;
mod hairpin;
mod handoff;
mod handoff_drain;
mod handoff_ends;
mod handoff_matrix;
mod handoff_mtu;
mod handoff_paths;
mod handoff_peers;
mod handoff_records;
mod handoff_routes;
mod health;
mod hello;
mod http;
mod icmp;
mod integrity;
mod interfaces;
mod ipv6;
mod lab;
mod limits;
mod modes;
mod neighbours;
mod others;
mod passthrough;
mod path_mtu;
mod port_ranges;
mod reload;
mod scene;
mod several;
mod sources;
mod survive;
mod syn_flood;
mod trace;
mod udp;
mod upgrade;
mod userspace;
