// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an idle connection costs: thousands of them, passed on by server name,
//! held open without a byte.
//!
//! Client and backends are this process. Both ends of the connections count
//! against its limit of open files, and both of the contender's against its.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use gateway_tests::{client::raw, lab::Lab, netns::Netns, wait};

use super::{
    contender::{Contender, Start},
    footprint::Footprint,
    rounds::failed,
    sample::Figure,
    scenario::Service,
    stage::{HOST, Stage},
    stop,
};
use crate::task::say;

/// Measures Sluice and its peers, in a lab of their own: its backends hold the
/// connections.
///
/// # Errors
///
/// When the lab cannot be made, or Sluice does not hold the connections. A peer
/// that does not is noted.
pub fn measure(stage: &Stage<'_>) -> Result<Vec<Figure>> {
    let limit = raise_file_limit().context("raise the limit of open files")?;
    let wanted = if stage.settings.is_check() {
        500
    } else {
        8_000
    };
    let count = wanted.min((limit.saturating_sub(SPARE) / 2) as usize);
    let lab = Lab::new().context("make the lab")?;
    let stage = stage.elsewhere(&lab)?;
    let mut figures = Vec::new();
    let mut skipped = Vec::new();
    for contender in CONTENDERS {
        let peers = &stage.settings.peers;
        if !contender.is_kept()
            && !peers.is_empty()
            && !peers.iter().any(|it| it == contender.name())
        {
            continue;
        }
        stop::check()?;
        say(&format!("idle: {count} connections through {contender}"));
        match one(&stage, contender, count) {
            Ok(Held::Measured(own)) => figures.extend(own),
            Ok(Held::Skipped(reason)) => skipped.push(format!("{contender} SKIPPED: {reason}")),
            Err(error) if contender.is_kept() => {
                return Err(error.context(format!("{contender}")));
            }
            Err(error) => skipped.push(format!("{contender} {}", failed(&error))),
        }
    }
    for line in skipped {
        say(&format!("idle: {line}"));
        if let Some(figure) = figures.first_mut() {
            figure.note.push_str(&format!("; {line}"));
        }
    }
    Ok(figures)
}

enum Held {
    Measured(Vec<Figure>),
    Skipped(String),
}

fn one<'lab>(stage: &'lab Stage<'lab>, contender: Contender, count: usize) -> Result<Held> {
    let lab = stage.lab;
    let backends = Backends::start(stage)?;
    let running = match contender.start(stage, Service::Sni)? {
        Start::Running(running) => running,
        Start::Skipped(reason) => return Ok(Held::Skipped(reason)),
    };
    // What the first connections make it allocate once is not theirs.
    let warm = connect(&lab.client, running.target, WARM_UP)?;
    backends.wait_for(WARM_UP)?;
    drop(warm);
    backends.forget();
    thread::sleep(SETTLE);

    // Half of those that are handed over come before: what the agent takes for a
    // moment it keeps for the next, and does not take again.
    let is_handoff = contender == Contender::SluiceHandoff;
    let earlier = if is_handoff { count / 2 } else { 0 };
    let mut clients = connect(&lab.client, running.target, earlier)?;
    if is_handoff {
        backends.wait_for(earlier)?;
        handed_over(&lab.gateway, earlier)?;
        thread::sleep(SETTLE);
    }
    let slab_before = kernel_slab()?;
    let before = Footprint::of(&lab.gateway)?;
    clients.extend(connect(&lab.client, running.target, count - earlier)?);
    backends.wait_for(count)?;
    if is_handoff {
        handed_over(&lab.gateway, count)?;
    }
    thread::sleep(SETTLE);
    let idle = Footprint::of(&lab.gateway)?;
    let slab = kernel_slab()?.saturating_sub(slab_before);
    let window = if stage.settings.is_check() {
        Duration::from_secs(1)
    } else {
        WINDOW
    };
    thread::sleep(window);
    let after = Footprint::of(&lab.gateway)?;
    exchange(&mut clients, &backends).context("after the idle time")?;

    let grown = (count - earlier) as f64;
    let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / grown;
    let process = if [Contender::Sluice, Contender::SluiceHandoff].contains(&contender) {
        "agent memory"
    } else {
        "memory"
    };
    let figure = |name: String, value: f64, unit: &str, note: String| Figure {
        scenario: "idle".to_owned(),
        name,
        value,
        unit: unit.to_owned(),
        note,
    };
    Ok(Held::Measured(vec![
        figure(
            format!("{contender}: {process} of a passthrough connection"),
            each(idle.proportional, before.proportional),
            "bytes/connection",
            format!(
                "growth with {grown} connections, {} process(es), proportional share \
                 (resident {:.0}, anonymous {:.0}); each carried a byte both ways at the end",
                idle.processes,
                each(idle.resident, before.resident),
                each(idle.anonymous, before.anonymous),
            ),
        ),
        figure(
            format!("{contender}: memory with all connections open"),
            idle.proportional as f64 / f64::from(1 << 20),
            "MiB",
            format!(
                "{:.1} MiB before",
                before.proportional as f64 / f64::from(1 << 20)
            ),
        ),
        figure(
            format!("{contender}: kernel memory of a passthrough connection"),
            slab as f64 / grown,
            "bytes/connection",
            "slab of the whole machine: also the sockets of client and backend".to_owned(),
        ),
        figure(
            format!("{contender}: CPU while idle"),
            (after.cpu_seconds - idle.cpu_seconds) / window.as_secs_f64() * 1e3,
            "ms/s",
            format!("over {} s, in steps of 10 ms", window.as_secs()),
        ),
    ]))
}

