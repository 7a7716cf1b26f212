// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An echo server whose connections begin with a PROXY header, which it takes
//! apart by itself (haproxy.org, doc/proxy-protocol.txt).

use std::{
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{backend::echo::echo, lab::Lab, netns::Netns};

/// Section 2.2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Section 2.1.
const MAX_LINE: usize = 107;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 1 or 2.
    pub version: u8,
    /// Client and the address it connected to; none of `LOCAL` and `UNKNOWN`.
    pub ends: Option<[SocketAddr; 2]>,
    /// Types and values that follow the addresses.
    pub values: Vec<(u8, Vec<u8>)>,
    /// All of its bytes.
    pub bytes: Vec<u8>,
}

/// Reads a header, and no byte behind it.
///
/// # Errors
///
/// When there is none, or one that breaks a rule.
pub fn read(stream: &mut impl Read) -> Result<Header> {
    let mut bytes = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut bytes).context("read a header")?;
    if bytes == SIGNATURE {
        return binary(stream, bytes);
    }
    ensure!(bytes.starts_with(b"PROXY "), "no header: {bytes:?}");
    while !bytes.ends_with(b"\r\n") {
        ensure!(bytes.len() < MAX_LINE, "a line without an end");
        bytes.push(byte(stream)?);
    }
    let line = std::str::from_utf8(&bytes)?.trim_end_matches("\r\n");
    let words: Vec<&str> = line.split(' ').collect();
    let ends = match words[..] {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family, source, destination, from, to] => {
            let ends = [(source, from), (destination, to)].map(|(ip, port)| {
                let ip: IpAddr = ip.parse().context("an address")?;
                let wanted = if ip.is_ipv4() { "TCP4" } else { "TCP6" };
                ensure!(family == wanted, "{family} with {ip}");
                Ok(SocketAddr::new(ip, port.parse().context("a port")?))
            });
            let [client, destination] = ends;
            Some([client?, destination?])
        }
        _ => bail!("{line:?}"),
    };
    Ok(Header {
        version: 1,
        ends,
        values: Vec::new(),
        bytes,
    })
}

fn byte(stream: &mut impl Read) -> Result<u8> {
    let mut one = [0];
    stream.read_exact(&mut one).context("read a header")?;
    Ok(one[0])
}

fn binary(stream: &mut impl Read, mut bytes: Vec<u8>) -> Result<Header> {
    let mut fixed = [0; 4];
    stream.read_exact(&mut fixed).context("read a header")?;
    bytes.extend(fixed);
    let [command, family, high, low] = fixed;
    let mut rest = vec![0; usize::from(u16::from_be_bytes([high, low]))];
    stream.read_exact(&mut rest).context("read a header")?;
    bytes.extend(&rest);
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    let (ends, at) = match (command, family) {
        (0x20, _) => (None, rest.len()),
        (0x21, 0x11) if rest.len() >= 12 => {
            let ip = |at: usize| <[u8; 4]>::try_from(&rest[at..at + 4]).map(Ipv4Addr::from);
            let ends = [
                SocketAddr::from((ip(0)?, port(8))),
                SocketAddr::from((ip(4)?, port(10))),
            ];
            (Some(ends), 12)
        }
        (0x21, 0x21) if rest.len() >= 36 => {
            let ip = |at: usize| <[u8; 16]>::try_from(&rest[at..at + 16]).map(Ipv6Addr::from);
            let ends = [
                SocketAddr::from((ip(0)?, port(32))),
                SocketAddr::from((ip(16)?, port(34))),
            ];
            (Some(ends), 36)
        }
        _ => bail!("command {command:#x}, family {family:#x}"),
    };
    let mut values = Vec::new();
    let mut left = &rest[at..];
    while let [kind, high, low, after @ ..] = left {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        ensure!(after.len() >= len, "value {kind:#x} is cut off");
        values.push((*kind, after[..len].to_vec()));
        left = &after[len..];
    }
    ensure!(left.is_empty(), "{left:?} behind the last value");
    Ok(Header {
        version: 2,
        ends,
        values,
        bytes,
    })
}

