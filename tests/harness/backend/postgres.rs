// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A PostgreSQL server with an empty database, in the clear.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    lab::Lab,
    netns::{Netns, run},
    process::Process,
};

/// A running server; ended with its sessions when dropped.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    socket_dir: PathBuf,
}

impl Postgres {
    /// Starts one at `address`, whose superuser is let in without a password.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not come up.
    pub fn start(lab: &Lab, netns: &Netns, address: SocketAddr) -> Result<Self> {
        let programs = programs()?;
        let dir = lab.dir().join("postgres");
        // It refuses to run as root.
        run(Command::new("install")
            .args(["--directory", "--mode=700", "--owner", USER])
            .arg(&dir))?;
        let data = dir.join("data");
        run(as_user(Command::new("setpriv"))
            .arg(programs.join("initdb"))
            .args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"])
            .arg("--pgdata")
            .arg(&data)
            .current_dir(&dir))
        .context("initdb")?;
        // From any address, and whoever it is: nobody else reaches the namespace.
        fs::write(
            data.join("pg_hba.conf"),
            "local all all trust\nhost all all all trust\n",
        )?;
        let mut command = as_user(netns.command("setpriv"));
        command
            .arg(programs.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-h", &address.ip().to_string()])
            .args(["-p", &address.port().to_string()])
            .arg("-k")
            .arg(&dir)
            // What it holds is gone with the lab.
            .args(["-c", "fsync=off", "-c", "log_connections=on"])
            .current_dir(&dir);
        let mut process = lab.spawn(command, "postgres")?;
        process.ready("accepts sessions", READY, |process| {
            process
                .log()
                .contains("database system is ready to accept connections")
        })?;
        Ok(Self {
            process,
            socket_dir: dir,
        })
    }

    /// Asks the server itself, past every gateway: rows without alignment.
    ///
    /// # Errors
    ///
    /// When the query fails.
    pub fn ask(&self, address: SocketAddr, query: &str) -> Result<String> {
        run(psql()?.arg("-h").arg(&self.socket_dir).args([
            "-p",
            &address.port().to_string(),
            "-c",
            query,
        ]))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its children have its files open a moment longer than it lives when it
        // is killed.
        let ended = self
            .process
            .signal(libc::SIGINT)
            .and_then(|()| self.process.wait(Duration::from_secs(10)).map(drop));
        if let Err(error) = ended {
            eprintln!("lab: {error:#}");
        }
    }
}

/// psql as its superuser: rows without alignment, ended by the first error.
///
/// # Errors
///
/// When it is not installed.
pub fn psql() -> Result<Command> {
    let mut command = Command::new(programs()?.join("psql"));
    command.args(PSQL);
    Ok(command)
}

/// [`psql`] in a namespace.
///
/// # Errors
///
/// When it is not installed.
pub fn psql_in(netns: &Netns) -> Result<Command> {
    let mut command = netns.command(&programs()?.join("psql").to_string_lossy());
    command.args(PSQL);
    Ok(command)
}

/// Ends what the kernel starts so with the thread that starts it; changing the
/// user takes that away otherwise.
fn as_user(mut setpriv: Command) -> Command {
    setpriv.args([
        "--reuid",
        USER,
        "--regid",
        USER,
        "--clear-groups",
        "--pdeathsig",
        "INT",
        "--",
    ]);
    setpriv
}

/// Where the newest version's programs are: Debian has them outside of PATH.
///
/// # Errors
///
/// When `cargo xtask setup` has not installed it.
fn programs() -> Result<PathBuf> {
    installed().with_context(|| format!("no server in {ROOT}: run `cargo xtask setup`"))
}

/// The programs' directory, if it is installed.
pub fn installed() -> Option<PathBuf> {
    let versions = fs::read_dir(Path::new(ROOT)).ok()?;
    versions
        .filter_map(|entry| {
            let dir = entry.ok()?;
            let version: u32 = dir.file_name().to_str()?.parse().ok()?;
            let programs = dir.path().join("bin");
            programs
                .join("initdb")
                .is_file()
                .then_some((version, programs))
        })
        .max()
        .map(|(_, programs)| programs)
}

const ROOT: &str = "/usr/lib/postgresql";
const USER: &str = "postgres";
const PSQL: &[&str] = &[
    "--no-psqlrc",
    "--quiet",
    "--no-align",
    "--tuples-only",
    "--set=ON_ERROR_STOP=1",
    "--username=postgres",
    "--dbname=postgres",
];
const READY: Duration = Duration::from_secs(20);
