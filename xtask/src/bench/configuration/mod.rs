// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How long a change among many routes and services takes: from the rename of
//! the file to the first new connection that goes elsewhere. Connections that
//! are open all the while show that nothing else is touched.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use gateway_tests::{
    backend::echo::Echo,
    client::raw,
    gateway::{Datapath, Gateway},
    lab::Lab,
};

use super::{
    report::number,
    sample::{Figure, median},
    stage::{Stage, template},
    stop,
};
use crate::task::say;

mod resources;

use resources::{CHANGED_ROUTE, Resources, SNI_PORT, service_port, site_host};

/// Measures it, in many files and with everything in one.
///
/// # Errors
///
/// When the agent does not take the configuration, a change is not in effect
/// within a minute, or an open connection breaks.
pub fn measure(stage: &Stage<'_>) -> Result<Vec<Figure>> {
    let size = if stage.settings.is_check() {
        CHECK
    } else {
        FULL
    };
    // Both ends of a change, at two ports each: a service has two endpoints.
    let _backends = [(0, "one"), (1, "two")]
        .into_iter()
        .flat_map(|(index, greeting)| {
            resources::ECHO_PORTS.map(|port| Echo::start(stage.lab, index, port, greeting))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut figures = Vec::new();
    for files in [size.files, 1] {
        stop::check()?;
        figures.extend(one(stage, &size, files)?);
    }
    Ok(figures)
}

/// How much there is.
struct Size {
    routes: usize,
    services: usize,
    files: usize,
    changes: usize,
}

const FULL: Size = Size {
    routes: 10_000,
    services: 5_000,
    files: 100,
    changes: 10,
};
const CHECK: Size = Size {
    routes: 200,
    services: 100,
    files: 10,
    changes: 2,
};

fn one(stage: &Stage<'_>, size: &Size, files: usize) -> Result<Vec<Figure>> {
    let Size {
        routes, services, ..
    } = *size;
    let layout = match files {
        1 => "one file".to_owned(),
        files => format!("{files} files"),
    };
    say(&format!(
        "configuration: {routes} SNI routes and {services} services in {layout}"
    ));
    let lab = stage.lab;
    stage.fresh_dir("config")?;
    let bootstrap = template("sluice.yaml", &[])? + LIMITS;
    let gateway = Gateway::with_binary(lab, stage.agent.clone(), Datapath::Ebpf, &bootstrap)?;
    let mut agent = Agent(gateway);
    let mut resources = Resources::new(routes, services, files);
    for (name, yaml) in resources.all() {
        agent.0.write(&name, &yaml)?;
    }
    let started = Instant::now();
    agent
        .0
        .start_within(READY_DEADLINE)
        .context("start the agent")?;
    let ready = started.elapsed();

    let site = Probe {
        lab,
        address: (lab.vip(), SNI_PORT).into(),
        hello: raw::records(&raw::client_hello(Some(&site_host(CHANGED_ROUTE)), 0), 512),
    };
    let service = Probe {
        lab,
        address: (lab.vip(), service_port(resources.changed_service())).into(),
        hello: Vec::new(),
    };
    let mut open = [site.open()?, service.open()?];
    let (mut route_times, mut service_times) = (Vec::new(), Vec::new());
    let changing = Instant::now();
    for change in 0..size.changes {
        stop::check()?;
        if change > 0 && changing.elapsed() > BUDGET {
            break;
        }
        let backend = if change % 2 == 0 { 1 } else { 0 };
        let file = resources.move_route(backend);
        route_times.push(time(&agent.0, file, &site, backend).context("a changed SNI route")?);
        echo(&mut open, change)?;
        let file = resources.move_service(backend);
        service_times.push(time(&agent.0, file, &service, backend).context("a changed service")?);
        echo(&mut open, change)?;
    }
    let pid = agent.0.process()?.pid();
    let peak = peak_bytes(pid)? as f64 / f64::from(1 << 20);
    let count = route_times.len();
    let amount = format!("{routes} SNI routes and {services} services");
    let figure = |name: &str, value: f64, unit: &str, note: String| Figure {
        scenario: "configuration".to_owned(),
        name: format!("{layout}: {name}"),
        value,
        unit: unit.to_owned(),
        note,
    };
    let mut figures = vec![figure(
        "start to ready",
        ready.as_secs_f64() * 1e3,
        "ms",
        amount,
    )];
    for (what, total, times) in [
        ("SNI route", routes, route_times),
        ("service", services, service_times),
    ] {
        let slowest = times.iter().copied().fold(0.0, f64::max);
        figures.push(figure(
            &format!("one changed {what} of {} in effect", number(total as f64)),
            median(times.iter().copied()),
            "ms",
            format!(
                "from the rename of the file to a new connection that goes elsewhere; \
                 {count} changes, slowest {slowest:.0}; open ones carried data after each"
            ),
        ));
    }
    figures.push(figure(
        "peak memory of the agent",
        peak,
        "MiB",
        format!("after {} changes of a file", 2 * count),
    ));
    Ok(figures)
}

/// Puts a file in place and waits until new connections reach `backend`; ms
/// from the rename.
fn time(
    gateway: &Gateway<'_>,
    file: (String, String),
    probe: &Probe<'_>,
    backend: usize,
) -> Result<f64> {
    let (name, yaml) = file;
    let target: PathBuf = gateway.config_dir().join(&name);
    let staged = probe.lab.dir().join("changed.yaml");
    fs::write(&staged, yaml).with_context(|| format!("write {}", staged.display()))?;
    // The change before has settled: nothing of it is measured with this one.
    thread::sleep(PAUSE);
    let renamed = Instant::now();
    fs::rename(&staged, &target).with_context(|| format!("replace {}", target.display()))?;
    let expected = GREETINGS[backend];
    probe.lab.client.run(|| {
        loop {
            let (_, greeting) = probe.connect()?;
            if greeting == expected {
                return Ok(renamed.elapsed().as_secs_f64() * 1e3);
            }
            if renamed.elapsed() > EFFECT_DEADLINE {
                bail!("not in effect within {EFFECT_DEADLINE:?}");
            }
            thread::sleep(INTERVAL);
        }
    })
}

/// Sends over the open connections and expects it back.
fn echo(open: &mut [TcpStream], change: usize) -> Result<()> {
    for (stream, kind) in open
        .iter_mut()
        .zip(["passthrough connection", "forwarded flow"])
    {
        let sent = (change as u64).to_be_bytes();
        let mut got = [0; 8];
        stream
            .write_all(&sent)
            .and_then(|()| stream.read_exact(&mut got))
            .with_context(|| format!("the open {kind} broke at change {change}"))?;
        if got != sent {
            bail!("the open {kind} carries something else after change {change}");
        }
    }
    Ok(())
}

/// What a client does to see where it gets.
struct Probe<'lab> {
    lab: &'lab Lab,
    address: SocketAddr,
    hello: Vec<u8>,
}

impl Probe<'_> {
    /// A connection from this thread's namespace, and the backend's greeting.
    fn connect(&self) -> Result<(TcpStream, [u8; 3])> {
        let open = || -> std::io::Result<_> {
            let mut stream = TcpStream::connect_timeout(&self.address, DEADLINE)?;
            stream.set_read_timeout(Some(DEADLINE))?;
            stream.set_nodelay(true)?;
            stream.write_all(&self.hello)?;
            let mut greeting = [0; 3];
            stream.read_exact(&mut greeting)?;
            Ok((stream, greeting))
        };
        open().with_context(|| format!("a new connection to {}", self.address))
    }

    /// A connection that stays; the backend has sent the hello back.
    fn open(&self) -> Result<TcpStream> {
        let (mut stream, greeting) = self.lab.client.run(|| self.connect())?;
        if greeting != GREETINGS[0] {
            bail!("{} starts at another backend", self.address);
        }
        stream.read_exact(&mut vec![0; self.hello.len()])?;
        Ok(stream)
    }
}

