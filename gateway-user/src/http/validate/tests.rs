// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The verdict on each of a table of heads.

use http::{HeaderMap, Method, Uri};

use super::{Framing, ResponseHead, Violation as V, http2_request, request, response};

/// In the tables a head is one line; `|` stands for CRLF, and the final empty
/// line is added.
fn head(text: &str) -> Vec<u8> {
    format!("{text}||").replace('|', "\r\n").into_bytes()
}

const NONE: Framing = Framing::None;
const CHUNKED: Framing = Framing::Chunked;

/// What httparse makes of a head that passed, for comparison: hyper reads it
/// by the same parser.
fn parses_alike(bytes: &[u8]) -> bool {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Request::new(&mut fields);
    let lines = bytes.split(|&b| b == b'\n').count() - 3;
    parsed.parse(bytes) == Ok(httparse::Status::Complete(bytes.len()))
        && parsed.headers.len() == lines
}

#[test]
fn request_heads_that_pass() {
    let cases: &[(&str, Framing)] = &[
        ("GET / HTTP/1.1|Host: a.com", NONE),
        ("GET /a/b?c=d&e=%20 HTTP/1.1|Host: a.com", NONE),
        ("GET /?q={a}[b]\"'~^ HTTP/1.1|Host: a.com", NONE),
        ("GET /a HTTP/1.1|Host: a.com:8080", NONE),
        ("GET /a HTTP/1.1|host:a.com", NONE),
        ("GET /a HTTP/1.1|HOST:   a.com  ", NONE),
        ("GET /a HTTP/1.1|Host:\ta.com\t", NONE),
        ("GET /a HTTP/1.1|Host: A.Com.", NONE),
        ("GET /a HTTP/1.1|Host: 10.0.0.1", NONE),
        ("GET /a HTTP/1.1|Host: [::1]:80", NONE),
        ("GET /a HTTP/1.1|Host: my_host", NONE),
        ("OPTIONS * HTTP/1.1|Host: a.com", NONE),
        ("PURGE /a HTTP/1.1|Host: a.com", NONE),
        ("M-SEARCH /a HTTP/1.1|Host: a.com", NONE),
        ("GET /a HTTP/1.0|Host: a.com", NONE),
        ("GET /a HTTP/1.0", NONE),
        ("GET http://a.com/x HTTP/1.1|Host: a.com", NONE),
        ("GET http://a.com HTTP/1.1|Host: a.com", NONE),
        ("GET http://a.com?x HTTP/1.1|Host: a.com", NONE),
        ("GET http://A.com:80/x HTTP/1.1|Host: a.COM", NONE),
        ("GET https://a.com/x HTTP/1.1|Host: a.com:443", NONE),
        ("GET HTTP://a.com:81/x HTTP/1.1|Host: a.com:81", NONE),
        ("GET /a HTTP/1.1|Host: a|X: ", NONE),
        ("GET /a HTTP/1.1|Host: a|X:", NONE),
        ("GET /a HTTP/1.1|Host: a|X: a\tb c", NONE),
        ("GET /a HTTP/1.1|Host: a|X: ü", NONE),
        ("GET /a HTTP/1.1|Host: a|X: 1|X: 2", NONE),
        ("GET /a HTTP/1.1|Host: a|!#$%&'*+-.^_`~: token", NONE),
        ("GET /a HTTP/1.1|Host: a|X: a:b:c", NONE),
        ("GET /a HTTP/1.1|Host: a|Connection: close", NONE),
        ("GET /a HTTP/1.1|Host: a|Content-Length: 0", NONE),
        (
            "POST /a HTTP/1.1|Host: a|Content-Length: 5",
            Framing::Length(5),
        ),
        (
            "POST /a HTTP/1.1|Host: a|content-length:  007",
            Framing::Length(7),
        ),
        (
            "POST /a HTTP/1.1|Host: a|Content-Length: 999999999999999999",
            Framing::Length(999_999_999_999_999_999),
        ),
        ("POST /a HTTP/1.0|Content-Length: 5", Framing::Length(5)),
        (
            "POST /a HTTP/1.1|Host: a|Transfer-Encoding: chunked",
            CHUNKED,
        ),
        (
            "POST /a HTTP/1.1|Host: a|transfer-encoding: CHUNKED",
            CHUNKED,
        ),
        (
            "GET /a HTTP/1.1|Host: a|Transfer-Encoding: chunked",
            CHUNKED,
        ),
        (
            "GET /a HTTP/1.1|Host: a|Upgrade: websocket|Connection: upgrade",
            NONE,
        ),
        ("GET /a HTTP/1.1|Host: a|Content_Length: 5", NONE),
        ("GET /a HTTP/1.1|Host: a|X-Content-Length: 5", NONE),
    ];
    for &(text, framing) in cases {
        let bytes = head(text);
        assert_eq!(request(&bytes, 64), Ok(framing), "{text}");
        assert!(parses_alike(&bytes), "{text}");
    }
}

