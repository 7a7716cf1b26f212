// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Connections whose every byte is checked at both ends, behind a TLS
//! ClientHello that a gateway can route by.
//!
//! Both ends know what the other sends: bytes of a generator that the client
//! seeds. A byte that is lost, sent twice or changed is told from the next one
//! on, a connection that stands still after [`STALL`].

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    client::raw::{client_hello, connect, records},
    lab::Lab,
    netns::Netns,
};

/// A connection on which nothing arrives for so long is bad.
pub const STALL: Duration = Duration::from_secs(10);

/// Bytes of the ClientHello message.
const HELLO: usize = 300;
/// Those of its one TLS record.
const HELLO_RECORD: usize = HELLO + 5;

/// What the two ends of a connection do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of the generators.
    pub seed: u64,
    /// How bytes go to and fro.
    pub style: Style,
    /// Bytes from the client, and those from the server.
    pub bytes: [u32; 2],
    /// Milliseconds the writers sleep once, in the middle.
    pub pause: u16,
}

/// How bytes go to and fro.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Both ends write all along, and end when they have done.
    Duplex,
    /// The client writes and ends; then the server does.
    ClientFirst,
    /// The other way round.
    ServerFirst,
    /// In turns of up to 2 KiB, then the client ends.
    Turns,
    /// In turns, until the client resets the connection half-way.
    ClientResets,
    /// The other way round.
    ServerResets,
}

const STYLES: [Style; 6] = [
    Style::Duplex,
    Style::ClientFirst,
    Style::ServerFirst,
    Style::Turns,
    Style::ClientResets,
    Style::ServerResets,
];

impl Style {
    /// Every one in turn.
    pub fn nth(index: u64) -> Self {
        STYLES[index as usize % STYLES.len()]
    }
}

impl Plan {
    const LEN: usize = 19;

    fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.seed.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.bytes[0].to_be_bytes());
        bytes[12..16].copy_from_slice(&self.bytes[1].to_be_bytes());
        bytes[16..18].copy_from_slice(&self.pause.to_be_bytes());
        bytes[18] = self.style as u8;
        bytes
    }

    fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let word = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Self {
            seed: u64::from(word(0)) << 32 | u64::from(word(4)),
            bytes: [word(8), word(12)],
            pause: u16::from_be_bytes([bytes[16], bytes[17]]),
            style: Style::nth(u64::from(bytes[18])),
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    listener: TcpListener,
    good: Arc<AtomicU64>,
    bad: Arc<Mutex<Vec<String>>>,
    clients: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Server {
    /// Starts one on `port` of backend `index`.
    ///
    /// # Errors
    ///
    /// When the port is taken.
    pub fn start(lab: &Lab, index: usize, port: u16) -> Result<Self> {
        let address = SocketAddr::from((lab.backend_address(index), port));
        Self::serve(&lab.backends[index], address)
    }

    /// Starts one anywhere.
    ///
    /// # Errors
    ///
    /// When the address is taken or not there.
    pub fn serve(netns: &Netns, address: SocketAddr) -> Result<Self> {
        Self::serve_after(netns, address, |_| Ok(()))
    }

    /// Starts one whose connections begin with something else, which `first`
    /// reads.
    ///
    /// # Errors
    ///
    /// When the address is taken or not there.
    pub fn serve_after(
        netns: &Netns,
        address: SocketAddr,
        first: impl Fn(&mut TcpStream) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let first = Arc::new(first);
        let listener = netns
            .run(|| TcpListener::bind(address))
            .with_context(|| format!("listen on {address}"))?;
        let server = Self {
            stop: Arc::default(),
            listener: listener.try_clone()?,
            good: Arc::default(),
            bad: Arc::default(),
            clients: Arc::default(),
        };
        let (stop, good, bad) = (
            Arc::clone(&server.stop),
            Arc::clone(&server.good),
            Arc::clone(&server.bad),
        );
        let clients = Arc::clone(&server.clients);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                if let Ok(client) = stream.peer_addr() {
                    clients
                        .lock()
                        .expect("no thread panics with it")
                        .push(client);
                }
                let (good, bad) = (Arc::clone(&good), Arc::clone(&bad));
                let first = Arc::clone(&first);
                thread::spawn(move || match serve(stream, &*first) {
                    Ok(()) => {
                        good.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => bad
                        .lock()
                        .expect("no thread panics with it")
                        .push(format!("{error:#}")),
                });
            }
        });
        Ok(server)
    }

    /// Connections that ended well.
    pub fn good(&self) -> u64 {
        self.good.load(Ordering::Relaxed)
    }

    /// Where its connections came from, in order.
    pub fn clients(&self) -> Vec<SocketAddr> {
        self.clients
            .lock()
            .expect("no thread panics with it")
            .clone()
    }

    /// What went wrong with the others.
    pub fn bad(&self) -> Vec<String> {
        self.bad.lock().expect("no thread panics with it").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // SAFETY: the descriptor is open for as long as `self.listener`; the
        // call wakes the thread that accepts on its copy.
        unsafe {
            libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR);
        }
    }
}

