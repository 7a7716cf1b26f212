// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Follows the framing of an HTTP/1 byte stream: head, body, head, and so on.
//! No I/O and no buffer of its own, so that it can be tested at every split.

use crate::http::validate::{self, Framing, Lines, Violation};

/// Bytes of one chunk's extensions.
const MAX_CHUNK_EXTENSION: u16 = 256;
/// Bytes of a trailer section.
const MAX_TRAILERS: usize = 8 * 1024;
/// Interim responses before the final one.
const MAX_INTERIM: u8 = 32;

/// Whose messages are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Requests of a client.
    Request,
    /// Responses of an upstream.
    Response,
}

/// Follows one direction of a connection.
#[derive(Clone, Debug)]
pub struct Framer {
    side: Side,
    max_head: usize,
    max_fields: usize,
    state: State,
    scan: Scan,
    interim: u8,
    /// The response under way answers HEAD.
    pub to_head: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Body(u64),
    UntilClose,
    ChunkSize { digits: u8, size: u64 },
    ChunkExtension { length: u16, size: u64 },
    ChunkSizeEnd { size: u64 },
    ChunkData(u64),
    ChunkDataCr,
    ChunkDataLf,
    Trailers,
}

/// How far the search for an empty line has come.
#[derive(Clone, Copy, Debug, Default)]
struct Scan {
    at: usize,
    line_start: usize,
    lines: usize,
}

/// What the bytes at hand amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet: more bytes are needed.
    More,
    /// So many bytes hold nothing (an empty line before a request line, RFC
    /// 9112 section 2.2); drop them.
    Skip(usize),
    /// So many bytes are a complete head.
    Head(usize),
    /// So many bytes go on as they are.
    Body(usize),
}

impl Framer {
    /// Expects a head.
    pub fn new(side: Side, max_head: usize, max_fields: usize) -> Self {
        Self {
            side,
            max_head,
            max_fields,
            state: State::Head,
            scan: Scan::default(),
            interim: 0,
            to_head: false,
        }
    }

    /// Whether the next byte belongs to a head.
    pub fn at_head(&self) -> bool {
        self.state == State::Head
    }

    /// Whether the next byte begins the answer to another request.
    pub fn between_messages(&self) -> bool {
        self.at_head() && self.interim == 0
    }

    /// Whether the body ends where the connection does.
    pub fn until_close(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Body bytes that may pass without being looked at.
    pub fn opaque(&self) -> u64 {
        match self.state {
            State::Body(left) => left,
            State::UntilClose => u64::MAX,
            // The last byte is left for `step`, which then sees the state change.
            State::ChunkData(left) => left.saturating_sub(1),
            _ => 0,
        }
    }

    /// Accounts for `n` bytes, at most [`Self::opaque`], that were passed.
    pub fn passed(&mut self, n: u64) {
        match &mut self.state {
            State::Body(left) => {
                *left -= n;
                if *left == 0 {
                    self.expect_head();
                }
            }
            State::ChunkData(left) => *left -= n,
            _ => {}
        }
    }

    /// Looks at the bytes not yet passed. After `More` it wants to see the same
    /// bytes again with others behind them.
    ///
    /// # Errors
    /// The rule the stream breaks; nothing after it can be trusted.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, Violation> {
        match self.state {
            _ if bytes.is_empty() => Ok(Step::More),
            State::Head => self.head(bytes),
            State::Body(_) | State::UntilClose => {
                let n = usize::try_from(self.opaque()).map_or(bytes.len(), |n| n.min(bytes.len()));
                self.passed(n as u64);
                Ok(Step::Body(n))
            }
            _ => self.chunked(bytes),
        }
    }

    fn expect_head(&mut self) {
        self.state = State::Head;
        self.scan = Scan::default();
        self.interim = 0;
    }

    fn head(&mut self, bytes: &[u8]) -> Result<Step, Violation> {
        if self.side == Side::Request {
            // What is not HTTP at all (TLS on the wrong port) may never contain
            // a line end.
            if !(validate::is_token_byte(bytes[0]) || bytes[0] == b'\r') {
                return Err(match bytes[0] {
                    b'\n' => Violation::BareLineFeed,
                    _ => Violation::Method,
                });
            }
            if bytes.starts_with(b"\r\n") && self.scan.lines == 0 {
                // One only, which is counted as a line of the head to come.
                self.scan = Scan {
                    lines: 1,
                    ..Scan::default()
                };
                return Ok(Step::Skip(2));
            }
        }
        let Some(end) = self.empty_line(bytes, self.max_head, Violation::HeadTooLarge)? else {
            return Ok(Step::More);
        };
        let head = &bytes[..end];
        self.scan = Scan::default();
        let framing = match self.side {
            Side::Request => validate::request(head, self.max_fields)?,
            Side::Response => {
                let response = validate::response(head, self.to_head, self.max_fields)?;
                if response.status < 200 {
                    self.interim += 1;
                    return if self.interim > MAX_INTERIM {
                        Err(Violation::Unasked)
                    } else {
                        Ok(Step::Head(end))
                    };
                }
                if response.framing == Framing::None && bytes.len() > end {
                    return Err(Violation::BodyWhereNone);
                }
                response.framing
            }
        };
        match framing {
            Framing::None => self.expect_head(),
            Framing::Length(length) => self.state = State::Body(length),
            Framing::Chunked => self.state = State::ChunkSize { digits: 0, size: 0 },
            Framing::UntilClose => self.state = State::UntilClose,
        }
        Ok(Step::Head(end))
    }