#[test]
fn request_heads_that_are_refused() {
    let cases: &[(&str, V)] = &[
        // Start line.
        ("GET /", V::StartLine),
        ("GET", V::StartLine),
        ("GET  / HTTP/1.1|Host: a", V::StartLine),
        ("GET /  HTTP/1.1|Host: a", V::StartLine),
        ("GET / HTTP/1.1 |Host: a", V::StartLine),
        (" GET / HTTP/1.1|Host: a", V::StartLine),
        ("GET /a b HTTP/1.1|Host: a", V::StartLine),
        ("GET\t/ HTTP/1.1|Host: a", V::StartLine),
        ("GET / HTTP/1.2|Host: a", V::Version),
        ("GET / HTTP/2.0|Host: a", V::Version),
        ("GET / HTTP/0.9|Host: a", V::Version),
        ("GET / HTTP/1.10|Host: a", V::Version),
        ("GET / HTTP/01.1|Host: a", V::Version),
        ("GET / http/1.1|Host: a", V::Version),
        ("GET / HTTPS/1.1|Host: a", V::Version),
        ("PRI * HTTP/2.0", V::Version),
        // Method.
        ("G(T / HTTP/1.1|Host: a", V::Method),
        ("G\u{e9}T / HTTP/1.1|Host: a", V::Method),
        ("G:T / HTTP/1.1|Host: a", V::Method),
        ("\"GET\" / HTTP/1.1|Host: a", V::Method),
        ("G\0T / HTTP/1.1|Host: a", V::Method),
        ("CONNECT a.com:443 HTTP/1.1|Host: a.com", V::Connect),
        ("CONNECT / HTTP/1.1|Host: a.com", V::Connect),
        // Target.
        ("GET a HTTP/1.1|Host: a", V::Target),
        ("GET * HTTP/1.1|Host: a", V::Target),
        ("GET a.com:80 HTTP/1.1|Host: a", V::Target),
        ("GET /a#b HTTP/1.1|Host: a", V::Target),
        ("GET /a\\b HTTP/1.1|Host: a", V::Target),
        ("GET /a<b> HTTP/1.1|Host: a", V::Target),
        ("GET /a`b HTTP/1.1|Host: a", V::Target),
        ("GET /a\0 HTTP/1.1|Host: a", V::Target),
        ("GET /a\u{1} HTTP/1.1|Host: a", V::Target),
        ("GET /a\u{7f} HTTP/1.1|Host: a", V::Target),
        ("GET /a\tb HTTP/1.1|Host: a", V::Target),
        ("GET /ü HTTP/1.1|Host: a", V::Target),
        ("GET ftp://a/ HTTP/1.1|Host: a", V::Target),
        ("GET http:/a HTTP/1.1|Host: a", V::Target),
        ("GET ?a HTTP/1.1|Host: a", V::Target),
        ("GET http:///a HTTP/1.1|Host: a", V::HostSyntax),
        ("GET http://u@a/ HTTP/1.1|Host: a", V::HostSyntax),
        ("GET http://a:x/ HTTP/1.1|Host: a", V::HostSyntax),
        ("GET http://a/ HTTP/1.1|Host: b", V::HostDiffers),
        ("GET http://a:81/ HTTP/1.1|Host: a", V::HostDiffers),
        ("GET http://a:443/ HTTP/1.1|Host: a", V::HostDiffers),
        // Host.
        ("GET / HTTP/1.1", V::HostMissing),
        ("GET / HTTP/1.1|X-Host: a", V::HostMissing),
        ("GET / HTTP/1.1|Host: a|Host: a", V::HostRepeated),
        ("GET / HTTP/1.1|Host: a|HOST: b", V::HostRepeated),
        ("GET / HTTP/1.0|Host: a|Host: b", V::HostRepeated),
        ("GET / HTTP/1.1|Host:", V::HostSyntax),
        ("GET / HTTP/1.1|Host: a b", V::HostSyntax),
        ("GET / HTTP/1.1|Host: a,b", V::HostSyntax),
        ("GET / HTTP/1.1|Host: a/b", V::HostSyntax),
        ("GET / HTTP/1.1|Host: u@a", V::HostSyntax),
        ("GET / HTTP/1.1|Host: a:", V::HostSyntax),
        ("GET / HTTP/1.1|Host: a:b", V::HostSyntax),
        ("GET / HTTP/1.1|Host: a:70000", V::HostSyntax),
        ("GET / HTTP/1.1|Host: a:1:2", V::HostSyntax),
        ("GET / HTTP/1.1|Host: .a", V::HostSyntax),
        ("GET / HTTP/1.1|Host: a..b", V::HostSyntax),
        ("GET / HTTP/1.1|Host: [::1", V::HostSyntax),
        ("GET / HTTP/1.1|Host: [a]", V::HostSyntax),
        ("GET / HTTP/1.1|Host: [::1]x", V::HostSyntax),
        ("GET / HTTP/1.1|Host: ü.com", V::HostSyntax),
        ("GET / HTTP/1.1|Host: a%2ecom", V::HostSyntax),
        ("GET / HTTP/1.0|Host: a b", V::HostSyntax),
        // Fields.
        ("GET / HTTP/1.1|Host : a", V::FieldName),
        ("GET / HTTP/1.1|Host: a|X\t: b", V::FieldName),
        ("GET / HTTP/1.1|Host: a|X b: c", V::FieldName),
        ("GET / HTTP/1.1|Host: a|: b", V::FieldName),
        ("GET / HTTP/1.1|Host: a|X", V::FieldName),
        ("GET / HTTP/1.1|Host: a|X(y): b", V::FieldName),
        ("GET / HTTP/1.1|Host: a|X\0: b", V::FieldName),
        ("GET / HTTP/1.1|Host: a|Ü: b", V::FieldName),
        ("GET / HTTP/1.1|Host: a|X: b| c", V::Folded),
        ("GET / HTTP/1.1|Host: a|X: b|\tc", V::Folded),
        ("GET / HTTP/1.1| Host: a", V::Folded),
        ("GET / HTTP/1.1|Host: a|X: b\0c", V::FieldValue),
        ("GET / HTTP/1.1|Host: a|X: b\rc", V::FieldValue),
        ("GET / HTTP/1.1|Host: a|X: b\r", V::FieldValue),
        ("GET / HTTP/1.1|Host: a|X: b\u{7}", V::FieldValue),
        ("GET / HTTP/1.1|Host: a|X: \u{7f}", V::FieldValue),
        ("GET / HTTP/1.1|Host: a|X: b\u{c}", V::FieldValue),
        ("GET / HTTP/1.1|Host: a\r", V::FieldValue),
        // Lengths.
        (
            "POST / HTTP/1.1|Host: a|Content-Length: +1",
            V::ContentLength,
        ),
        (
            "POST / HTTP/1.1|Host: a|Content-Length: -1",
            V::ContentLength,
        ),
        (
            "POST / HTTP/1.1|Host: a|Content-Length: 1,1",
            V::ContentLength,
        ),
        (
            "POST / HTTP/1.1|Host: a|Content-Length: 1, 1",
            V::ContentLength,
        ),
        (
            "POST / HTTP/1.1|Host: a|Content-Length: 1 1",
            V::ContentLength,
        ),
        (
            "POST / HTTP/1.1|Host: a|Content-Length: 0x1",
            V::ContentLength,
        ),
        (
            "POST / HTTP/1.1|Host: a|Content-Length: 1.0",
            V::ContentLength,
        ),
        ("POST / HTTP/1.1|Host: a|Content-Length:", V::ContentLength),
        (
            "POST / HTTP/1.1|Host: a|Content-Length: a",
            V::ContentLength,
        ),
        (
            "POST / HTTP/1.1|Host: a|Content-Length: 1000000000000000000",
            V::ContentLength,
        ),
        (
            "POST / HTTP/1.1|Host: a|Content-Length: 0000000000000000001",
            V::ContentLength,
        ),
        (
            "POST / HTTP/1.1|Host: a|Content-Length: 5|Content-Length: 5",
            V::RepeatedContentLength,
        ),
        (
            "POST / HTTP/1.1|Host: a|Content-Length: 5|content-length: 6",
            V::RepeatedContentLength,
        ),
        (
            "GET / HTTP/1.1|Host: a|Content-Length: 0|Content-Length: 0",
            V::RepeatedContentLength,
        ),
        (
            "POST / HTTP/1.1|Host: a|Content-Length: 5|Transfer-Encoding: chunked",
            V::LengthAndEncoding,
        ),
        (
            "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked|Content-Length: 5",
            V::LengthAndEncoding,
        ),
        (
            "POST / HTTP/1.1|Host: a|Transfer-Encoding: xchunked",
            V::TransferEncoding,
        ),
        (
            "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked,",
            V::TransferEncoding,
        ),
        (
            "POST / HTTP/1.1|Host: a|Transfer-Encoding: gzip, chunked",
            V::TransferEncoding,
        ),
        (
            "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked, chunked",
            V::TransferEncoding,
        ),
        (
            "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked;a=b",
            V::TransferEncoding,
        ),
        (
            "POST / HTTP/1.1|Host: a|Transfer-Encoding: identity",
            V::TransferEncoding,
        ),
        (
            "POST / HTTP/1.1|Host: a|Transfer-Encoding: \"chunked\"",
            V::TransferEncoding,
        ),
        (
            "POST / HTTP/1.1|Host: a|Transfer-Encoding:",
            V::TransferEncoding,
        ),
        (
            "POST / HTTP/1.1|Host: a|Transfer-Encoding: \u{b}chunked",
            V::FieldValue,
        ),
        (
            "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked|Transfer-Encoding: chunked",
            V::RepeatedTransferEncoding,
        ),
        (
            "POST / HTTP/1.0|Transfer-Encoding: chunked",
            V::TransferEncoding,
        ),
        (
            "POST / HTTP/1.1|Host: a|Content-Length : 5|Transfer-Encoding: chunked",
            V::FieldName,
        ),
    ];
    for (text, violation) in cases {
        assert_eq!(request(&head(text), 64), Err(*violation), "{text:?}");
    }
}

