// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sockets and hand-made bytes for what no client would send.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::netns::Netns;

/// How the far side ended a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It closed; what it sent before.
    Closed(Vec<u8>),
    /// It reset.
    Reset,
    /// It did neither within the deadline.
    Open(Vec<u8>),
}

/// Connects from inside `netns`.
///
/// # Errors
///
/// When nothing accepts within 5 s.
pub fn connect(netns: &Netns, address: SocketAddr) -> Result<TcpStream> {
    let stream = netns
        .run(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))
        .with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Writes each piece as a segment of its own: the next one leaves after the
/// kernel has sent the one before.
///
/// # Errors
///
/// When the far side has closed.
pub fn write_segments<'a>(
    stream: &mut TcpStream,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> std::io::Result<()> {
    for piece in pieces {
        stream.write_all(piece)?;
    }
    Ok(())
}

/// Reads to the end of the connection.
///
/// # Errors
///
/// On anything but an end, a reset and the deadline.
pub fn read_to_end(stream: &mut TcpStream, deadline: Duration) -> Result<End> {
    stream.set_read_timeout(Some(deadline))?;
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(End::Closed(got)),
            Ok(count) => got.extend_from_slice(&buffer[..count]),
            Err(error) => match error.kind() {
                // With a read timeout set, a signal that stops and resumes the
                // process shows here (signal(7)).
                ErrorKind::Interrupted => {}
                ErrorKind::ConnectionReset => return Ok(End::Reset),
                ErrorKind::WouldBlock | ErrorKind::TimedOut => return Ok(End::Open(got)),
                _ => return Err(error).context("read"),
            },
        }
    }
}

/// A TLS 1.2 ClientHello handshake message (RFC 5246 section 7.4.1.2) of at
/// least `size` bytes, with the server name if one is given.
pub fn client_hello(name: Option<&str>, size: usize) -> Vec<u8> {
    let mut extensions = Vec::new();
    if let Some(name) = name {
        // RFC 6066 section 3: a list of one host_name.
        let mut entry = vec![0];
        push_u16_prefixed(&mut entry, name.as_bytes());
        let mut list = Vec::new();
        push_u16_prefixed(&mut list, &entry);
        push_extension(&mut extensions, 0, &list);
    }
    // supported_groups, signature_algorithms: what every server asks for.
    push_extension(&mut extensions, 10, &[0, 4, 0, 29, 0, 23]);
    push_extension(&mut extensions, 13, &[0, 6, 4, 3, 8, 4, 4, 1]);
    let mut body = vec![3, 3];
    body.extend_from_slice(&[0x5a; 32]);
    body.push(0);
    push_u16_prefixed(&mut body, &[0xc0, 0x2b, 0xc0, 0x2f]);
    body.extend_from_slice(&[1, 0]);
    // RFC 7685 padding, in as many extensions of private types as it takes.
    let mut kind = 21;
    while 4 + body.len() + 2 + extensions.len() + 4 < size {
        let missing = size - (4 + body.len() + 2 + extensions.len() + 4);
        push_extension(&mut extensions, kind, &vec![0; missing.min(16_000)]);
        kind = if kind == 21 { 0xff10 } else { kind + 1 };
    }
    // 70 kB of extensions do not fit a two-byte length: it then lies, and the
    // handshake length alone says how much follows.
    let length = u16::try_from(extensions.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(&extensions);
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut message = vec![1, length[1], length[2], length[3]];
    message.extend_from_slice(&body);
    message
}

/// Puts a handshake message into TLS records of at most `size` bytes each.
pub fn records(message: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for fragment in message.chunks(size) {
        bytes.extend_from_slice(&[22, 3, 1]);
        push_u16_prefixed(&mut bytes, fragment);
    }
    bytes
}

fn push_extension(into: &mut Vec<u8>, kind: u16, body: &[u8]) {
    into.extend_from_slice(&kind.to_be_bytes());
    push_u16_prefixed(into, body);
}

fn push_u16_prefixed(into: &mut Vec<u8>, body: &[u8]) {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    into.extend_from_slice(&length.to_be_bytes());
    into.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::{client_hello, records};

    #[test]
    fn a_padded_hello_has_the_size_asked_for() {
        for size in [300, 2_000, 30_000] {
            assert_eq!(client_hello(Some("a.example.com"), size).len(), size);
        }
    }

    #[test]
    fn records_split_where_asked() {
        let bytes = records(&[7; 5], 2);
        assert_eq!(
            bytes,
            [
                22, 3, 1, 0, 2, 7, 7, 22, 3, 1, 0, 2, 7, 7, 22, 3, 1, 0, 1, 7
            ]
        );
    }
}
