// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Streams of messages, whole and cut at every byte.

use super::{Framer, Side, Step};
use crate::http::validate::Violation as V;

/// Follows a stream that arrives in pieces: the heads and what passed, up to
/// the first violation.
fn follow(side: Side, pieces: &[&[u8]]) -> (Vec<String>, Vec<u8>, Option<V>) {
    let mut framer = Framer::new(side, 1024, 16);
    let (mut heads, mut passed, mut held) = (Vec::new(), Vec::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        loop {
            match framer.step(&held) {
                Ok(Step::More) => break,
                Ok(Step::Skip(n)) => drop(held.drain(..n)),
                Ok(Step::Head(n)) => {
                    let head: Vec<u8> = held.drain(..n).collect();
                    let line = head.split(|&b| b == b'\r').next().unwrap_or_default();
                    heads.push(String::from_utf8_lossy(line).into_owned());
                    passed.extend(head);
                }
                Ok(Step::Body(n)) => passed.extend(held.drain(..n)),
                Err(violation) => return (heads, passed, Some(violation)),
            }
        }
    }
    (heads, passed, None)
}

const STREAM: &str = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\
    \r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nGET / HTTP/\
    POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
    5\r\nhello\r\nB;ext=\"1\"\r\n\r\n\r\n0\r\n\r\n,,\r\n0\r\nX-Sum: 1\r\nX-Other: 2\r\n\r\n\
    POST /4 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n000\r\n\r\n\
    GET /5 HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_stream_reads_the_same_at_every_split() {
    let expected = ["/1", "/2", "/3", "/4", "/5"];
    let check = |pieces: &[&[u8]], what: String| {
        let (heads, passed, violation) = follow(Side::Request, pieces);
        assert_eq!(violation, None, "{what}");
        let targets: Vec<_> = heads.iter().filter_map(|h| h.split(' ').nth(1)).collect();
        assert_eq!(targets, expected, "{what}");
        assert_eq!(
            passed.len(),
            STREAM.len() - 2,
            "all but the empty line, {what}"
        );
    };
    let bytes = STREAM.as_bytes();
    for at in 0..=bytes.len() {
        let (a, b) = bytes.split_at(at);
        check(&[a, b], format!("cut at {at}"));
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    check(&single, "one byte at a time".to_owned());
}

#[test]
fn a_violation_is_found_at_every_split() {
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = "0".repeat(16);
    let extension = "e".repeat(300);
    let trailers = "X: y\r\n".repeat(20);
    let cases = [
        (format!("{chunked}5\r\nhelloX"), V::ChunkEnd),
        (format!("{chunked}5\r\nhello\n"), V::ChunkEnd),
        (format!("{chunked}5\r\nhello\rX"), V::ChunkEnd),
        (format!("{chunked}5\nhello"), V::ChunkSize),
        (format!("{chunked}5 \r\nhello"), V::ChunkSize),
        (format!("{chunked} 5\r\nhello"), V::ChunkSize),
        (format!("{chunked}0x5\r\nhello"), V::ChunkSize),
        (format!("{chunked}-1\r\n"), V::ChunkSize),
        (format!("{chunked}\r\n"), V::ChunkSize),
        (format!("{chunked};a\r\n"), V::ChunkSize),
        (format!("{chunked}g\r\n"), V::ChunkSize),
        (format!("{chunked}{long}\r\n"), V::ChunkSize),
        (format!("{chunked}5\rhello"), V::ChunkSize),
        (format!("{chunked}5;{extension}\r\n"), V::ChunkExtension),
        (format!("{chunked}5;a\nb"), V::ChunkExtension),
        (format!("{chunked}5;a\0b"), V::ChunkExtension),
        (format!("{chunked}0\r\nX: y\nZ: a\r\n\r\n"), V::BareLineFeed),
        (format!("{chunked}0\r\nX : y\r\n\r\n"), V::Trailer),
        (format!("{chunked}0\r\n X: y\r\n\r\n"), V::Trailer),
        (
            format!("{chunked}0\r\nContent-Length: 4\r\n\r\n"),
            V::Trailer,
        ),
        (
            format!("{chunked}0\r\ntransfer-encoding: chunked\r\n\r\n"),
            V::Trailer,
        ),
        (format!("{chunked}0\r\n{trailers}\r\n"), V::TooManyFields),
        ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), V::BareLineFeed),
        (
            "GET / HTTP/1.1\r\nHost: a\n\r\n".to_owned(),
            V::BareLineFeed,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(),
            V::BareLineFeed,
        ),
        ("GET /\r\n".to_owned(), V::StartLine),
        ("\n".to_owned(), V::BareLineFeed),
        ("\r\n\r\nGET / HTTP/1.1\r\n".to_owned(), V::StartLine),
        ("\u{16}\u{3}\u{1}".to_owned(), V::Method),
        (
            format!("GET /{} HTTP/1.1\r\n", "a".repeat(1024)),
            V::HeadTooLarge,
        ),
        (
            format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(1024)),
            V::HeadTooLarge,
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\n{trailers}\r\n"),
            V::TooManyFields,
        ),
    ];
    for (stream, expected) in cases {
        let bytes = stream.as_bytes();
        for at in 0..bytes.len() {
            let (a, b) = bytes.split_at(at);
            let (_, _, violation) = follow(Side::Request, &[a, b]);
            assert_eq!(violation, Some(expected), "{stream:?} cut at {at}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        let (_, _, violation) = follow(Side::Request, &single);
        assert_eq!(violation, Some(expected), "{stream:?}");
    }
}

#[test]
fn requests_in_front_of_a_violation_pass() {
    let stream =
        b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3\r\n\r\n";
    let (heads, _, violation) = follow(Side::Request, &[stream]);
    assert_eq!(heads.len(), 2);
    assert_eq!(violation, Some(V::StartLine));
}

#[test]
fn interim_responses_do_not_end_an_answer() {
    let mut framer = Framer::new(Side::Response, 1024, 16);
    let interim = b"HTTP/1.1 103 Early Hints\r\n\r\n";
    let last = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
    assert_eq!(framer.step(interim), Ok(Step::Head(interim.len())));
    assert!(framer.at_head() && !framer.between_messages());
    assert_eq!(framer.step(last), Ok(Step::Head(last.len())));
    assert_eq!(framer.step(b"okHTTP"), Ok(Step::Body(2)));
    assert!(framer.between_messages());
}

#[test]
fn a_body_after_a_response_without_one_is_refused() {
    for head in [
        "HTTP/1.1 204 No\r\n\r\n",
        "HTTP/1.1 304 No\r\nContent-Length: 3\r\n\r\n",
    ] {
        let (_, _, violation) = follow(Side::Response, &[format!("{head}abc").as_bytes()]);
        assert_eq!(violation, Some(V::BodyWhereNone), "{head}");
    }
    let mut framer = Framer::new(Side::Response, 1024, 16);
    framer.to_head = true;
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(framer.step(answer), Err(V::BodyWhereNone));
}