#[test]
fn fields_are_counted() {
    let with = |n: usize| head(&format!("GET / HTTP/1.1|Host: a{}", "|X: b".repeat(n - 1)));
    assert_eq!(request(&with(8), 8), Ok(NONE));
    assert_eq!(request(&with(9), 8), Err(V::TooManyFields));
}

#[test]
fn response_heads() {
    let ok = |status, framing| Ok(ResponseHead { status, framing });
    let cases = [
        ("HTTP/1.1 200 OK", ok(200, Framing::UntilClose)),
        ("HTTP/1.1 200", ok(200, Framing::UntilClose)),
        ("HTTP/1.1 200 ", ok(200, Framing::UntilClose)),
        ("HTTP/1.0 200 Fine by me", ok(200, Framing::UntilClose)),
        ("HTTP/1.1 200 OK|Content-Length: 0", ok(200, NONE)),
        (
            "HTTP/1.1 200 OK|Content-Length: 7",
            ok(200, Framing::Length(7)),
        ),
        (
            "HTTP/1.1 200 OK|Transfer-Encoding: chunked",
            ok(200, CHUNKED),
        ),
        ("HTTP/1.1 204 No Content", ok(204, NONE)),
        ("HTTP/1.1 204 No Content|Content-Length: 0", ok(204, NONE)),
        ("HTTP/1.1 304 Not Modified|Content-Length: 9", ok(304, NONE)),
        ("HTTP/1.1 100 Continue", ok(100, NONE)),
        ("HTTP/1.1 103 Early Hints|Link: </a>", ok(103, NONE)),
        (
            "HTTP/1.1 101 Switching Protocols|Upgrade: x",
            Err(V::UnaskedUpgrade),
        ),
        ("HTTP/1.1 204 No|Content-Length: 4", Err(V::BodyWhereNone)),
        (
            "HTTP/1.1 204 No|Transfer-Encoding: chunked",
            Err(V::BodyWhereNone),
        ),
        (
            "HTTP/1.1 304 No|Transfer-Encoding: chunked",
            Err(V::BodyWhereNone),
        ),
        ("HTTP/1.1 100 Go|Content-Length: 4", Err(V::BodyWhereNone)),
        (
            "HTTP/1.1 200 OK|Content-Length: 7|Content-Length: 7",
            Err(V::RepeatedContentLength),
        ),
        (
            "HTTP/1.1 200 OK|Content-Length: 7|Transfer-Encoding: chunked",
            Err(V::LengthAndEncoding),
        ),
        (
            "HTTP/1.1 200 OK|Transfer-Encoding: gzip, chunked",
            Err(V::TransferEncoding),
        ),
        (
            "HTTP/1.0 200 OK|Transfer-Encoding: chunked",
            Err(V::TransferEncoding),
        ),
        ("HTTP/1.1 200 OK|Content-Length: 7,7", Err(V::ContentLength)),
        ("HTTP/1.1 200 OK|X: a| b", Err(V::Folded)),
        ("HTTP/1.1 200 OK|X : a", Err(V::FieldName)),
        ("HTTP/1.1 200 OK|X: a\0", Err(V::FieldValue)),
        ("HTTP/1.1 20 OK", Err(V::Status)),
        ("HTTP/1.1 099 Low", Err(V::Status)),
        ("HTTP/1.1 600 High", Err(V::Status)),
        ("HTTP/1.1 2000 Long", Err(V::StartLine)),
        ("HTTP/1.1  200 OK", Err(V::Status)),
        ("HTTP/2 200", Err(V::Version)),
        ("HTTP/1.1 200 O\0K", Err(V::StartLine)),
        ("ICY 200 OK", Err(V::Version)),
    ];
    for (text, expected) in cases {
        assert_eq!(response(&head(text), false, 64), expected, "{text:?}");
    }
    assert_eq!(
        response(&head("HTTP/1.1 200 OK|Content-Length: 7"), true, 64),
        ok(200, NONE),
        "the answer to HEAD has no body"
    );
}

