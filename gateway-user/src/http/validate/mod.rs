// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The strict checks of message heads, pure.
//!
//! hyper and httparse accept what other parsers read differently (two lengths,
//! bare LF, a missing host), and such differences are how requests are
//! smuggled (RFC 9112 section 11.2). What passes here has one reading only.

use http::{HeaderMap, Method, StatusCode, Uri, header};

use crate::http::authority::{is_host, same_authority};

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("a line does not end in CRLF")]
    BareLineFeed,
    #[error("the start line is not of three parts with single blanks")]
    StartLine,
    #[error("the version is not HTTP/1.0 or HTTP/1.1")]
    Version,
    #[error("the method is not a token")]
    Method,
    #[error("CONNECT is not served")]
    Connect,
    #[error("the request target has bytes it must not have")]
    Target,
    #[error("the head is over the limit")]
    HeadTooLarge,
    #[error("the head has too many fields")]
    TooManyFields,
    #[error("a field name is not a token followed by a colon")]
    FieldName,
    #[error("a field is folded over lines")]
    Folded,
    #[error("a field value has control bytes")]
    FieldValue,
    #[error("content-length is not a number of 1 to 18 digits")]
    ContentLength,
    #[error("content-length is given twice")]
    RepeatedContentLength,
    #[error("transfer-encoding is not chunked, or not for this version")]
    TransferEncoding,
    #[error("transfer-encoding is given twice")]
    RepeatedTransferEncoding,
    #[error("content-length and transfer-encoding are both given")]
    LengthAndEncoding,
    #[error("host is missing")]
    HostMissing,
    #[error("host is given twice")]
    HostRepeated,
    #[error("host is not a name or address with an optional port")]
    HostSyntax,
    #[error("host and the target's authority differ")]
    HostDiffers,
    #[error("a field belongs to one connection and must not be in HTTP/2")]
    ConnectionField,
    #[error("a chunk size is not 1 to 15 hexadecimal digits")]
    ChunkSize,
    #[error("a chunk extension is over the limit or has control bytes")]
    ChunkExtension,
    #[error("a chunk does not end in CRLF")]
    ChunkEnd,
    #[error("the trailer section is not well formed")]
    Trailer,
    #[error("the status code is not of 100 to 599")]
    Status,
    #[error("a response that has no body carries one")]
    BodyWhereNone,
    #[error("a response nothing asked for")]
    Unasked,
    #[error("protocols were switched without being asked")]
    UnaskedUpgrade,
}

impl Violation {
    /// The status a client gets for it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::HeadTooLarge | Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// How the end of a message is found (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks up to the empty one.
    Chunked,
    /// Until the connection closes; responses only.
    UntilClose,
}

/// Checks a complete request head, `bytes` including the empty line.
///
/// # Errors
/// The first rule it breaks.
pub fn request(bytes: &[u8], max_fields: usize) -> Result<Framing, Violation> {
    let mut lines = Lines(bytes);
    let line = request_line(lines.next().unwrap_or_default())?;
    let mut lengths = Lengths::default();
    let mut host = None;
    let mut fields = 0;
    for line in &mut lines {
        let (name, value) = field(line)?;
        fields += 1;
        if fields > max_fields {
            return Err(Violation::TooManyFields);
        }
        if name.eq_ignore_ascii_case(b"host") {
            if host.replace(value).is_some() {
                return Err(Violation::HostRepeated);
            }
        } else {
            lengths.read(name, value)?;
        }
    }
    lines.end()?;
    match host {
        Some(host) if !is_host(host) => return Err(Violation::HostSyntax),
        Some(_) => {}
        None if line.minor == 0 => {}
        None => return Err(Violation::HostMissing),
    }
    if let Some((scheme, authority)) = line.absolute {
        if !is_host(authority) {
            return Err(Violation::HostSyntax);
        }
        if host.is_some_and(|host| !same_authority(scheme, authority, host)) {
            return Err(Violation::HostDiffers);
        }
    }
    // RFC 9112 section 6.1: the framing of HTTP/1.0 with a transfer coding is
    // faulty.
    if lengths.chunked && line.minor == 0 {
        return Err(Violation::TransferEncoding);
    }
    Ok(match lengths.length {
        _ if lengths.chunked => Framing::Chunked,
        Some(0) | None => Framing::None,
        Some(length) => Framing::Length(length),
    })
}

/// The parts of a request line that later checks need.
pub struct RequestLine<'b> {
    minor: u8,
    absolute: Option<(&'b [u8], &'b [u8])>,
}

