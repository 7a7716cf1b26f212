// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a client says first: a parser of ClientHellos that takes them in any
//! pieces.
//!
//! TCP splits a hello into segments anywhere, and TLS may split it into records
//! anywhere (RFC 8446 section 5.1); post-quantum key shares made both common.
//! The framing of records and of the handshake message is done here, without a
//! copy and remembering where it stopped; the message is parsed by `tls-parser`.
//! Pure: no I/O, no clock, never panics.

use std::borrow::Cow;

use tls_parser::{
    SNIType, TlsExtension, parse_tls_extension_alpn_content, parse_tls_extension_sni_content,
    parse_tls_extension_supported_versions, parse_tls_extension_unknown,
    parse_tls_handshake_client_hello,
};

use crate::model::hostname::is_dns_name;

/// What the bytes received so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The beginning of a ClientHello, as far as can be said.
    NeedMore,
    /// Not TLS.
    NotTls,
    /// TLS that breaks the protocol.
    Malformed,
    /// A ClientHello over the limit, known from its stated length.
    TooLarge,
    /// A complete ClientHello.
    Hello(Hello),
}

/// What a ClientHello asks for, as far as routing needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Server name: lower case, a valid DNS name. None also when the client
    /// sent an IP address, which RFC 6066 section 3 does not permit as a name.
    pub sni: Option<String>,
    /// Protocols in the client's order; bytes that are not UTF-8 are replaced.
    pub alpn: Vec<String>,
    /// Versions as on the wire, in the client's order: 0x0304 is TLS 1.3.
    pub versions: Vec<u16>,
    /// Whether it carries an encrypted hello (RFC 9849); `sni` is then the
    /// public name. Also set for the decoys that many clients send.
    pub ech: bool,
}

/// Reads one ClientHello out of a growing buffer. Every byte of framing is
/// looked at once, however the bytes arrive.
#[derive(Clone, Debug)]
pub struct HelloReader {
    /// Limit of the handshake message's body.
    max_len: usize,
    /// How much of the buffer has been looked at.
    at: usize,
    /// Bytes of the current record not yet looked at.
    record_left: usize,
    /// Bytes of the handshake message seen, its header included.
    message_len: usize,
    /// The header of the handshake message.
    header: [u8; HANDSHAKE_HEADER],
    /// The message lies in more than one record.
    split: bool,
}

/// Default limit of a ClientHello.
pub const DEFAULT_MAX_LEN: usize = 16 * 1024;

/// Largest limit that can be configured.
pub const LARGEST_MAX_LEN: usize = 64 * 1024;

const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;
const CONTENT_HANDSHAKE: u8 = 22;
const MESSAGE_CLIENT_HELLO: u8 = 1;
/// RFC 8446 section 5.1.
const MAX_RECORD: usize = 1 << 14;

const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const EXTENSION_SUPPORTED_VERSIONS: u16 = 43;
const EXTENSION_ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// Reads `received` in one go, with the default limit.
pub fn parse(received: &[u8]) -> Outcome {
    HelloReader::new(DEFAULT_MAX_LEN).read(received)
}

impl HelloReader {
    /// Takes messages of up to `max_len` bytes, itself at most
    /// [`LARGEST_MAX_LEN`].
    pub fn new(max_len: usize) -> Self {
        Self {
            max_len: max_len.min(LARGEST_MAX_LEN),
            at: 0,
            record_left: 0,
            message_len: 0,
            header: [0; HANDSHAKE_HEADER],
            split: false,
        }
    }

    /// Goes on with `received`: everything received so far, which must begin
    /// with what the last call was given. Any outcome but
    /// [`Outcome::NeedMore`] is final.
    pub fn read(&mut self, received: &[u8]) -> Outcome {
        loop {
            if let Some(total) = self.total() {
                if total - HANDSHAKE_HEADER > self.max_len {
                    return Outcome::TooLarge;
                }
                if self.message_len >= total {
                    return match self.message(received, total) {
                        Some(message) => hello(&message).map_or(Outcome::Malformed, Outcome::Hello),
                        None => Outcome::Malformed,
                    };
                }
            }
            let step = if self.record_left == 0 {
                self.record_header(received)
            } else {
                self.fragment(received)
            };
            match step {
                Ok(()) => {}
                Err(outcome) => return outcome,
            }
        }
    }

