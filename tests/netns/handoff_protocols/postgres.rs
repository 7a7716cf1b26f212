// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Long transactions of PostgreSQL whose connection is TLS from the first byte,
//! as `sslnegotiation=direct` makes it since version 17. psql and the server of
//! older ones speak in the clear to a TLS end beside each.

use std::{
    io::Write,
    process::ChildStdin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use gateway_tests::{
    backend::{
        postgres::{Postgres, psql_in},
        tls_end::TlsEnd,
    },
    lab::Lab,
    pki::Authority,
    process::Process,
};

use crate::scene::{backend, vip};

/// Server name.
pub const NAME: &str = "db.example.com";
/// Port of the VIP, of the backend's TLS and of the client's plain end.
pub const PORT: u16 = 5432;
/// The server's own.
const PLAIN: u16 = 5433;
/// The backend it runs at.
pub const BACKEND: usize = 2;
/// Transactions at once.
const SESSIONS: usize = 4;
const ROWS: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(250);

/// The server and its TLS end.
pub struct Server {
    postgres: Postgres,
    tls: TlsEnd,
}

/// The clients and theirs.
pub struct Clients {
    sessions: Vec<Process>,
    _tls: Process,
    /// Of the sessions.
    pub inputs: Vec<ChildStdin>,
}

impl Server {
    /// Starts it.
    pub fn start(lab: &Lab, authority: &Authority) -> Result<Self> {
        let netns = &lab.backends[BACKEND];
        let plain = backend(lab, BACKEND, PLAIN);
        let postgres = Postgres::start(lab, netns, plain)?;
        let leaf = authority.issue(&[NAME])?;
        let encrypted = (backend(lab, BACKEND, PORT), &leaf);
        let tls = TlsEnd::start(lab, netns, "postgres", encrypted, plain)?;
        Ok(Self { postgres, tls })
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.tls.accepted()
    }

    /// Begins the transactions, each with its first step.
    pub fn clients(&self, lab: &Lab, authority: &Authority) -> Result<Clients> {
        let mut socat = lab.client.command("socat");
        socat
            .arg(format!("TCP-LISTEN:{PORT},bind=127.0.0.1,fork,reuseaddr"))
            .arg(format!(
                "OPENSSL:{},snihost={NAME},commonname={NAME},cafile={}",
                vip(lab, PORT),
                authority.certificate().display()
            ));
        let tls = lab.spawn(socat, "postgres-client-tls")?;
        let mut clients = Clients {
            sessions: Vec::new(),
            _tls: tls,
            inputs: Vec::new(),
        };
        for number in 0..SESSIONS {
            let mut psql = psql_in(&lab.client)?;
            psql.args(["-h", "127.0.0.1", "-p", &PORT.to_string()])
                .env("PGSSLMODE", "disable");
            let name = format!("psql-{number}");
            let (mut session, mut input) = Process::spawn_with_input(psql, &name, lab.dir())?;
            writeln!(
                input,
                "BEGIN; CREATE TABLE rows_{number} (step int, n int, v text);"
            )?;
            input.write_all(step(number, 0).as_bytes())?;
            // As many digits as MD5 has for each row.
            let answer = ROWS as usize * 32 + 1;
            session.ready("the first answer", PATIENCE, |session| {
                session.log().len() == answer
            })?;
            clients.sessions.push(session);
            clients.inputs.push(input);
        }
        Ok(clients)
    }

    /// After [`work`]: that every transaction of `steps` steps is committed, and
    /// was answered as the server answers when it is asked directly.
    pub fn finish(&self, lab: &Lab, clients: Clients, steps: u64) -> Result<()> {
        let plain = backend(lab, BACKEND, PLAIN);
        let ask = |query: &str| self.postgres.ask(plain, query);
        let all = format!(
            "generate_series(0, {}) s, generate_series(1, {ROWS}) n",
            steps - 1
        );
        let mut expected = ask(&format!(
            "SELECT string_agg({VALUE}, '' ORDER BY n) FROM {all} GROUP BY s ORDER BY s"
        ))?;
        expected += &ask(&format!(
            "SELECT count(*), md5(string_agg({VALUE}, '' ORDER BY s, n)) FROM {all}"
        ))?;
        for (number, mut session) in clients.sessions.into_iter().enumerate() {
            let status = session.wait(PATIENCE)?;
            ensure!(status.success(), "{status}: {}", session.log_tail(5));
            let answered = session.log();
            ensure!(
                answered == expected,
                "session {number} was answered {} bytes, not {}: {}",
                answered.len(),
                expected.len(),
                session.log_tail(3)
            );
            let committed = ask(&format!("SELECT count(*) FROM rows_{number}"))?;
            ensure!(
                committed.trim() == (steps * u64::from(ROWS)).to_string(),
                "session {number}: {committed} rows"
            );
        }
        Ok(())
    }
}

/// Goes on with the transactions until `stop` and commits them; the steps of each.
pub fn work(mut inputs: Vec<ChildStdin>, stop: &AtomicBool, rounds: &AtomicU64) -> Result<u64> {
    let mut done = 1;
    while !stop.load(Ordering::Relaxed) {
        for (number, input) in inputs.iter_mut().enumerate() {
            input
                .write_all(step(number, done).as_bytes())
                .context("psql has ended")?;
        }
        done += 1;
        rounds.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    for (number, input) in inputs.iter_mut().enumerate() {
        writeln!(
            input,
            "SELECT count(*), md5(string_agg(v, '' ORDER BY step, n)) FROM rows_{number}; COMMIT;"
        )?;
    }
    Ok(done)
}

/// What row `n` of step `s` holds.
const VALUE: &str = "md5(s || '.' || n)";

/// Adds rows, asks for them, and does nothing for a while.
fn step(session: usize, number: u64) -> String {
    format!(
        "INSERT INTO rows_{session} SELECT s, n, {VALUE} FROM (SELECT {number} AS s) AS step, generate_series(1, {ROWS}) n;\n\
         SELECT string_agg(v, '' ORDER BY n) FROM rows_{session} WHERE step = {number};\n\
         DO $$ BEGIN PERFORM pg_sleep(0.1); END $$;\n"
    )
}