/// Checks a request line, without its CRLF.
///
/// # Errors
/// The rule it breaks.
pub fn request_line(line: &[u8]) -> Result<RequestLine<'_>, Violation> {
    let mut parts = line.split(|&b| b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Violation::StartLine);
    };
    if !is_token(method) {
        return Err(Violation::Method);
    }
    let minor = match version {
        b"HTTP/1.1" => 1,
        b"HTTP/1.0" => 0,
        _ => return Err(Violation::Version),
    };
    if method == b"CONNECT" {
        return Err(Violation::Connect);
    }
    Ok(RequestLine {
        minor,
        absolute: target_authority(method, target)?,
    })
}

/// Checks a request target; scheme and authority of the absolute form.
#[expect(clippy::type_complexity, reason = "a pair, used once")]
fn target_authority<'b>(
    method: &[u8],
    target: &'b [u8],
) -> Result<Option<(&'b [u8], &'b [u8])>, Violation> {
    let absolute = if target.starts_with(b"/") {
        None
    } else if target == b"*" {
        return if method == b"OPTIONS" {
            Ok(None)
        } else {
            Err(Violation::Target)
        };
    } else {
        let scheme = [&b"http"[..], b"https"]
            .into_iter()
            .find(|scheme| {
                target.get(..scheme.len() + 3).is_some_and(|head| {
                    head[..scheme.len()].eq_ignore_ascii_case(scheme)
                        && &head[scheme.len()..] == b"://"
                })
            })
            .ok_or(Violation::Target)?;
        let rest = &target[scheme.len() + 3..];
        let end = rest
            .iter()
            .position(|b| matches!(b, b'/' | b'?'))
            .unwrap_or(rest.len());
        Some((scheme, &rest[..end]))
    };
    if target.iter().all(|&b| is_target_byte(b)) {
        Ok(absolute)
    } else {
        Err(Violation::Target)
    }
}

/// RFC 3986 section 3.3 and 3.4, and what browsers send unencoded beyond it.
/// Neither the fragment sign nor the backslash, which some servers read as a
/// slash, nor anything outside of ASCII.
fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'#' | b'<' | b'>' | b'\\' | b'`')
}

/// What a response head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// 100 to 599.
    pub status: u16,
    /// Of its body.
    pub framing: Framing,
}

/// Checks a complete response head; `to_head`: the request was HEAD.
///
/// # Errors
/// The first rule it breaks.
pub fn response(bytes: &[u8], to_head: bool, max_fields: usize) -> Result<ResponseHead, Violation> {
    let mut lines = Lines(bytes);
    let (minor, status) = status_line(lines.next().unwrap_or_default())?;
    let mut lengths = Lengths::default();
    let mut fields = 0;
    for line in &mut lines {
        let (name, value) = field(line)?;
        fields += 1;
        if fields > max_fields {
            return Err(Violation::TooManyFields);
        }
        lengths.read(name, value)?;
    }
    lines.end()?;
    if lengths.chunked && minor == 0 {
        return Err(Violation::TransferEncoding);
    }
    let framing = match status {
        // This gateway never asks for an upgrade.
        101 => return Err(Violation::UnaskedUpgrade),
        // RFC 9110 section 8.6 forbids the length as well, but `0` is common
        // and harmless.
        100..=199 | 204 => {
            if lengths.chunked || lengths.length.is_some_and(|length| length > 0) {
                return Err(Violation::BodyWhereNone);
            }
            Framing::None
        }
        304 if lengths.chunked => return Err(Violation::BodyWhereNone),
        // A length here is that of the answer to GET.
        304 => Framing::None,
        _ if to_head => Framing::None,
        _ => match lengths.length {
            _ if lengths.chunked => Framing::Chunked,
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        },
    };
    Ok(ResponseHead { status, framing })
}

/// Minor version and status of a status line, without its CRLF.
///
/// # Errors
/// The rule it breaks.
pub fn status_line(line: &[u8]) -> Result<(u8, u16), Violation> {
    let minor = match line.get(..9) {
        Some(b"HTTP/1.1 ") => 1,
        Some(b"HTTP/1.0 ") => 0,
        _ => return Err(Violation::Version),
    };
    let (code, reason) = line[9..].split_at_checked(3).ok_or(Violation::Status)?;
    if !(code.iter().all(u8::is_ascii_digit) && (b'1'..=b'5').contains(&code[0])) {
        return Err(Violation::Status);
    }
    if !(reason.is_empty() || reason[0] == b' ' && reason.iter().all(|&b| is_value_byte(b))) {
        return Err(Violation::StartLine);
    }
    let status = code.iter().fold(0, |sum, d| sum * 10 + u16::from(d - b'0'));
    Ok((minor, status))
}