    /// Length of the handshake message with its header, when that is known.
    fn total(&self) -> Option<usize> {
        let [_, high, middle, low] = self.header;
        (self.message_len >= HANDSHAKE_HEADER).then(|| {
            HANDSHAKE_HEADER
                + (usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low))
        })
    }

    fn record_header(&mut self, received: &[u8]) -> Result<(), Outcome> {
        let first = self.message_len == 0;
        // Only the first record tells TLS from something else.
        let foreign = if first {
            Outcome::NotTls
        } else {
            Outcome::Malformed
        };
        let rest = received.get(self.at..).unwrap_or_default();
        if rest.first().is_some_and(|&kind| kind != CONTENT_HANDSHAKE) {
            return Err(foreign);
        }
        // The minor version is historical and to be ignored (RFC 8446
        // section 5.1).
        if rest.get(1).is_some_and(|&major| major != 3) {
            return Err(foreign);
        }
        let Some(&[_, _, _, high, low]) = rest.first_chunk::<RECORD_HEADER>() else {
            return Err(Outcome::NeedMore);
        };
        let len = usize::from(high) << 8 | usize::from(low);
        // RFC 8446 section 5.1: no empty fragments of handshake messages.
        if len == 0 || len > MAX_RECORD {
            return Err(Outcome::Malformed);
        }
        self.at += RECORD_HEADER;
        self.record_left = len;
        self.split |= !first;
        Ok(())
    }

    fn fragment(&mut self, received: &[u8]) -> Result<(), Outcome> {
        let rest = received.get(self.at..).unwrap_or_default();
        let fragment = &rest[..rest.len().min(self.record_left)];
        if fragment.is_empty() {
            return Err(Outcome::NeedMore);
        }
        let header = self.header.get_mut(self.message_len..).unwrap_or_default();
        for (to, from) in header.iter_mut().zip(fragment) {
            *to = *from;
        }
        self.at += fragment.len();
        self.record_left -= fragment.len();
        self.message_len += fragment.len();
        if self.header[0] == MESSAGE_CLIENT_HELLO {
            Ok(())
        } else {
            Err(Outcome::Malformed)
        }
    }

    /// The body of the complete message of `total` bytes.
    fn message<'a>(&self, received: &'a [u8], total: usize) -> Option<Cow<'a, [u8]>> {
        if !self.split {
            let body = RECORD_HEADER + HANDSHAKE_HEADER..RECORD_HEADER + total;
            return received.get(body).map(Cow::Borrowed);
        }
        let mut message = Vec::with_capacity(total);
        let mut rest = received;
        while message.len() < total {
            let (&[_, _, _, high, low], after) = rest.split_first_chunk::<RECORD_HEADER>()?;
            let len = usize::from(high) << 8 | usize::from(low);
            let take = len.min(total - message.len());
            message.extend_from_slice(after.get(..take)?);
            rest = after.get(len..).unwrap_or_default();
        }
        message.drain(..HANDSHAKE_HEADER);
        Some(Cow::Owned(message))
    }
}

/// Parses the body of a ClientHello; None when it breaks the protocol.
fn hello(body: &[u8]) -> Option<Hello> {
    let (trailing, contents) = parse_tls_handshake_client_hello(body).ok()?;
    if !trailing.is_empty() || contents.ciphers.is_empty() || contents.comp.is_empty() {
        return None;
    }
    let mut hello = Hello {
        versions: vec![contents.version.0],
        ..Hello::default()
    };
    let mut seen = Vec::new();
    let mut rest = contents.ext.unwrap_or_default();
    while !rest.is_empty() {
        let (after, TlsExtension::Unknown(kind, content)) =
            parse_tls_extension_unknown(rest).ok()?
        else {
            return None;
        };
        seen.push(kind.0);
        match kind.0 {
            EXTENSION_SERVER_NAME => hello.sni = server_name(content)?,
            EXTENSION_ALPN => hello.alpn = alpn(content)?,
            EXTENSION_SUPPORTED_VERSIONS => {
                // The list's own length, then pairs.
                let (&len, versions) = content.split_first()?;
                if usize::from(len) != versions.len() || len < 2 {
                    return None;
                }
                let (_, extension) = parse_tls_extension_supported_versions(rest).ok()?;
                let TlsExtension::SupportedVersions(versions) = extension else {
                    return None;
                };
                hello.versions = versions.iter().map(|version| version.0).collect();
            }
            EXTENSION_ENCRYPTED_CLIENT_HELLO => hello.ech = true,
            _ => {}
        }
        rest = after;
    }
    // RFC 8446 section 4.2: no extension twice. Two server names would route by
    // one and be served by the other.
    seen.sort_unstable();
    let twice = seen.windows(2).any(|pair| pair[0] == pair[1]);
    (!twice).then_some(hello)
}

/// The outer None is an error, the inner one an address.
fn server_name(content: &[u8]) -> Option<Option<String>> {
    let (trailing, TlsExtension::SNI(names)) = parse_tls_extension_sni_content(content).ok()?
    else {
        return None;
    };
    // The parser stops in silence at the first name it cannot read.
    let read: usize = names.iter().map(|(_, name)| 3 + name.len()).sum();
    // Only host names are defined, and at most one of a kind (RFC 6066
    // section 3).
    let [(SNIType::HostName, name)] = names.as_slice() else {
        return None;
    };
    if !trailing.is_empty() || 2 + read != content.len() {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?;
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Some(None);
    }
    is_dns_name(name).then(|| Some(name.to_ascii_lowercase()))
}

fn alpn(content: &[u8]) -> Option<Vec<String>> {
    let (trailing, TlsExtension::ALPN(protocols)) =
        parse_tls_extension_alpn_content(content).ok()?
    else {
        return None;
    };
    let read: usize = protocols.iter().map(|protocol| 1 + protocol.len()).sum();
    // RFC 7301 section 3.1: neither the list nor a name is empty.
    let empty = protocols.is_empty() || protocols.iter().any(|protocol| protocol.is_empty());
    if empty || !trailing.is_empty() || 2 + read != content.len() {
        return None;
    }
    Some(
        protocols
            .iter()
            .map(|protocol| String::from_utf8_lossy(protocol).into_owned())
            .collect(),
    )
}

#[cfg(test)]
mod tests;
