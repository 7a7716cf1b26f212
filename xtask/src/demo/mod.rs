// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask demo`: real clients reach real brokers through one gateway, and
//! a table says what was done, what came of it and what served it.

use anyhow::{Context, Result, bail};
use gateway_tests::{
    gateway::{Datapath, Gateway},
    lab::Lab,
    skip,
};

use crate::{
    build,
    setup::{self, Scope},
    task::say,
};

mod evidence;
mod kept;
mod outlive;
mod rate;
mod rows;
mod stage;
mod table;

use stage::Stage;
use table::Row;

/// `cargo xtask demo`.
#[derive(clap::Args)]
#[command(after_help = "\
As root the lab is made of network namespaces: a client, a gateway node, three
backends. Without root, or with --userspace, everything runs on loopback and
the agent proxies instead of loading kernel programs.

Examples:
  cargo xtask demo
  cargo xtask demo --keep     then look around
  cargo xtask demo --remove   take a kept lab down")]
pub struct Options {
    /// Leave the lab up and say how to look around
    #[arg(long, conflicts_with = "remove")]
    keep: bool,
    /// Run on loopback in userspace mode, as without root
    #[arg(long)]
    userspace: bool,
    /// Take down what --keep left
    #[arg(long)]
    remove: bool,
}

/// Runs the task.
pub fn run(options: &Options) -> Result<()> {
    let Options {
        keep,
        userspace,
        remove,
    } = options;
    if *remove {
        return kept::remove();
    }
    let loopback = *userspace || !skip::is_root();
    if *keep && loopback {
        bail!("--keep needs namespaces: run as root and without --userspace");
    }
    setup::ensure(Scope::Lab)?;
    let agent = build::for_lab(!loopback)?;
    let packages = setup::packages_dir();
    let lab = make_lab(loopback, *keep)?;
    let rows = show(lab, &agent, &packages, *keep)?;
    table::print(&rows);
    let failed = rows.iter().filter(|row| row.is_failed()).count();
    if failed > 0 {
        bail!("{failed} of {} rows failed", rows.len());
    }
    say(&format!("all {} rows ok", rows.len()));
    Ok(())
}

fn make_lab(loopback: bool, keep: bool) -> Result<Lab> {
    if loopback {
        say("no namespaces: everything runs on loopback, in userspace mode");
        return Lab::loopback();
    }
    kept::remove_dead()?;
    say("making namespaces: client -- gateway -- backend 1, 2, 3");
    let mut lab = Lab::named(NAME).context("make the lab")?;
    if keep {
        lab.outlive();
    }
    Ok(lab)
}

fn show(
    mut lab: Lab,
    agent: &std::path::Path,
    packages: &std::path::Path,
    keep: bool,
) -> Result<Vec<Row>> {
    let datapath = if lab.is_loopback() {
        Datapath::Userspace
    } else {
        Datapath::Ebpf
    };
    let mut stage = Stage::set(&lab, packages)?;
    say("starting sluice run on config/examples/demo");
    let bootstrap = match datapath {
        Datapath::Ebpf => outlive::BOOTSTRAP,
        Datapath::Userspace => "",
    };
    let mut gateway = Gateway::with_binary(&lab, agent.to_owned(), datapath, bootstrap)?;
    stage.configure(&gateway)?;
    gateway.start().context("start the agent")?;
    let rows = rows::play(&stage, &mut gateway);
    if keep {
        stage.keep(&mut gateway)?;
        kept::explain(&lab, agent);
        drop(gateway);
        drop(stage);
        lab.keep();
    } else {
        say("stopping the agent, removing its programs and maps, taking the lab down");
        gateway.terminate(std::time::Duration::from_secs(40))?;
        if datapath == Datapath::Ebpf {
            gateway.detach()?;
        }
    }
    Ok(rows)
}

/// Part of the names of the demo's namespaces.
const NAME: &str = "sluice-demo";
