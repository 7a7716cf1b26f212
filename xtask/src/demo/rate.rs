// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One iperf3 stream three ways: straight to the backend, through an nftables
//! DNAT, through the forwarded port. Many short rounds that alternate, and the
//! median of each: what else the machine does for a while then spoils a few
//! rounds of every path and not the comparison. Their number is fixed, so that
//! no luck is waited for.

use std::{net::Ipv4Addr, process::Command};

use anyhow::{Context, Result, bail};
use gateway_tests::{client::iperf, lab::Lab, netns::run};

use super::stage::Stage;

/// Compares the rates, and fails when the forwarded stream is below the bound.
pub fn compare(stage: &Stage<'_>) -> Result<String> {
    let mut rates = Rates::default();
    for _ in 0..ROUNDS {
        rates.round(stage.lab)?;
    }
    if rates.ratio().is_some_and(|ratio| ratio < BOUND) {
        bail!("{}", rates.text());
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
        Some(median(&self.forwarded)? / median(&self.nftables)?)
    }

    fn text(&self) -> String {
        let gbit = |rates: &[f64]| {
            median(rates).map_or_else(|| "-".to_owned(), |rate| format!("{:.1}", rate / 1e9))
        };
        let mut text = format!(
            "{} Gbit/s, direct {}",
            gbit(&self.forwarded),
            gbit(&self.direct)
        );
        if let Some(ratio) = self.ratio() {
            text.push_str(&format!(
                ", nftables {} (ratio {ratio:.2}; medians of {ROUNDS})",
                gbit(&self.nftables),
            ));
        }
        text
    }
}

/// The middle one, the upper of two.
fn median(rates: &[f64]) -> Option<f64> {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
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

const PORT: u16 = 5201;
/// An address beside the VIP that only nftables knows.
const NAT_VIP: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 2);
const SECONDS: u32 = 1;
const ROUNDS: usize = 12;
/// What the forwarded stream must reach of the DNAT's rate.
const BOUND: f64 = 0.9;