/// Checks a trailer field line.
///
/// # Errors
/// When it is not a field, or one that must not be there (RFC 9110 section
/// 6.5.1).
pub fn trailer(line: &[u8]) -> Result<(), Violation> {
    let (name, _) = field(line).map_err(|_| Violation::Trailer)?;
    let forbidden = [
        &b"content-length"[..],
        b"transfer-encoding",
        b"host",
        b"connection",
        b"te",
        b"trailer",
        b"upgrade",
        b"authorization",
        b"content-encoding",
        b"content-type",
        b"content-range",
        b"cookie",
        b"set-cookie",
    ];
    if forbidden
        .iter()
        .any(|field| name.eq_ignore_ascii_case(field))
    {
        return Err(Violation::Trailer);
    }
    Ok(())
}

/// Checks a request as HTTP/2 gives it. The connection has already checked the
/// framing, pseudo-header fields and lengths (RFC 9113 section 8).
///
/// # Errors
/// The first rule it breaks.
pub fn http2_request(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Violation> {
    if method == Method::CONNECT {
        return Err(Violation::Connect);
    }
    let authority = uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().map(|host| host.as_bytes());
    if hosts.next().is_some() {
        return Err(Violation::HostRepeated);
    }
    match authority.or(host) {
        None => return Err(Violation::HostMissing),
        Some(name) if !is_host(name) => return Err(Violation::HostSyntax),
        Some(_) => {}
    }
    if let (Some(authority), Some(host)) = (authority, host)
        && !authority.eq_ignore_ascii_case(host)
    {
        return Err(Violation::HostDiffers);
    }
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    target_authority(method.as_str().as_bytes(), target.as_bytes())?;
    if !(target.starts_with('/') || target == "*") {
        return Err(Violation::Target);
    }
    let connection_fields = [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    if connection_fields
        .iter()
        .any(|name| headers.contains_key(name))
    {
        return Err(Violation::ConnectionField);
    }
    let mut lengths = Lengths::default();
    for value in headers.get_all(header::CONTENT_LENGTH) {
        lengths.read(b"content-length", value.as_bytes())?;
    }
    Ok(())
}

/// What the fields say about the length of the body.
#[derive(Default)]
struct Lengths {
    length: Option<u64>,
    chunked: bool,
}

impl Lengths {
    fn read(&mut self, name: &[u8], value: &[u8]) -> Result<(), Violation> {
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() {
                return Err(Violation::RepeatedContentLength);
            }
            if !(1..=18).contains(&value.len()) || !value.iter().all(u8::is_ascii_digit) {
                return Err(Violation::ContentLength);
            }
            self.length = Some(
                value
                    .iter()
                    .fold(0, |sum, d| sum * 10 + u64::from(d - b'0')),
            );
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked {
                return Err(Violation::RepeatedTransferEncoding);
            }
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Violation::TransferEncoding);
            }
            self.chunked = true;
        }
        if self.chunked && self.length.is_some() {
            return Err(Violation::LengthAndEncoding);
        }
        Ok(())
    }
}

/// Name and value of a field line.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Violation::Folded);
    }
    let colon = line
        .iter()
        .position(|&b| b == b':')
        .ok_or(Violation::FieldName)?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if !is_token(name) {
        return Err(Violation::FieldName);
    }
    // The raw value: trimming must not hide a control byte at its ends.
    if !line[colon + 1..].iter().all(|&b| is_value_byte(b)) {
        return Err(Violation::FieldValue);
    }
    Ok((name, value))
}

/// Lines up to, and without, the empty one that ends a head or a trailer
/// section.
pub struct Lines<'b>(pub &'b [u8]);

impl Lines<'_> {
    /// Fails unless everything up to the empty line was lines in CRLF, and
    /// nothing follows it.
    fn end(&self) -> Result<(), Violation> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Violation::BareLineFeed)
        }
    }
}

impl<'b> Iterator for Lines<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        let feed = self.0.iter().position(|&b| b == b'\n')?;
        let line = self.0[..feed].strip_suffix(b"\r")?;
        self.0 = &self.0[feed + 1..];
        (!line.is_empty()).then_some(line)
    }
}

/// RFC 9110 section 5.6.2.
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&b| is_token_byte(b))
}

/// A byte of a token.
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 9110 section 5.5.
fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