/// Waits until the kernel has nearly all connections: a few that an answer was
/// on its way for are tried again much later.
fn handed_over(gateway: &Netns, count: usize) -> Result<()> {
    let most = count / 50;
    let left = || -> Result<usize> {
        let text = gateway.run(|| std::fs::read_to_string("/proc/thread-self/net/sockstat"))?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("TCP: inuse "));
        let number = line.and_then(|rest| rest.split(' ').next());
        Ok(number.context("sockstat without TCP")?.parse()?)
    };
    wait::until("the kernel to take the connections over", DEADLINE, || {
        let left = left()?;
        if left > most {
            bail!("{left} sockets are open yet, for {count} connections");
        }
        Ok(Some(()))
    })
}

/// Opens connections one after the other and sends a ClientHello on each.
fn connect(netns: &Netns, target: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let hello = hello();
    netns.run(|| {
        (0..count)
            .map(|number| {
                let open = || -> std::io::Result<TcpStream> {
                    let mut stream = TcpStream::connect_timeout(&target, DEADLINE)?;
                    stream.set_read_timeout(Some(DEADLINE))?;
                    stream.set_nodelay(true)?;
                    stream.write_all(&hello)?;
                    Ok(stream)
                };
                open().with_context(|| format!("open connection {number} to {target}"))
            })
            .collect()
    })
}

/// Sends a byte on every connection, to the backend and back.
fn exchange(clients: &mut [TcpStream], backends: &Backends) -> Result<()> {
    let byte = |number: usize| (number % 251) as u8;
    for (number, client) in clients.iter_mut().enumerate() {
        client
            .write_all(&[byte(number)])
            .with_context(|| format!("send on connection {number}"))?;
    }
    backends.send_back()?;
    for (number, client) in clients.iter_mut().enumerate() {
        let mut answer = [0];
        client
            .read_exact(&mut answer)
            .with_context(|| format!("receive on connection {number}"))?;
        if answer != [byte(number)] {
            bail!("connection {number} carries another one's byte");
        }
    }
    Ok(())
}

fn hello() -> Vec<u8> {
    raw::records(&raw::client_hello(Some(HOST), HELLO), HELLO)
}

/// Servers that take the ClientHello and say nothing.
struct Backends {
    listeners: Vec<TcpListener>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    stop: Arc<AtomicBool>,
}

impl Backends {
    fn start(stage: &Stage<'_>) -> Result<Self> {
        let mut backends = Self {
            listeners: Vec::new(),
            streams: Arc::default(),
            stop: Arc::default(),
        };
        let addresses = stage.backends(Service::Sni);
        for (netns, address) in stage.lab.backends.iter().zip(addresses) {
            let listener = netns
                .run(|| TcpListener::bind(address))
                .with_context(|| format!("listen on {address}"))?;
            let (streams, stop) = (Arc::clone(&backends.streams), Arc::clone(&backends.stop));
            let accepting = listener.try_clone().context("copy a listener")?;
            backends.listeners.push(listener);
            thread::spawn(move || {
                for stream in accepting.incoming().map_while(Result::ok) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // Others, such as health checks, come without one.
                    if let Ok(stream) = take_hello(stream) {
                        let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
                        streams.push(stream);
                    }
                }
            });
        }
        Ok(backends)
    }

    /// Waits until so many connections have arrived.
    fn wait_for(&self, count: usize) -> Result<()> {
        let arrived = || self.streams().len();
        wait::until_true("all connections at the backends", DEADLINE, || {
            arrived() >= count
        })
        .with_context(|| format!("{} of {count} arrived", arrived()))
    }

    fn forget(&self) {
        self.streams().clear();
    }

    /// Takes a byte on every connection and sends it back.
    fn send_back(&self) -> Result<()> {
        for stream in self.streams().iter_mut() {
            let mut byte = [0];
            stream
                .read_exact(&mut byte)
                .and_then(|()| stream.write_all(&byte))
                .context("a connection at the backend")?;
        }
        Ok(())
    }

    fn streams(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for listener in &self.listeners {
            // SAFETY: the descriptor is open for as long as the listener; the
            // call wakes the thread that accepts on its copy.
            unsafe {
                libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR);
            }
        }
    }
}

fn take_hello(mut stream: TcpStream) -> std::io::Result<TcpStream> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_nodelay(true)?;
    stream.read_exact(&mut vec![0; hello().len()])?;
    Ok(stream)
}

/// Slab of the whole machine, bytes.
fn kernel_slab() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let value = text.lines().find_map(|line| line.strip_prefix("Slab:"));
    let value = value.context("/proc/meminfo without Slab")?;
    let kib: u64 = value.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// Lets this process, and those it starts, open as many files as it may; how
/// many that is.
fn raise_file_limit() -> std::io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is that of a local value.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(limit.rlim_max)
}

/// Those that pass TLS on by its server name.
const CONTENDERS: [Contender; 5] = [
    Contender::Sluice,
    Contender::SluiceHandoff,
    Contender::Haproxy,
    Contender::Nginx,
    Contender::Envoy,
];
/// Open files that are not connections.
const SPARE: u64 = 500;
/// Connections that are opened and closed first.
const WARM_UP: usize = 200;
/// Until buffers of the opening are given back.
const SETTLE: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of a ClientHello: that of a browser without a post-quantum key.
const HELLO: usize = 517;
