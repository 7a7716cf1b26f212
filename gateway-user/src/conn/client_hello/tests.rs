// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Real hellos, every way to cut them, and what is not one.

use std::{io::Read, sync::Arc};

use proptest::prelude::*;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName,
    server::Acceptor,
};

use super::{DEFAULT_MAX_LEN, Hello, HelloReader, LARGEST_MAX_LEN, Outcome, parse};

/// A ClientHello of rustls, as sent.
fn rustls_hello(name: &str, alpn: &[&str], post_quantum: bool) -> Vec<u8> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = if post_quantum {
        vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
        ]
    } else {
        vec![aws_lc_rs::kx_group::X25519]
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a connection");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("a hello");
    bytes
}

/// Captured from `openssl s_client -servername captured.example.com -alpn
/// h2,http/1.1` (OpenSSL 3.0).
fn openssl_hello() -> Vec<u8> {
    let digits: Vec<u8> = include_str!("openssl.hex")
        .bytes()
        .filter_map(|digit| (digit as char).to_digit(16).map(|digit| digit as u8))
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// One record around a ClientHello with these extensions.
fn built_hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0x13, 1, 1, 0]);
    let mut list = Vec::new();
    for (kind, content) in extensions {
        list.extend(kind.to_be_bytes());
        list.extend((content.len() as u16).to_be_bytes());
        list.extend(content);
    }
    body.extend((list.len() as u16).to_be_bytes());
    body.extend(list);
    in_records(&message(&body), 1 << 14)
}

fn message(body: &[u8]) -> Vec<u8> {
    let mut message = vec![1];
    message.extend(&(body.len() as u32).to_be_bytes()[1..]);
    message.extend(body);
    message
}

fn in_records(message: &[u8], len: usize) -> Vec<u8> {
    let mut records = Vec::new();
    for fragment in message.chunks(len) {
        records.extend([22, 3, 1]);
        records.extend((fragment.len() as u16).to_be_bytes());
        records.extend(fragment);
    }
    records
}

/// Name types and names of a server name extension.
type Names = &'static [(u8, &'static [u8])];

fn server_name(names: &[(u8, &[u8])]) -> (u16, Vec<u8>) {
    let mut list = Vec::new();
    for (kind, name) in names {
        list.push(*kind);
        list.extend((name.len() as u16).to_be_bytes());
        list.extend(*name);
    }
    let mut content = (list.len() as u16).to_be_bytes().to_vec();
    content.extend(list);
    (0, content)
}

fn sni(outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::Hello(hello) => hello.sni.as_deref(),
        other => panic!("{other:?}"),
    }
}

fn real_hellos() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "a.example.com",
            rustls_hello("a.example.com", &["h2", "http/1.1"], false),
        ),
        (
            "pq.example.com",
            rustls_hello("pq.example.com", &["mqtt"], true),
        ),
        ("captured.example.com", openssl_hello()),
    ]
}

#[test]
fn real_hellos_are_read() {
    let outcome = parse(&rustls_hello("A.Example.com", &["h2", "http/1.1"], false));
    let expected = Hello {
        sni: Some("a.example.com".into()),
        alpn: vec!["h2".into(), "http/1.1".into()],
        versions: vec![0x0304, 0x0303],
        ech: false,
    };
    assert_eq!(outcome, Outcome::Hello(expected.clone()));
    let captured = Hello {
        sni: Some("captured.example.com".into()),
        versions: vec![0x0304, 0x0303, 0x0302, 0x0301],
        ..expected
    };
    assert_eq!(parse(&openssl_hello()), Outcome::Hello(captured));
    assert!(rustls_hello("a.example.com", &[], true).len() > 1400);
    assert_eq!(sni(&parse(&rustls_hello("10.0.0.1", &[], false))), None);
}

#[test]
fn every_prefix_needs_more_and_then_nothing_changes() {
    for (name, hello) in real_hellos() {
        let mut reader = HelloReader::new(DEFAULT_MAX_LEN);
        for end in 0..hello.len() {
            assert_eq!(parse(&hello[..end]), Outcome::NeedMore, "{name} at {end}");
            assert_eq!(
                reader.read(&hello[..end]),
                Outcome::NeedMore,
                "{name} at {end}"
            );
        }
        let outcome = reader.read(&hello);
        assert_eq!(sni(&outcome), Some(name));
        let mut longer = hello;
        for byte in [0, 22, 23, 3, 255] {
            longer.push(byte);
            assert_eq!(parse(&longer), outcome, "{name} with what follows");
        }
    }
}

