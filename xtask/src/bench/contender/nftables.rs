// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel's own NAT as a contender: what plain forwarding costs with
//! connection tracking.

use std::process::Command;

use anyhow::{Context, Result};
use gateway_tests::{lab::Lab, netns::run};

use super::{Running, Start};
use crate::bench::{scenario::Service, stage::Stage};

/// Adds a destination NAT in the gateway namespace.
///
/// # Errors
///
/// When nft refuses the rules.
pub fn start<'lab>(stage: &'lab Stage<'lab>, service: Service) -> Result<Start<'lab>> {
    // TLS it forwards without a look at the server name: what there is to reach.
    if !matches!(service, Service::L4Bulk | Service::L4Http | Service::Sni) {
        return Ok(Start::Skipped(
            "a NAT decrypts nothing and reads no HTTP".to_owned(),
        ));
    }
    let target = stage.bind(service);
    let backends = stage.backends(service);
    // In turn, as the proxies do; the first packet of a connection decides.
    let choices: Vec<String> = backends
        .iter()
        .enumerate()
        .map(|(index, backend)| format!("{index} : {} . {}", backend.ip(), backend.port()))
        .collect();
    let rules = format!(
        "add table ip {TABLE}; \
         add chain ip {TABLE} pre {{ type nat hook prerouting priority dstnat; }}; \
         add rule ip {TABLE} pre ip daddr {} tcp dport {} \
         dnat to numgen inc mod {} map {{ {} }}",
        target.ip(),
        target.port(),
        choices.len(),
        choices.join(", ")
    );
    run(nft(stage.lab).arg(rules)).context("add an nftables DNAT")?;
    let table = Table(stage.lab);
    // Tens of thousands of connections a round, kept for two minutes by
    // default, would fill the table within a long run. What has ended is
    // forgotten sooner; the cost of a connection is the same.
    let time_wait = "net.netfilter.nf_conntrack_tcp_timeout_time_wait";
    stage.lab.gateway.sysctl(time_wait, "10")?;
    Ok(Start::Running(Running::new(target, table)))
}

/// The rules, for as long as the value lives.
struct Table<'lab>(&'lab Lab);

impl Drop for Table<'_> {
    fn drop(&mut self) {
        if let Err(error) = run(nft(self.0).arg(format!("delete table ip {TABLE}"))) {
            eprintln!("bench: {error:#}");
        }
    }
}

fn nft(lab: &Lab) -> Command {
    lab.gateway.command("nft")
}

const TABLE: &str = "sluice_bench";