#[test]
fn http2_requests() {
    let fields = |list: &[(&'static str, &'static str)]| -> HeaderMap {
        list.iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    http::HeaderValue::from_static(value),
                )
            })
            .collect()
    };
    let cases = [
        (Method::GET, "https://a.com/x", vec![], Ok(())),
        (
            Method::GET,
            "https://a.com/x",
            vec![("host", "A.com")],
            Ok(()),
        ),
        (Method::GET, "/x", vec![("host", "a.com")], Ok(())),
        (Method::OPTIONS, "*", vec![("host", "a.com")], Ok(())),
        (
            Method::GET,
            "https://a.com/x",
            vec![("host", "b.com")],
            Err(V::HostDiffers),
        ),
        (Method::GET, "/x", vec![], Err(V::HostMissing)),
        (
            Method::GET,
            "/x",
            vec![("host", "a"), ("host", "a")],
            Err(V::HostRepeated),
        ),
        (Method::GET, "https://u@a.com/x", vec![], Err(V::HostSyntax)),
        (Method::CONNECT, "a.com:443", vec![], Err(V::Connect)),
        (
            Method::GET,
            "https://a/x",
            vec![("connection", "close")],
            Err(V::ConnectionField),
        ),
        (
            Method::POST,
            "https://a/x",
            vec![("transfer-encoding", "chunked")],
            Err(V::ConnectionField),
        ),
        (
            Method::POST,
            "https://a/x",
            vec![("content-length", "+1")],
            Err(V::ContentLength),
        ),
        (
            Method::POST,
            "https://a/x",
            vec![("content-length", "1"), ("content-length", "1")],
            Err(V::RepeatedContentLength),
        ),
    ];
    for (method, uri, list, expected) in cases {
        let uri: Uri = uri.parse().expect("a URI");
        let headers = fields(&list);
        assert_eq!(
            http2_request(&method, &uri, &headers),
            expected,
            "{uri} {list:?}"
        );
    }
}

#[test]
fn every_target_that_passes_is_a_uri() {
    for byte in 0..=255_u8 {
        let head = [b"GET /", &[byte][..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        if request(&head, 64).is_ok() {
            let target = [b'/', byte];
            let uri = Uri::try_from(&target[..]).expect("hyper takes it as well");
            assert_eq!(uri.to_string().as_bytes(), target, "and keeps it");
        }
    }
}