#[test]
fn any_split_into_records_reads_the_same() {
    for (name, hello) in real_hellos() {
        let whole = parse(&hello);
        let message = &hello[5..];
        for len in 1..message.len() {
            let mut split = in_records(&message[..len], 1 << 14);
            split.extend(in_records(&message[len..], 1 << 14));
            assert_eq!(parse(&split), whole, "{name} split at {len}");
        }
        for len in [1, 2, 3, 5, 100] {
            let split = in_records(message, len);
            assert_eq!(parse(&split), whole, "{name} in records of {len}");
            let mut reader = HelloReader::new(DEFAULT_MAX_LEN);
            for end in 0..split.len() {
                assert_eq!(
                    reader.read(&split[..end]),
                    Outcome::NeedMore,
                    "{name} at {end}"
                );
            }
            assert_eq!(reader.read(&split), whole);
        }
    }
}

#[test]
fn names_are_checked() {
    let cases: [(Names, Option<Option<&str>>); 14] = [
        (&[(0, b"A.Example.COM")], Some(Some("a.example.com"))),
        (
            &[(0, b"under_score.example")],
            Some(Some("under_score.example")),
        ),
        (
            &[(0, b"xn--bcher-kva.example")],
            Some(Some("xn--bcher-kva.example")),
        ),
        (&[(0, b"localhost")], Some(Some("localhost"))),
        (&[(0, b"192.0.2.1")], Some(None)),
        (&[(0, b"2001:db8::1")], Some(None)),
        (&[(0, b"")], None),
        (&[(0, b"a..b")], None),
        (&[(0, b"*.example.com")], None),
        (&[(0, b"a.example.com\0.evil")], None),
        (&[(0, b"a b")], None),
        (&[(0, &[0xff, 0xfe])], None),
        (&[(0, b"a.example"), (0, b"b.example")], None),
        (&[], None),
    ];
    for (names, expected) in cases {
        let expected = match expected {
            None => Outcome::Malformed,
            Some(sni) => Outcome::Hello(Hello {
                sni: sni.map(str::to_owned),
                versions: vec![0x0303],
                ..Hello::default()
            }),
        };
        assert_eq!(
            parse(&built_hello(&[server_name(names)])),
            expected,
            "{names:?}"
        );
    }
}

#[test]
fn extensions_that_break_the_protocol_are_malformed() {
    let name = || server_name(&[(0, b"a.example")]);
    let (_, mut cut) = name();
    cut[1] -= 1;
    let (_, mut long) = name();
    long.push(0);
    for (what, extensions) in [
        ("two server names", vec![name(), name()]),
        (
            "any extension twice",
            vec![(99, vec![]), name(), (99, vec![])],
        ),
        ("a list shorter than its names", vec![(0, cut)]),
        ("bytes after the list", vec![(0, long)]),
        ("an empty server name", vec![(0, vec![])]),
        ("an empty protocol list", vec![(16, vec![0, 0])]),
        ("an empty protocol", vec![(16, vec![0, 1, 0])]),
        ("half a version", vec![(43, vec![3, 3, 4, 3])]),
        ("no version", vec![(43, vec![0])]),
    ] {
        assert_eq!(
            parse(&built_hello(&extensions)),
            Outcome::Malformed,
            "{what}"
        );
    }
    let ech = parse(&built_hello(&[
        name(),
        (0xfe0d, vec![1, 2, 3]),
        (0x0a0a, vec![]),
    ]));
    assert!(
        matches!(ech, Outcome::Hello(Hello { ech: true, .. })),
        "{ech:?}"
    );
    let none = parse(&built_hello(&[]));
    assert_eq!(sni(&none), None);
}

#[test]
fn what_is_not_a_hello_is_told_at_its_first_wrong_byte() {
    let cases: [(&str, &[u8], Outcome); 14] = [
        ("nothing", b"", Outcome::NeedMore),
        ("http", b"G", Outcome::NotTls),
        ("mqtt connect", &[0x10, 0x10, 0, 4, b'M'], Outcome::NotTls),
        ("ssl 2", &[0x80, 0x2e, 1, 3, 1], Outcome::NotTls),
        ("an alert", &[21, 3, 3, 0, 2, 1, 0], Outcome::NotTls),
        ("another major version", &[22, 2], Outcome::NotTls),
        ("an empty record", &[22, 3, 1, 0, 0], Outcome::Malformed),
        (
            "a record too long",
            &[22, 3, 1, 0x40, 1],
            Outcome::Malformed,
        ),
        (
            "the longest record",
            &[22, 3, 1, 0x40, 0],
            Outcome::NeedMore,
        ),
        ("a server hello", &[22, 3, 1, 0, 4, 2], Outcome::Malformed),
        (
            "an alert inside",
            &[22, 3, 1, 0, 1, 1, 21],
            Outcome::Malformed,
        ),
        (
            "an empty record inside",
            &[22, 3, 1, 0, 1, 1, 22, 3, 1, 0, 0],
            Outcome::Malformed,
        ),
        (
            "an empty hello",
            &[22, 3, 1, 0, 4, 1, 0, 0, 0],
            Outcome::Malformed,
        ),
        (
            "70 kB",
            &[22, 3, 1, 0x40, 0, 1, 1, 0x11, 0x70],
            Outcome::TooLarge,
        ),
    ];
    for (what, bytes, expected) in cases {
        assert_eq!(parse(bytes), expected, "{what}");
    }
}