fn serve(mut stream: TcpStream, first: impl Fn(&mut TcpStream) -> Result<()>) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    first(&mut stream)?;
    let mut hello = [0; HELLO_RECORD];
    stream.read_exact(&mut hello).context("read the hello")?;
    let mut plan = [0; Plan::LEN];
    stream.read_exact(&mut plan).context("read the plan")?;
    let plan = Plan::decode(&plan);
    exchange(stream, &plan, 1).with_context(|| format!("server, {plan:?}"))
}

/// A connection whose plan the server knows.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    plan: Plan,
}

impl Connection {
    /// Connects from `netns` and sends hello and plan.
    ///
    /// # Errors
    ///
    /// When nothing accepts.
    pub fn open(netns: &Netns, address: SocketAddr, name: &str, plan: Plan) -> Result<Self> {
        let mut stream = connect(netns, address)?;
        stream.set_read_timeout(Some(STALL))?;
        stream.set_write_timeout(Some(STALL))?;
        let mut first = records(&client_hello(Some(name), HELLO), 16_384);
        ensure!(first.len() == HELLO_RECORD, "the name is too long");
        first.extend(plan.encode());
        stream.write_all(&first).context("send the hello")?;
        Ok(Self { stream, plan })
    }

    /// Goes through with the plan.
    ///
    /// # Errors
    ///
    /// When a byte is not what it should be, or nothing comes.
    pub fn run(self) -> Result<()> {
        let plan = self.plan;
        exchange(self.stream, &plan, 0).with_context(|| format!("client, {plan:?}"))
    }
}

/// Marsaglia's xorshift64, as bytes.
struct Bytes(u64);

