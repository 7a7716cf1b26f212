// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Another kernel, in a virtual machine: the programs into it, and tests that
//! show that what loads also works.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    build,
    setup::{self, kernel},
    task::{self, say},
};

mod cpio;
mod image;
mod machine;

use image::Image;
use machine::Done;

use super::judge::{self, Judged};

/// Minutes here, even where two cores are shared; seconds of them are the start.
const DEADLINE: Duration = Duration::from_secs(900);

/// Modules behind what the programs and the tests use.
const MODULES: [&str; 6] = [
    "veth",
    "sch_ingress",
    "cls_bpf",
    "8021q",
    "ipip",
    "ip6_tunnel",
];

/// Programs of this machine that the tests start.
const PROGRAMS: [&str; 2] = ["ip", "tc"];

/// A test program, and the cases of it that meet what kernels differ in:
/// helpers and their flags, map types, how programs are attached.
struct Suite {
    name: &'static str,
    cases: &'static [&'static str],
}

const SUITES: [Suite; 3] = [
    Suite {
        name: "bpf",
        cases: &[
            "dsr::a_connection_is_followed_by_what_the_client_says",
            "forward_v4::a_new_flow_goes_to_the_backend_and_its_reply_comes_back",
            "forward_v4::an_unknown_neighbour_is_left_to_the_kernel",
            "forward_v6::extension_headers_are_walked_and_kept",
            "fragments::every_fragment_of_a_packet_is_rewritten_alike",
            "icmp::an_error_about_a_packet_to_the_client_reaches_the_backend",
            "live::bulk_in_both_directions_is_exact",
            "snat::both_addresses_are_rewritten_and_the_port_is_ours",
            "steer::a_steered_port_reaches_a_socket_that_never_bound_it",
            "too_big::a_client_is_told_what_the_way_to_the_backend_takes",
            "udp::a_session_starts_with_its_first_packet_and_is_answered",
        ],
    },
    Suite {
        name: "netns",
        cases: &[
            "attach::a_new_agent_replaces_the_program_under_a_connection",
            "attach::auto_takes_tc_on_veth",
            "attach::native_xdp_forwards",
            "detach::detach_cleans_up_after_a_crash",
        ],
    },
    Suite {
        name: "devices",
        cases: &[
            "tunnel::direct_return_works_with_the_lines_of_the_readme",
            "vlan::a_connection_over_a_vlan_is_forwarded_wherever_its_tag_stands",
        ],
    },
];

/// What another kernel said.
pub struct Outcome {
    /// Its release.
    pub kernel: String,
    /// Of each program.
    pub programs: Vec<Judged>,
    /// Tests that passed.
    pub passed: usize,
    /// What failed of the tests.
    pub faults: Vec<String>,
    /// How long the machine ran.
    pub took: Duration,
}

/// Starts a machine with the kernel of this version. `loader` is the example
/// `verify`.
///
/// # Errors
///
/// When something does not build, or the machine does not get to its end.
pub fn run(version: &str, loader: &Path, only_load: bool) -> Result<Outcome> {
    let kernel = kernel::find(version).context("the kernel is gone")?;
    let dir = task::target_dir().join("kernels");
    let mut image = Image::new(&build::example("guest", "dev")?)?;
    for module in MODULES {
        image.module(&kernel, module)?;
    }
    image.program(loader, LOADER)?;
    image.job(LOADER, &[&format!("/bin/{LOADER}")]);
    if !only_load {
        tests(&mut image)?;
    }
    let file = dir.join(format!("{version}.cpio"));
    fs::write(&file, image.finish()).with_context(|| format!("write {}", file.display()))?;

    say(&format!(
        "starting Linux {version} in {}",
        kernel::MACHINE.0
    ));
    let start = Instant::now();
    let report = machine::run(&kernel.image, &file, &dir, DEADLINE, |line| {
        if line.starts_with("test ") {
            println!("    {line}");
        }
    })?;
    let took = start.elapsed();
    let mut jobs = report.jobs.iter();
    let loaded = jobs
        .next()
        .filter(|job| job.name == LOADER)
        .context("the machine has run nothing")?;
    let programs = judge::judge(loaded.lines.iter().map(String::as_str))
        .with_context(|| loaded.lines.join("\n"))?;
    let mut outcome = Outcome {
        kernel: report.kernel,
        programs,
        passed: 0,
        faults: Vec::new(),
        took,
    };
    if !only_load {
        for suite in &SUITES {
            suite.judge(jobs.next(), &mut outcome);
        }
    }
    Ok(outcome)
}

/// Name of the first job and its program.
const LOADER: &str = "verify";

fn tests(image: &mut Image) -> Result<()> {
    image.program(&build::for_lab(true)?, "sluice")?;
    for program in PROGRAMS {
        image.installed(program)?;
    }
    for suite in &SUITES {
        let Suite { name, cases } = suite;
        image.program(&build::test_program(name)?, name)?;
        let program = format!("/bin/{name}");
        // What cannot run there would be a fault of the image.
        let mut words = vec!["CI=true", "SLUICE_BIN=/bin/sluice", &program];
        words.extend(["--exact", "--test-threads", "2"]);
        words.extend(*cases);
        image.job(name, &words);
    }
    Ok(())
}

impl Suite {
    fn judge(&self, job: Option<&Done>, outcome: &mut Outcome) {
        let Some(job) = job.filter(|job| job.name == self.name) else {
            outcome.faults.push(format!("{}: not run", self.name));
            return;
        };
        let passed = self.cases.iter().filter(|case| {
            let line = format!("test {case} ... ok");
            job.lines.contains(&line)
        });
        let passed = passed.count();
        outcome.passed += passed;
        if job.status != 0 || passed != self.cases.len() {
            // With the names of those that are not there any more.
            println!("\n{}", job.lines.join("\n"));
            outcome.faults.push(format!(
                "{}: {passed} of {} passed (see xtask/src/verify/guest/mod.rs for their names)",
                self.name,
                self.cases.len()
            ));
        }
    }
}

/// Why no machine with this kernel can be had here, if so.
pub fn prepare(version: &str) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("only on x86_64, this is {}", std::env::consts::ARCH);
    }
    setup::ensure_kernel(version)
}
