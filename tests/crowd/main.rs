// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One end of many connections at once, or the other: a process of its own, as
//! one process may not open so many files.
//!
//! `crowd serve ADDR:PORT COUNT` accepts so many, `crowd connect ADDR:PORT COUNT`
//! opens them. Each says what it has done in one word a line, and goes on at a
//! line from the standard input:
//!
//! ```text
//! serve:   listening, accepted, <line>, answered, <end of input>
//! connect: connected, <line>, exchanged, <end of input>
//! ```
//!
//! Every connection carries a number of its own and its complement.

use std::{
    env,
    io::{self, BufRead, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use gateway_tests::file_limit;

/// Nothing takes longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [role, at, count] = arguments.as_slice() else {
        bail!("usage: crowd serve|connect ADDR:PORT COUNT");
    };
    let at: SocketAddr = at.parse().context("ADDR:PORT")?;
    let count: u32 = count.parse().context("COUNT")?;
    file_limit::raise()?;
    match role.as_str() {
        "serve" => serve(at, count),
        "connect" => connect(at, count),
        other => bail!("no such role: {other}"),
    }
}

fn serve(at: SocketAddr, count: u32) -> Result<()> {
    let listener = TcpListener::bind(at).context("listen")?;
    say("listening")?;
    let accepted: io::Result<Vec<_>> = (0..count).map(|_| Ok(listener.accept()?.0)).collect();
    let streams = accepted.context("accept")?;
    say("accepted")?;
    wait_for_line()?;
    let mut seen = vec![false; count as usize];
    for mut stream in &streams {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut number = [0; 4];
        stream.read_exact(&mut number).context("a number")?;
        let index = u32::from_be_bytes(number) as usize;
        let slot = seen.get_mut(index).context("a number of another crowd")?;
        ensure!(!std::mem::replace(slot, true), "{index} came twice");
        stream.write_all(&number.map(|byte| !byte))?;
    }
    say("answered")?;
    wait_for_end()
}

fn connect(to: SocketAddr, count: u32) -> Result<()> {
    let connected: io::Result<Vec<_>> = (0..count)
        .map(|_| TcpStream::connect_timeout(&to, PATIENCE))
        .collect();
    let streams = connected.context("connect")?;
    say("connected")?;
    wait_for_line()?;
    for (number, mut stream) in (0..count).zip(&streams) {
        stream.write_all(&number.to_be_bytes())?;
    }
    for (number, mut stream) in (0..count).zip(&streams) {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).context("an answer")?;
        let answer = u32::from_be_bytes(answer);
        ensure!(answer == !number, "{number} was answered with {answer}");
    }
    say("exchanged")?;
    wait_for_end()
}

fn say(word: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{word}")?;
    Ok(out.flush()?)
}

fn wait_for_line() -> Result<()> {
    io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

fn wait_for_end() -> Result<()> {
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    Ok(())
}