/// A running server; it stops accepting when dropped.
#[derive(Debug)]
pub struct Announced {
    stop: Arc<AtomicBool>,
    listener: TcpListener,
    headers: Arc<Mutex<Vec<Result<Header, String>>>>,
}

impl Announced {
    /// Starts one on `port` of backend `index`. It says `greeting` once it has a
    /// header, before it hears anything else.
    ///
    /// # Errors
    ///
    /// When the port is taken.
    pub fn start(lab: &Lab, index: usize, port: u16, greeting: &'static str) -> Result<Self> {
        let address = SocketAddr::from((lab.backend_address(index), port));
        Self::serve(&lab.backends[index], address, greeting)
    }

    /// Starts one anywhere.
    ///
    /// # Errors
    ///
    /// When the port is taken.
    pub fn serve(netns: &Netns, address: SocketAddr, greeting: &'static str) -> Result<Self> {
        let listener = netns
            .run(|| TcpListener::bind(address))
            .with_context(|| format!("listen on {address}"))?;
        let server = Self {
            stop: Arc::default(),
            listener: listener.try_clone()?,
            headers: Arc::default(),
        };
        let (stop, headers) = (Arc::clone(&server.stop), Arc::clone(&server.headers));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                let headers = Arc::clone(&headers);
                thread::spawn(move || {
                    let header = read(&mut stream).map_err(|error| format!("{error:#}"));
                    let is_good = header.is_ok();
                    headers
                        .lock()
                        .expect("no thread panics with it")
                        .push(header);
                    if is_good {
                        echo(stream, greeting);
                    }
                });
            }
        });
        Ok(server)
    }

    /// The headers so far, or what was there instead, in the order in which they
    /// were complete.
    pub fn headers(&self) -> Vec<Result<Header, String>> {
        self.headers
            .lock()
            .expect("no thread panics with it")
            .clone()
    }

    /// The header of a client's connection.
    ///
    /// # Errors
    ///
    /// When it has none, or more than one.
    pub fn of(&self, client: SocketAddr) -> Result<Header> {
        let all = self.headers();
        let is_its = |header: &&Header| header.ends.is_some_and(|ends| ends[0] == client);
        let found: Vec<&Header> = all.iter().flatten().filter(is_its).collect();
        match found[..] {
            [only] => Ok(only.clone()),
            _ => bail!("{} headers of {client}: {all:?}", found.len()),
        }
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // SAFETY: the descriptor is open for as long as `self.listener`; the
        // call wakes the thread that accepts on its copy.
        unsafe {
            libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn examples_of_the_specification_are_read() {
        let mut line = &b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET /"[..];
        let header = read(&mut line).expect("a header");
        assert_eq!(header.version, 1);
        let ends = header.ends.map(|ends| ends.map(|end| end.to_string()));
        let expected = ["192.168.0.1:56324", "192.168.0.11:443"].map(str::to_owned);
        assert_eq!(ends, Some(expected));
        assert_eq!(line, b"GET /");
        let mut binary = &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13\x7f\0\0\x01\x7f\0\0\x02\0\x50\x01\xbb\x02\0\x04a.b.hi"[..];
        let header = read(&mut binary).expect("a header");
        let ends = header.ends.map(|ends| ends.map(|end| end.to_string()));
        assert_eq!(
            ends,
            Some(["127.0.0.1:80", "127.0.0.2:443"].map(str::to_owned))
        );
        assert_eq!(header.values, [(2, b"a.b.".to_vec())]);
        assert_eq!(binary, b"hi");
        for wrong in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"PROXY TCP6 192.168.0.1 192.168.0.11 56324 443\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0d\x7f\0\0\x01\x7f\0\0\x02\0\x50\x01\xbb\x02",
        ] {
            assert!(read(&mut { wrong }).is_err());
        }
    }
}
