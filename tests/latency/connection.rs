// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One kept HTTP/1.1 connection, in the clear or over TLS: one request at a
//! time, never blocking once it is open.

use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

/// How connections are opened.
pub struct Opener {
    address: SocketAddr,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Opener {
    /// To `address`, with TLS when there is an authority to trust.
    ///
    /// # Errors
    ///
    /// When the authority cannot be read, or `host` is no server name.
    pub fn new(address: SocketAddr, host: &str, authority: Option<&Path>) -> Result<Self> {
        let tls = authority
            .map(|file| -> Result<_> {
                let pem = fs::read(file).with_context(|| format!("read {}", file.display()))?;
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(&pem) {
                    roots.add(certificate.with_context(|| file.display().to_string())?)?;
                }
                let config = ClientConfig::builder()
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                Ok((Arc::new(config), ServerName::try_from(host.to_owned())?))
            })
            .transpose()?;
        Ok(Self { address, tls })
    }

    /// Opens one; waits for it, handshake included.
    ///
    /// # Errors
    ///
    /// When it is refused, or not open within some seconds.
    pub fn open(&self) -> Result<Connection> {
        let mut socket = TcpStream::connect_timeout(&self.address, PATIENCE)
            .with_context(|| format!("connect to {}", self.address))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let transport = match &self.tls {
            None => Transport::Plain(socket),
            Some((config, name)) => {
                let mut tls = ClientConnection::new(config.clone(), name.clone())?;
                while tls.is_handshaking() {
                    tls.complete_io(&mut socket).context("TLS handshake")?;
                }
                Transport::Tls(Box::new(StreamOwned::new(tls, socket)))
            }
        };
        transport.socket().set_nonblocking(true)?;
        Ok(Connection {
            transport,
            received: Vec::new(),
            expected: None,
        })
    }
}

/// An open connection.
pub struct Connection {
    transport: Transport,
    /// Of the answer so far.
    received: Vec<u8>,
    /// Length of the answer, once its head is there.
    expected: Option<usize>,
}

/// What reading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The answer is not complete.
    Pending,
    /// It is, and has a status of 2xx or has not.
    Answered {
        /// Whether it has.
        good: bool,
    },
    /// The other side has closed.
    Closed,
}

impl Connection {
    /// Sends a request.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.received.clear();
        self.expected = None;
        // One short request at a time always fits into the socket's buffer.
        self.transport.write_all(request)
    }

    /// Reads what is there.
    ///
    /// # Errors
    ///
    /// When the answer makes no sense.
    pub fn receive(&mut self) -> Result<Progress> {
        let mut chunk = [0; 16 << 10];
        loop {
            let count = match self.transport.read(&mut chunk) {
                Ok(0) => return Ok(Progress::Closed),
                Ok(count) => count,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(Progress::Pending),
                    ErrorKind::Interrupted => continue,
                    ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => {
                        return Ok(Progress::Closed);
                    }
                    _ => return Err(error).context("read an answer"),
                },
            };
            self.received.extend_from_slice(&chunk[..count]);
            if self.expected.is_none() {
                self.expected = length(&self.received)?;
            }
            match self.expected {
                Some(expected) if self.received.len() > expected => {
                    bail!("more came than the answer is long");
                }
                Some(expected) if self.received.len() == expected => {
                    // The parser has seen "HTTP/1.x NNN".
                    let good = self.received.get(9) == Some(&b'2');
                    return Ok(Progress::Answered { good });
                }
                _ => {}
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.socket().as_fd()
    }
}

/// Length of an answer, head and body, once its head is complete.
fn length(received: &[u8]) -> Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(received)? else {
        return Ok(None);
    };
    let body = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .context("an answer without Content-Length")?;
    let body: usize = std::str::from_utf8(body.value)?.trim().parse()?;
    Ok(Some(head + body))
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Transport {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref(),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(bytes),
            Self::Tls(stream) => {
                stream.write_all(bytes)?;
                stream.flush()
            }
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(5);
