// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernel programs and maps: load, pin, plan, apply, read.
//!
//! Everything in the kernel outlives this process: programs, links and maps are
//! pinned, so that flows go on while no agent runs. An agent that starts adopts
//! what it finds, replaces the programs, and changes only what differs.
//!
//! ```text
//! Snapshot ─ tables ─ plan ─ apply ─▶ maps        (one generation)
//! interfaces, routes, addresses ─┘                 (refresh, every second)
//! flow slots ─▶ flows (sweep) ─▶ maps              (twice a second)
//! ```

#[cfg(not(feature = "ebpf"))]
mod absent;
#[cfg(feature = "ebpf")]
mod account;
#[cfg(feature = "ebpf")]
mod alive;
#[cfg(feature = "ebpf")]
mod apply;
#[cfg(feature = "ebpf")]
mod attach;
#[cfg(feature = "ebpf")]
mod audit;
#[cfg(feature = "ebpf")]
mod bpffs;
pub mod config;
#[cfg(feature = "ebpf")]
mod counts;
pub mod destination;
#[cfg(feature = "ebpf")]
mod detach;
#[cfg(feature = "ebpf")]
mod drops;
#[cfg(feature = "ebpf")]
mod egress;
pub mod error;
#[cfg(feature = "ebpf")]
mod ethtool;
#[cfg(feature = "ebpf")]
mod exclusive;
#[cfg(feature = "ebpf")]
mod fault;
#[cfg(feature = "ebpf")]
mod filter;
#[cfg(feature = "ebpf")]
mod flow_keys;
#[cfg(feature = "ebpf")]
mod flows;
#[cfg(feature = "ebpf")]
mod foreign;
#[cfg(feature = "ebpf")]
mod gone;
#[cfg(feature = "ebpf")]
pub mod handoff;
#[cfg(not(feature = "ebpf"))]
#[path = "handoff_absent.rs"]
pub mod handoff;
#[cfg(feature = "ebpf")]
mod hook;
#[cfg(feature = "ebpf")]
mod interfaces;
#[cfg(feature = "ebpf")]
mod kernel;
#[cfg(feature = "ebpf")]
mod keys;
#[cfg(feature = "ebpf")]
mod labels;
#[cfg(feature = "ebpf")]
mod layout;
#[cfg(feature = "ebpf")]
mod links;
#[cfg(feature = "ebpf")]
mod load;
#[cfg(feature = "ebpf")]
mod maps;
#[cfg(feature = "ebpf")]
mod neighbours;
#[cfg(feature = "ebpf")]
mod netlink;
#[cfg(feature = "ebpf")]
mod notices;
#[cfg(feature = "ebpf")]
pub mod object;
#[cfg(feature = "ebpf")]
mod peers;
#[cfg(feature = "ebpf")]
mod pins;
#[cfg(feature = "ebpf")]
mod plan;
#[cfg(feature = "ebpf")]
mod probe;
#[cfg(feature = "ebpf")]
mod ranges;
#[cfg(feature = "ebpf")]
mod raw;
#[cfg(feature = "ebpf")]
mod regions;
pub mod relayed;
pub mod report;
#[cfg(feature = "ebpf")]
mod return_route;
pub mod returning;
#[cfg(feature = "ebpf")]
mod routes;
#[cfg(feature = "ebpf")]
mod segments;
pub mod serves;
#[cfg(feature = "ebpf")]
mod slots;
#[cfg(feature = "ebpf")]
mod source_map;
#[cfg(feature = "ebpf")]
mod stats;
#[cfg(feature = "ebpf")]
mod sysctl;
#[cfg(feature = "ebpf")]
mod tables;
#[cfg(feature = "ebpf")]
mod trace;
#[cfg(feature = "ebpf")]
mod vips;
#[cfg(feature = "ebpf")]
mod volume;
#[cfg(feature = "ebpf")]
mod watch;

#[cfg(not(feature = "ebpf"))]
pub use absent::{Datapath, Watcher, check as check_exclusive, detach, probe, trace};
pub use config::{AttachMode, DatapathConfig, Protection};
pub use destination::Destination;
#[cfg(feature = "ebpf")]
pub use detach::detach;
pub use error::DatapathError;
#[cfg(feature = "ebpf")]
pub use exclusive::check as check_exclusive;
#[cfg(feature = "ebpf")]
pub use kernel::Datapath;
#[cfg(feature = "ebpf")]
pub use probe::probe;
pub use report::{
    Applied, DatapathReport, Detached, FlowReport, Proxied, Swept, TraceQuery, TraceReport,
};
pub use serves::{NotInKernel, kernel_serves};
#[cfg(feature = "ebpf")]
pub use trace::trace;
#[cfg(feature = "ebpf")]
pub use watch::Watcher;