/// An agent and what it put into the kernel.
struct Agent<'lab>(Gateway<'lab>);

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        self.0.kill();
        if let Err(error) = self.0.detach() {
            eprintln!("bench: {error:#}");
        }
    }
}

/// Most memory that a process ever had resident, bytes.
fn peak_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the agent ended")?;
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let value = value.context("no VmHWM line")?;
    let kib: u64 = value.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// Of the two backends.
const GREETINGS: [[u8; 3]; 2] = [*b"one", *b"two"];
/// Each of 5,000 services has two endpoints of its own, and so its own ring of
/// 64 chunks.
const LIMITS: &str = "limits: {max_ring_chunks: 400000}\n";
/// Between changes.
const PAUSE: Duration = Duration::from_millis(700);
/// Between connections that look whether a change is in effect: often enough,
/// and without taking the agent's processor away.
const INTERVAL: Duration = Duration::from_millis(5);
const DEADLINE: Duration = Duration::from_secs(10);
/// Until the agent has loaded everything, and until a change is in effect: far
/// beyond what is wanted, so that a miss is measured.
const READY_DEADLINE: Duration = Duration::from_secs(60);
const EFFECT_DEADLINE: Duration = Duration::from_secs(60);
/// After which no further change is made.
const BUDGET: Duration = Duration::from_secs(40);