#[test]
fn the_limit_is_of_the_message_and_is_inclusive() {
    let padding = |len| built_hello(&[server_name(&[(0, b"a.example")]), (21, vec![0; len])]);
    let body = |hello: &[u8]| usize::from(hello[7]) << 8 | usize::from(hello[8]);
    let hello = padding(15_000);
    let len = body(&hello);
    assert!(matches!(
        HelloReader::new(len).read(&hello),
        Outcome::Hello(_)
    ));
    assert_eq!(HelloReader::new(len - 1).read(&hello), Outcome::TooLarge);
    // Over one record, up to the largest limit, and capped there.
    let mut body = vec![3, 3];
    body.extend([0; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    let fill = LARGEST_MAX_LEN - body.len() - 6;
    body.extend((fill as u16 + 4).to_be_bytes());
    body.extend([0, 21]);
    body.extend((fill as u16).to_be_bytes());
    body.extend(vec![0; fill]);
    assert_eq!(body.len(), LARGEST_MAX_LEN);
    let hello = in_records(&message(&body), 1 << 14);
    assert!(matches!(
        HelloReader::new(usize::MAX).read(&hello),
        Outcome::Hello(_)
    ));
    body.push(0);
    let hello = in_records(&message(&body), 1 << 14);
    assert_eq!(HelloReader::new(usize::MAX).read(&hello), Outcome::TooLarge);
}

/// What rustls makes of the same bytes: None when it refuses or waits.
fn rustls_sni(mut bytes: &[u8]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes.by_ref()).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            let name = accepted.client_hello().server_name().map(str::to_owned);
            return Some(name);
        }
    }
    None
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = parse(&bytes);
        let mut framed = vec![22, 3, 1];
        framed.extend((bytes.len() as u16).to_be_bytes());
        framed.extend(&bytes);
        let _ = parse(&framed);
        let _ = parse(&in_records(&message(&bytes), 7));
        let mut known = vec![0x03, 0x03];
        known.extend([0; 32]);
        known.extend([0, 0, 2, 0x13, 1, 1, 0]);
        known.extend((bytes.len() as u16).to_be_bytes());
        known.extend(&bytes);
        let _ = parse(&in_records(&message(&known), 1 << 14));
        for kind in [0, 16, 43] {
            let _ = parse(&built_hello(&[(kind, bytes.clone())]));
        }
    }

    #[test]
    fn pieces_read_as_the_whole(
        flips in prop::collection::vec((0_usize..2000, any::<u8>()), 0..3),
        cuts in prop::collection::vec(0_usize..2000, 0..8),
        post_quantum: bool,
    ) {
        let mut hello = rustls_hello("a.example.com", &["h2"], post_quantum);
        for (at, byte) in flips {
            let at = at % hello.len();
            hello[at] = byte;
        }
        let whole = parse(&hello);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % hello.len()).collect();
        cuts.push(hello.len());
        cuts.sort_unstable();
        let mut reader = HelloReader::new(DEFAULT_MAX_LEN);
        let outcome = cuts
            .iter()
            .map(|&cut| reader.read(&hello[..cut]))
            .find(|outcome| *outcome != Outcome::NeedMore)
            .unwrap_or(Outcome::NeedMore);
        prop_assert_eq!(outcome, whole);
    }

    #[test]
    fn rustls_reads_the_same_name(
        flips in prop::collection::vec((0_usize..2000, any::<u8>()), 0..3),
        label in "[a-zA-Z0-9_-]{1,20}",
    ) {
        prop_assume!(ServerName::try_from(format!("{label}.example.com")).is_ok());
        let mut hello = rustls_hello(&format!("{label}.example.com"), &["h2"], false);
        for (at, byte) in flips {
            let at = at % hello.len();
            hello[at] = byte;
        }
        if let (Outcome::Hello(ours), Some(theirs)) = (parse(&hello), rustls_sni(&hello)) {
            prop_assert_eq!(ours.sni, theirs.map(|name| name.to_ascii_lowercase()));
        }
    }
}
