// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One iperf3 stream three ways: straight to the backend, through an nftables
//! DNAT, through the forwarded port. Rounds alternate and the best of each
//! counts: what else the machine does can only make a round slower.

use std::{net::Ipv4Addr, process::Command};

use anyhow::{Context, Result, bail};
use gateway_tests::{client::iperf, lab::Lab, netns::run};

use super::stage::Stage;
use crate::task::say;

/// Compares the rates: best of three rounds, of more when the machine was too
/// busy for the bound.
pub fn compare(stage: &Stage<'_>) -> Result<String> {
    let lab = stage.lab;
    let mut rates = Rates::default();
    for attempt in 0..ATTEMPTS {
        for _ in 0..ROUNDS {
            rates.round(lab)?;
        }
        let ratio = rates.ratio();
        if lab.is_loopback() || ratio.is_none_or(|ratio| ratio >= BOUND) {
            break;
        }
        if attempt + 1 == ATTEMPTS {
            bail!("{}", rates.text());
        }
        say(&format!("{}: measuring again", rates.text()));
    }
    Ok(rates.text())
}

#[derive(Default)]
struct Rates {
    direct: Vec<f64>,
    nftables: Vec<f64>,
    forwarded: Vec<f64>,
}

impl Rates {
    fn round(&mut self, lab: &Lab) -> Result<()> {
        let (client, backend) = (&lab.client, lab.backend_address(0));
        self.direct
            .push(iperf::rate(client, backend, PORT, SECONDS).context("direct")?);
        if !lab.is_loopback() {
            let nat = Dnat::add(lab, backend)?;
            self.nftables
                .push(iperf::rate(client, NAT_VIP, PORT, SECONDS).context("through nftables")?);
            drop(nat);
        }
        let port = lab.port(PORT);
        self.forwarded
            .push(iperf::rate(client, lab.vip(), port, SECONDS).context("through the gateway")?);
        Ok(())
    }

    fn ratio(&self) -> Option<f64> {
        Some(best(&self.forwarded)? / best(&self.nftables)?)
    }

    fn text(&self) -> String {
        let gbit = |rates: &[f64]| {
            best(rates).map_or_else(|| "-".to_owned(), |rate| format!("{:.1}", rate / 1e9))
        };
        let mut text = format!(
            "{} Gbit/s, direct {}",
            gbit(&self.forwarded),
            gbit(&self.direct)
        );
        if let Some(ratio) = self.ratio() {
            text.push_str(&format!(
                ", nftables {} (ratio {ratio:.2}, of medians {:.2}; {} rounds)",
                gbit(&self.nftables),
                median(&self.forwarded) / median(&self.nftables),
                self.forwarded.len()
            ));
        }
        text
    }
}

/// The middle one, the upper of two: shown beside the best, which repeating
/// until the bound is met flatters.
fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// An nftables DNAT in the gateway namespace, there only for its rounds: its
/// connection tracking would cost the others.
struct Dnat<'lab> {
    lab: &'lab Lab,
}

impl<'lab> Dnat<'lab> {
    fn add(lab: &'lab Lab, backend: Ipv4Addr) -> Result<Self> {
        let rules = format!(
            "add table ip sluice_demo; \
             add chain ip sluice_demo pre {{ type nat hook prerouting priority dstnat; }}; \
             add rule ip sluice_demo pre ip daddr {NAT_VIP} tcp dport {PORT} dnat to {backend}:{PORT}"
        );
        run(nft(lab).arg(rules)).context("add an nftables DNAT")?;
        Ok(Self { lab })
    }
}

impl Drop for Dnat<'_> {
    fn drop(&mut self) {
        if let Err(error) = run(nft(self.lab).arg("delete table ip sluice_demo")) {
            eprintln!("demo: {error:#}");
        }
    }
}

fn nft(lab: &Lab) -> Command {
    lab.gateway.command("nft")
}

fn best(rates: &[f64]) -> Option<f64> {
    rates.iter().copied().max_by(f64::total_cmp)
}

const PORT: u16 = 5201;
/// An address beside the VIP that only nftables knows.
const NAT_VIP: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 2);
const SECONDS: u32 = 3;
const ROUNDS: usize = 3;
const ATTEMPTS: usize = 4;
/// What the forwarded stream must reach of the DNAT's rate.
const BOUND: f64 = 0.9;
