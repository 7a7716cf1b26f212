// SPDX-License-Identifier: Apache-2.0 OR MIT
//! HTTPS on connections that stay, by curl and `openssl s_client`, those of the
//! latter with TLS sessions from before. The server's log says what was a
//! connection, and what was resumed.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::ChildStdin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use gateway_tests::{
    backend::nginx::{self, Served},
    lab::Lab,
    pki::Authority,
    process::Process,
};

use crate::scene::backend;

/// Server name.
pub const NAME: &str = "web.example.com";
/// Port of the VIP.
pub const PORT: u16 = 8443;
/// The backend it runs at.
pub const BACKEND: usize = 0;
/// Connections that stay: two of curl, two of openssl.
pub const CONNECTIONS: usize = 4;
const ID: &str = "files";
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(400);
/// Versions of TLS: openssl's option, curl's, the server's word.
const VERSIONS: [(&str, &[&str], &str); 2] = [
    ("-tls1_2", &["--tls-max", "1.2"], "TLSv1.2"),
    ("-tls1_3", &["--tlsv1.3"], "TLSv1.3"),
];

/// The server, and what it has.
pub struct Server {
    _process: Process,
    files: PathBuf,
    body: String,
}

/// The clients.
pub struct Clients {
    curls: Vec<Process>,
    openssls: Vec<Process>,
    /// Of openssl.
    pub inputs: Vec<ChildStdin>,
}

impl Server {
    /// Starts it.
    pub fn start(lab: &Lab, authority: &Authority) -> Result<Self> {
        let leaf = authority.issue(&[NAME])?;
        let (plain, encrypted) = (backend(lab, BACKEND, 8080), backend(lab, BACKEND, PORT));
        let netns = &lab.backends[BACKEND];
        let process = nginx::serve(lab, netns, ID, plain, Some((encrypted, &leaf)))?;
        let files = nginx::files_dir(lab, ID);
        let body: String = (0..5_000).map(|line| format!("{line:019x}\n")).collect();
        fs::write(files.join("body"), &body)?;
        fs::write(files.join("page"), page())?;
        Ok(Self {
            _process: process,
            files,
            body,
        })
    }

    /// Starts them all, and waits until each has something.
    pub fn clients(&self, lab: &Lab, authority: &Authority) -> Result<Clients> {
        let mut clients = Clients {
            curls: Vec::new(),
            openssls: Vec::new(),
            inputs: Vec::new(),
        };
        let authority = authority.certificate();
        for (option, curl_options, version) in VERSIONS {
            let session = lab.dir().join(format!("session{option}"));
            let openssl = |when: &str, name: &str| {
                let mut command = lab.client.command("openssl");
                command
                    .args(["s_client", "-quiet", "-verify_return_error", option])
                    .args(["-connect", &format!("{}:{PORT}", lab.vip())])
                    .args(["-servername", NAME, "-CAfile"])
                    .arg(&authority)
                    .arg(when)
                    .arg(&session);
                Process::spawn_with_input(command, &format!("{name}{option}"), lab.dir())
            };
            let (mut first, mut input) = openssl("-sess_out", "openssl-first")?;
            input.write_all(request("close").as_bytes())?;
            first.wait(PATIENCE)?;
            ensure!(first.log().contains(&page()), "{}", first.log_tail(5));
            let (mut again, mut input) = openssl("-sess_in", "openssl")?;
            input.write_all(request("keep-alive").as_bytes())?;
            again.ready("a page", PATIENCE, |again| again.log().contains(&page()))?;
            clients.openssls.push(again);
            clients.inputs.push(input);

            let mut curl = lab.client.command("curl");
            curl.args(["--silent", "--noproxy", "*", "--fail", "--fail-early"])
                .arg("--http1.1")
                .args(["--resolve", &format!("{NAME}:{PORT}:{}", lab.vip())])
                .args(curl_options)
                .arg("--cacert")
                .arg(&authority)
                // One after the other, until there is none.
                .arg(format!("https://{NAME}:{PORT}/files/body?[1-100000]"));
            let mut curl = lab.spawn(curl, &format!("curl-{version}"))?;
            curl.ready("a body", PATIENCE, |curl| {
                curl.log().len() >= self.body.len()
            })?;
            clients.curls.push(curl);
        }
        Ok(clients)
    }

    /// Takes away what curl asks for, which ends it.
    pub fn end(&self) -> Result<()> {
        fs::remove_file(self.files.join("body")).context("remove the body")
    }

    /// After [`browse`] with `asked` pages each: that all bodies are what they
    /// should be, on one connection a client, resumed where that was the plan.
    pub fn finish(&self, lab: &Lab, clients: Clients, asked: u64) -> Result<u64> {
        let mut bodies = 0;
        for mut curl in clients.curls {
            let status = curl.wait(PATIENCE)?;
            // CURLE_HTTP_RETURNED_ERROR
            ensure!(status.code() == Some(22), "{status}: {}", curl.log_tail(2));
            let got = curl.log();
            let whole = got
                .as_bytes()
                .chunks(self.body.len())
                .all(|body| body == self.body.as_bytes());
            ensure!(whole, "{} bytes, not the body again and again", got.len());
            bodies += (got.len() / self.body.len()) as u64;
        }
        for mut openssl in clients.openssls {
            openssl.wait(PATIENCE)?;
            let got = openssl.log().matches(&page()).count() as u64;
            ensure!(
                got == asked,
                "{got} pages of {asked}: {}",
                openssl.log_tail(3)
            );
        }
        let served = nginx::served(lab, ID)?;
        let mut connections: Vec<&Served> = Vec::new();
        for request in &served {
            let end = request.status == 404;
            ensure!(request.status == 200 || end, "{request:?}");
            if connections
                .iter()
                .all(|one| one.connection != request.connection)
            {
                connections.push(request);
            }
        }
        let ended = served.iter().filter(|one| one.status == 404).count();
        ensure!(
            ended == VERSIONS.len(),
            "{ended} requests for what was gone"
        );
        for (_, _, version) in VERSIONS {
            let of = |is_resumed| {
                connections
                    .iter()
                    .filter(|one| one.tls == version && one.is_resumed == is_resumed)
                    .count()
            };
            // The first of openssl, curl's; and the one that was resumed.
            ensure!(
                (of(false), of(true)) == (2, 1),
                "connections of {version}: {connections:?}"
            );
        }
        Ok(bodies)
    }
}

/// Asks for pages until `stop`; how many on each connection.
pub fn browse(mut inputs: Vec<ChildStdin>, stop: &AtomicBool, rounds: &AtomicU64) -> Result<u64> {
    let mut asked = 1;
    loop {
        let last = stop.load(Ordering::Relaxed);
        let connection = if last { "close" } else { "keep-alive" };
        for input in &mut inputs {
            input
                .write_all(request(connection).as_bytes())
                .context("openssl has ended")?;
        }
        asked += 1;
        rounds.fetch_add(1, Ordering::Relaxed);
        if last {
            return Ok(asked);
        }
        thread::sleep(PAUSE);
    }
}

fn request(connection: &str) -> String {
    format!("GET /files/page HTTP/1.1\r\nHost: {NAME}\r\nConnection: {connection}\r\n\r\n")
}

fn page() -> String {
    (0..1_500)
        .map(|line| format!("page {line:014}\n"))
        .collect()
}
