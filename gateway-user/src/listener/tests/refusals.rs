// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bad input: refused within the deadline with a counted reason, unnoticed by
//! other connections.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Gateway, PATIENCE, Port, backend, chain, echo, expect_reset, read_name, round_trip, soon, to,
    wait_until,
};
use crate::{
    conn::limits::ConnectionLimits,
    listener::WorkerOptions,
    snapshot::{ChainAction, ListenerTable, SniTable},
    telemetry::access::{CloseReason, Mode},
    tls::tests::ca::Ca,
};

const HELLO_TIMEOUT: Duration = Duration::from_millis(500);

fn options() -> WorkerOptions {
    WorkerOptions {
        connection: ConnectionLimits {
            hello_timeout: HELLO_TIMEOUT,
            ..ConnectionLimits::default()
        },
        ..WorkerOptions::default()
    }
}

fn only(name: &str, endpoint: SocketAddr) -> ListenerTable {
    ListenerTable::Tls(SniTable {
        exact: HashMap::from([(
            name.to_owned(),
            chain(ChainAction::Passthrough(to(&[endpoint]))),
        )]),
        ..SniTable::default()
    })
}

/// A real ClientHello; the name of an IP address leaves the server name out.
/// `padding` bytes of protocol names make it larger.
fn hello(name: &str, post_quantum: bool, padding: usize) -> Vec<u8> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    if post_quantum {
        provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768];
    }
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(Ca::new().roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![vec![b'p'; 199]; padding / 200];
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a connection");
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).expect("a hello");
    }
    bytes
}

fn in_records(record: &[u8], len: usize) -> Vec<u8> {
    let fragments = record[5..].chunks(len);
    fragments
        .flat_map(|fragment| {
            let mut bytes = vec![22, 3, 1];
            bytes.extend((fragment.len() as u16).to_be_bytes());
            bytes.extend(fragment);
            bytes
        })
        .collect()
}