impl Bytes {
    fn of(plan: &Plan, side: usize) -> Self {
        // Never zero.
        Self((plan.seed.wrapping_mul(2) + side as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        for byte in buffer {
            *byte = (self.next() >> 24) as u8;
        }
    }
}

/// The end `side`: 0 is the client.
fn exchange(stream: TcpStream, plan: &Plan, side: usize) -> Result<()> {
    match plan.style {
        Style::Duplex => {
            let writer = stream.try_clone()?;
            let ours = *plan;
            let writing = thread::spawn(move || write(&writer, &ours, side));
            let read = read(&stream, plan, side ^ 1);
            let written = writing.join().expect("the writer does not panic");
            read.and(written)
        }
        Style::ClientFirst | Style::ServerFirst => {
            let first = usize::from(plan.style == Style::ServerFirst);
            if side == first {
                write(&stream, plan, side)?;
                read(&stream, plan, side ^ 1)
            } else {
                read(&stream, plan, side ^ 1)?;
                write(&stream, plan, side)
            }
        }
        Style::Turns => turns(&stream, plan, side, None),
        Style::ClientResets => turns(&stream, plan, side, Some(0)),
        Style::ServerResets => turns(&stream, plan, side, Some(1)),
    }
}

/// Writes the bytes of `side` in pieces of any size, and ends.
fn write(mut stream: &TcpStream, plan: &Plan, side: usize) -> Result<()> {
    let mut bytes = Bytes::of(plan, side);
    let mut sizes = Bytes::of(plan, side + 2);
    let total = plan.bytes[side] as usize;
    let mut left = total;
    let mut rested = plan.pause == 0;
    let mut buffer = vec![0; 32 * 1024];
    while left > 0 {
        let limit = [1, 64, 1_500, 32 * 1024][sizes.next() as usize >> 8 & 3];
        let size = (1 + sizes.next() as usize % limit).min(left);
        bytes.fill(&mut buffer[..size]);
        stream
            .write_all(&buffer[..size])
            .with_context(|| format!("write after {} of {total} bytes", total - left))?;
        left -= size;
        if !rested && left < total / 2 {
            rested = true;
            thread::sleep(Duration::from_millis(u64::from(plan.pause)));
        }
    }
    stream.shutdown(Shutdown::Write).context("end")
}

/// Reads the bytes of `side` and its end.
fn read(mut stream: &TcpStream, plan: &Plan, side: usize) -> Result<()> {
    let mut bytes = Bytes::of(plan, side);
    let total = plan.bytes[side] as usize;
    let mut seen = 0;
    let mut buffer = vec![0; 64 * 1024];
    let mut expected = vec![0; 64 * 1024];
    loop {
        let size = match stream.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other.with_context(|| format!("read after {seen} of {total} bytes"))?,
        };
        if size == 0 {
            ensure!(seen == total, "ended after {seen} of {total} bytes");
            return Ok(());
        }
        ensure!(seen + size <= total, "more than {total} bytes");
        bytes.fill(&mut expected[..size]);
        if buffer[..size] != expected[..size] {
            let at = (0..size).find(|&at| buffer[at] != expected[at]);
            bail!("wrong byte at {} of {total}", seen + at.unwrap_or(0));
        }
        seen += size;
    }
}

/// Makes closing the connection a reset (SO_LINGER of socket(7)).
fn reset_on_close(stream: &TcpStream) -> Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the socket is open; pointer and length are those of a live value.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of_val(&linger) as libc::socklen_t,
        )
    };
    ensure!(
        result == 0,
        "set the linger time: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// Waits for the end that a reset of the far side makes. An agent in between may
/// have made an ordinary one of it.
fn ended(mut stream: &TcpStream) -> Result<()> {
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => bail!("a byte instead"),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error).context("none"),
    }
}

/// The ends take turns; the larger number of bytes tells how many. Half-way the
/// side `resets` resets the connection, with nothing on its way to either.
fn turns(mut stream: &TcpStream, plan: &Plan, side: usize, resets: Option<usize>) -> Result<()> {
    const TURN: usize = 2_048;
    let mut streams = [Bytes::of(plan, 0), Bytes::of(plan, 1)];
    let mut left = plan.bytes.map(|bytes| bytes as usize);
    let mut buffer = vec![0; TURN];
    let mut expected = vec![0; TURN];
    let mut round = 0_u32;
    // Of either: its turns are not empty until then.
    let half = left.map(|bytes| bytes / 2);
    while left != [0, 0] {
        for writer in [0, 1] {
            let size = left[writer].min(1 + (round as usize * 977) % TURN);
            left[writer] -= size;
            streams[writer].fill(&mut expected[..size]);
            if writer == side {
                stream
                    .write_all(&expected[..size])
                    .with_context(|| format!("write in round {round}"))?;
            } else {
                stream
                    .read_exact(&mut buffer[..size])
                    .with_context(|| format!("read in round {round}"))?;
                ensure!(buffer[..size] == expected[..size], "wrong in round {round}");
            }
            if (left[0] < half[0] || left[1] < half[1])
                && let Some(resetting) = resets
                && resetting != writer
            {
                return if side == resetting {
                    reset_on_close(stream)
                } else {
                    ended(stream).with_context(|| format!("the reset in round {round}"))
                };
            }
        }
        round += 1;
        if plan.pause > 0 && side == 0 && round == 8 {
            thread::sleep(Duration::from_millis(u64::from(plan.pause)));
        }
    }
    if side == 0 {
        stream.shutdown(Shutdown::Write).context("end")?;
    }
    ensure!(
        stream.read(&mut buffer).context("read the end")? == 0,
        "more than all"
    );
    Ok(())
}