    /// The end of the lines up to and with the empty one, when all are there.
    fn empty_line(
        &mut self,
        bytes: &[u8],
        limit: usize,
        too_large: Violation,
    ) -> Result<Option<usize>, Violation> {
        while let Some(feed) = bytes[self.scan.at..].iter().position(|&b| b == b'\n') {
            let feed = self.scan.at + feed;
            if feed == 0 || bytes[feed - 1] != b'\r' {
                return Err(Violation::BareLineFeed);
            }
            if feed >= limit {
                return Err(too_large);
            }
            let empty = self.scan.line_start + 1 == feed;
            if self.at_head() && self.scan.line_start == 0 {
                // At once: what does not speak HTTP/1 may send nothing more.
                let line = &bytes[..feed - 1];
                match self.side {
                    Side::Request => {
                        validate::request_line(line)?;
                    }
                    Side::Response => {
                        validate::status_line(line)?;
                    }
                }
            }
            self.scan.at = feed + 1;
            self.scan.line_start = feed + 1;
            self.scan.lines += 1;
            if empty {
                return Ok(Some(feed + 1));
            }
            if self.scan.lines > self.max_fields + 2 {
                return Err(Violation::TooManyFields);
            }
        }
        self.scan.at = bytes.len();
        if bytes.len() >= limit {
            return Err(too_large);
        }
        Ok(None)
    }

    fn chunked(&mut self, bytes: &[u8]) -> Result<Step, Violation> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            self.state = match self.state {
                State::ChunkSize { digits, size } => match (byte, hex(byte)) {
                    (_, Some(_)) if digits == 15 => return Err(Violation::ChunkSize),
                    (_, Some(digit)) => State::ChunkSize {
                        digits: digits + 1,
                        size: size * 16 + digit,
                    },
                    _ if digits == 0 => return Err(Violation::ChunkSize),
                    (b'\r', _) => State::ChunkSizeEnd { size },
                    (b';', _) => State::ChunkExtension { length: 1, size },
                    _ => return Err(Violation::ChunkSize),
                },
                State::ChunkExtension { length, size } => match byte {
                    b'\r' => State::ChunkSizeEnd { size },
                    _ if length >= MAX_CHUNK_EXTENSION => return Err(Violation::ChunkExtension),
                    b'\t' | b' '..=b'~' => State::ChunkExtension {
                        length: length + 1,
                        size,
                    },
                    _ => return Err(Violation::ChunkExtension),
                },
                State::ChunkSizeEnd { size } => match (byte, size) {
                    (b'\n', 0) => {
                        self.scan = Scan::default();
                        State::Trailers
                    }
                    (b'\n', size) => State::ChunkData(size),
                    _ => return Err(Violation::ChunkSize),
                },
                State::ChunkData(left) => {
                    let n = usize::try_from(left)
                        .map_or(bytes.len() - at, |left| left.min(bytes.len() - at));
                    at += n;
                    self.state = match left - n as u64 {
                        0 => State::ChunkDataCr,
                        left => State::ChunkData(left),
                    };
                    continue;
                }
                State::ChunkDataCr if byte == b'\r' => State::ChunkDataLf,
                State::ChunkDataLf if byte == b'\n' => State::ChunkSize { digits: 0, size: 0 },
                State::Trailers => {
                    let rest = &bytes[at..];
                    if at > 0 {
                        // The next step sees the section from its start.
                        return Ok(Step::Body(at));
                    }
                    let Some(end) = self.empty_line(rest, MAX_TRAILERS, Violation::Trailer)? else {
                        return Ok(Step::More);
                    };
                    Lines(&rest[..end]).try_for_each(validate::trailer)?;
                    self.expect_head();
                    return Ok(Step::Body(end));
                }
                _ => return Err(Violation::ChunkEnd),
            };
            at += 1;
        }
        Ok(Step::Body(at))
    }
}

/// The value of a hexadecimal digit.
fn hex(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

#[cfg(test)]
mod tests;