/// Sends one byte a segment (there is no delay to join them), and lets others
/// run in between.
async fn dribble(stream: &mut TcpStream, bytes: &[u8]) {
    for byte in bytes {
        stream.write_all(&[*byte]).await.expect("a write");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_hello_in_any_pieces_reaches_the_backend_byte_by_byte() {
    let (socket, address) = backend().await;
    let gateway = Gateway::start_with(only("a.example.com", address), WorkerOptions::default());
    let small = hello("a.example.com", false, 0);
    let large = hello("a.example.com", true, 800);
    assert!(large.len() > 2000, "{}", large.len());
    let cases = [
        ("1-byte segments", small.clone(), true),
        (
            "1-byte segments of 1-byte records",
            in_records(&small, 1),
            true,
        ),
        ("1-byte records", in_records(&small, 1), false),
        ("two records", in_records(&small, small.len() / 2), false),
        ("2,000 bytes", large.clone(), false),
        (
            "2,000 bytes in many records",
            in_records(&large, 100),
            false,
        ),
        (
            "data behind the hello",
            [small, b"early".to_vec()].concat(),
            false,
        ),
    ];
    for (what, bytes, slowly) in cases {
        let mut client = gateway.connect().await;
        if slowly {
            dribble(&mut client, &bytes).await;
        } else {
            client.write_all(&bytes).await.expect("a write");
        }
        let (mut server, _) = soon(what, socket.accept()).await.expect("a connection");
        let mut received = vec![0; bytes.len()];
        soon(what, server.read_exact(&mut received))
            .await
            .expect("a hello");
        assert!(received == bytes, "{what}");
        server.write_all(b"answer").await.expect("an answer");
        assert_eq!(read_name(&mut client, 6).await, "answer", "{what}");
    }
}

#[tokio::test]
async fn bad_input_is_refused_with_its_reason_and_disturbs_nobody() {
    let gateway = Gateway::start_with(only("a.example.com", echo("hi").await), options());
    // A raw echo behind the hello stands for a session of someone else.
    let first = hello("a.example.com", false, 0);
    let mut other = gateway.connect().await;
    other.write_all(&first).await.expect("a write");
    assert_eq!(read_name(&mut other, 2).await, "hi");
    read_name_bytes(&mut other, &first).await;

    let mut malformed = first.clone();
    malformed[5] = 2;
    let large = hello("a.example.com", false, 50_000);
    // 70 kB, the length of which no real client states.
    let mut huge = vec![22, 3, 1, 0x40, 0, 1, 1, 0x11, 0x70, 3, 3];
    huge.resize(70_000, 0);
    let cases: Vec<(&str, Vec<u8>, CloseReason, Option<u8>)> = vec![
        (
            "no server name",
            hello("10.0.0.1", false, 0),
            CloseReason::NoSni,
            Some(112),
        ),
        (
            "another name",
            hello("b.example.com", false, 0),
            CloseReason::UnknownSni,
            Some(112),
        ),
        (
            "malformed",
            malformed,
            CloseReason::HelloMalformed,
            Some(50),
        ),
        ("50 kB", large, CloseReason::HelloTooLarge, None),
        ("70 kB", huge, CloseReason::HelloTooLarge, None),
        (
            "http",
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            CloseReason::NotTls,
            None,
        ),
        (
            "mqtt",
            b"\x10\x0c\0\x04MQTT\x04\x02\0\0".to_vec(),
            CloseReason::NotTls,
            None,
        ),
        (
            "one byte that is not TLS",
            vec![0],
            CloseReason::NotTls,
            None,
        ),
    ];
    let mut counts: HashMap<CloseReason, u64> = HashMap::new();
    for (what, bytes, reason, alert) in cases {
        let mut client = gateway.connect().await;
        // May be refused before all is written.
        let _ = client.write_all(&bytes).await;
        let mut answer = Vec::new();
        let _ = soon(what, client.read_to_end(&mut answer)).await;
        if let Some(alert) = alert {
            assert_eq!(answer, [21, 3, 3, 0, 2, 2, alert], "{what}");
        }
        let count = counts.entry(reason).or_default();
        *count += 1;
        gateway.ends(Mode::Refused, reason, *count).await;
        round_trip(&mut other, what.as_bytes()).await;
    }
    gateway.ends(Mode::Passthrough, CloseReason::Done, 0).await;
}

/// The echo of the hello itself.
async fn read_name_bytes(stream: &mut TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    soon("an echo", stream.read_exact(&mut bytes))
        .await
        .expect("an echo");
    assert_eq!(bytes, expected);
}

#[tokio::test]
async fn a_hello_that_stops_half_way_is_refused_at_the_deadline() {
    let gateway = Gateway::start_with(only("a.example.com", echo("hi").await), options());
    let hello = hello("a.example.com", false, 0);
    let begun = Instant::now();
    let mut clients = Vec::new();
    for sent in [0, 1, 5, 9, hello.len() - 1] {
        let mut client = gateway.connect().await;
        client.write_all(&hello[..sent]).await.expect("a write");
        clients.push(client);
    }
    for client in &mut clients {
        let mut answer = Vec::new();
        let _ = soon("a refusal", client.read_to_end(&mut answer)).await;
        assert!(answer.is_empty());
    }
    let took = begun.elapsed();
    assert!(took >= HELLO_TIMEOUT && took < PATIENCE, "{took:?}");
    gateway
        .ends(Mode::Refused, CloseReason::HelloTimeout, 5)
        .await;

    for sent in [0, 9] {
        let mut client = gateway.connect().await;
        client.write_all(&hello[..sent]).await.expect("a write");
        client.shutdown().await.expect("an end");
    }
    gateway
        .ends(Mode::Refused, CloseReason::HelloIncomplete, 2)
        .await;
}

#[tokio::test]
async fn bytes_that_trickle_do_not_extend_the_deadline() {
    let gateway = Gateway::start_with(only("a.example.com", echo("hi").await), options());
    let hello = hello("a.example.com", false, 0);
    let begun = Instant::now();
    let mut client = gateway.connect().await;
    let mut pace = tokio::time::interval(HELLO_TIMEOUT / 20);
    for byte in &hello {
        pace.tick().await;
        if client.write_all(&[*byte]).await.is_err()
            || gateway.closed(Mode::Refused, CloseReason::HelloTimeout) == 1
        {
            break;
        }
    }
    gateway
        .ends(Mode::Refused, CloseReason::HelloTimeout, 1)
        .await;
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn upstreams_that_do_not_answer_are_told_apart() {
    let refused = Port::reserve();
    // A listener with no room: the kernel drops further SYNs (listen(2)).
    let full =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .expect("an address");
    full.listen(0).expect("listening");
    let silent = full
        .local_addr()
        .expect("an address")
        .as_socket()
        .expect("an address");
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(silent)).await
    {
        waiting.push(stream);
    }
    for (endpoints, reason) in [
        (vec![], CloseReason::NoEndpoint),
        (vec![refused.address], CloseReason::ConnectFailed),
        (vec![silent], CloseReason::ConnectTimeout),
    ] {
        let gateway = Gateway::start(ListenerTable::Forward(to(&endpoints)));
        expect_reset(gateway.address).await;
        gateway.ends(Mode::Forward, reason, 1).await;
    }
}

#[tokio::test]
async fn connections_over_the_limit_are_reset() {
    let options = WorkerOptions {
        connection: ConnectionLimits {
            max_connections: 2,
            ..ConnectionLimits::default()
        },
        ..WorkerOptions::default()
    };
    let gateway = Gateway::start_with(ListenerTable::Forward(to(&[echo("hi").await])), options);
    let mut first = gateway.connect().await;
    let mut second = gateway.connect().await;
    for client in [&mut first, &mut second] {
        assert_eq!(read_name(client, 2).await, "hi");
    }
    expect_reset(gateway.address).await;
    gateway.ends(Mode::Refused, CloseReason::OverLimit, 1).await;
    drop(first);
    wait_until("room", || gateway.workers.active() == 1).await;
    assert_eq!(read_name(&mut gateway.connect().await, 2).await, "hi");
    round_trip(&mut second, b"still there").await;
}
