// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bytes both ways, and every way to end.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    Gateway, backend, chain, echo, read_name, round_trip,
    routing::{server, tls_connect},
    soon, to,
};
use crate::{
    snapshot::{ChainAction, ListenerTable, SniTable, TcpAction},
    telemetry::access::{CloseReason, Mode},
    tls::tests::ca::Ca,
};

const MIB: usize = 1 << 20;

/// Bytes that show when one is lost, doubled or moved.
fn pattern(len: usize, salt: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(salt);
    (0..len).map(|_| rng.u8(..)).collect()
}

async fn pair(gateway: &Gateway, backend: &TcpListener) -> (TcpStream, TcpStream) {
    let client = gateway.connect().await;
    let (server, _) = soon("a connection", backend.accept())
        .await
        .expect("a connection");
    (client, server)
}

/// Writes as much as the whole path takes without anyone reading, then the
/// rest, then ends.
async fn send_and_end(stream: &mut (impl tokio::io::AsyncWrite + Unpin), bytes: &[u8]) {
    stream.write_all(bytes).await.expect("a write");
    stream.shutdown().await.expect("an end");
}

async fn expect_all(stream: &mut (impl tokio::io::AsyncRead + Unpin), expected: &[u8]) {
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.expect("all of it");
    assert_eq!(received.len(), expected.len());
    assert!(received == expected);
}

#[tokio::test]
async fn either_side_may_end_first_and_no_byte_is_lost() {
    let (socket, address) = backend().await;
    let gateway = Gateway::start(ListenerTable::Forward(to(&[address])));
    let (up, down) = (pattern(MIB, 1), pattern(MIB, 2));
    for client_first in [true, false] {
        let (mut client, mut server) = pair(&gateway, &socket).await;
        let ((mut first, out), (mut second, back)) = if client_first {
            ((client.split(), &up), (server.split(), &down))
        } else {
            ((server.split(), &down), (client.split(), &up))
        };
        soon("both directions", async {
            // The first side ends with its megabyte still on the way; the
            // second reads only then, and answers after.
            tokio::join!(send_and_end(&mut first.1, out), async {
                expect_all(&mut second.0, out).await;
                tokio::join!(
                    send_and_end(&mut second.1, back),
                    expect_all(&mut first.0, back)
                );
            });
        })
        .await;
    }
    gateway.ends(Mode::Forward, CloseReason::Done, 2).await;
    assert_eq!(
        gateway.total(|counters| counters.bytes_in.value()),
        2 * MIB as u64
    );
    assert_eq!(
        gateway.total(|counters| counters.bytes_out.value()),
        2 * MIB as u64
    );
}

#[tokio::test]
async fn either_side_may_end_first_where_tls_ends_here() {
    let ca = Ca::new();
    let (socket, address) = backend().await;
    let terminate = ChainAction::TerminateTcp(server(&ca, "t.example.com"), to(&[address]));
    let gateway = Gateway::start(ListenerTable::Tls(SniTable {
        default: Some(chain(terminate)),
        ..SniTable::default()
    }));
    let (up, down) = (pattern(MIB, 8), pattern(MIB, 9));
    for client_first in [true, false] {
        let (client, accepted) = tokio::join!(
            tls_connect(&ca, &gateway, "t.example.com"),
            soon("a connection", socket.accept())
        );
        let (mut client_reads, mut client_writes) = tokio::io::split(client);
        let (mut server, _) = accepted.expect("a connection");
        let (mut server_reads, mut server_writes) = server.split();
        soon("both directions", async {
            if client_first {
                tokio::join!(
                    send_and_end(&mut client_writes, &up),
                    expect_all(&mut server_reads, &up)
                );
                tokio::join!(
                    send_and_end(&mut server_writes, &down),
                    expect_all(&mut client_reads, &down)
                );
            } else {
                tokio::join!(
                    send_and_end(&mut server_writes, &down),
                    expect_all(&mut client_reads, &down)
                );
                tokio::join!(
                    send_and_end(&mut client_writes, &up),
                    expect_all(&mut server_reads, &up)
                );
            }
        })
        .await;
    }
    gateway.ends(Mode::TerminateTcp, CloseReason::Done, 2).await;
}

/// Waits until bytes have moved and move no more.
async fn stalled(gateway: &Gateway) {
    let moved = || gateway.total(|counters| counters.bytes_in.value() + counters.bytes_out.value());
    let mut before = 0;
    while before == 0 || moved() != before {
        before = moved();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn both_sides_end_with_data_queued_both_ways() {
    let (socket, address) = backend().await;
    let gateway = Gateway::start(ListenerTable::Forward(to(&[address])));
    let (up, down) = (pattern(4 * MIB, 3), pattern(4 * MIB, 4));
    let (mut client, mut server) = pair(&gateway, &socket).await;
    let (mut client_reads, mut client_writes) = client.split();
    let (mut server_reads, mut server_writes) = server.split();
    soon("both directions", async {
        // Both writers run until everything between them is full; only then
        // does anyone read.
        let begun = tokio::sync::Notify::new();
        tokio::join!(
            send_and_end(&mut client_writes, &up),
            send_and_end(&mut server_writes, &down),
            async {
                stalled(&gateway).await;
                begun.notify_waiters();
                expect_all(&mut server_reads, &up).await;
            },
            async {
                begun.notified().await;
                expect_all(&mut client_reads, &down).await;
            },
        );
    })
    .await;
    gateway.ends(Mode::Forward, CloseReason::Done, 1).await;
}

#[tokio::test]
async fn a_long_transfer_arrives_whole() {
    let gateway = Gateway::start(ListenerTable::Forward(to(&[echo("").await])));
    let bytes = pattern(24 * MIB, 5);
    let mut client = gateway.connect().await;
    let (mut reads, mut writes) = client.split();
    soon("an echo", async {
        tokio::join!(
            send_and_end(&mut writes, &bytes),
            expect_all(&mut reads, &bytes)
        );
    })
    .await;
    gateway.ends(Mode::Forward, CloseReason::Done, 1).await;
}

#[tokio::test]
async fn a_reset_is_passed_on_after_the_data_before_it() {
    let (socket, address) = backend().await;
    let gateway = Gateway::start(ListenerTable::Forward(to(&[address])));
    for client_resets in [true, false] {
        for len in [0, 1, 100_000] {
            let (client, server) = pair(&gateway, &socket).await;
            let (mut resets, mut other) = if client_resets {
                (client, server)
            } else {
                (server, client)
            };
            // Before the gateway knows that it is connected, a reset is a failed
            // connection attempt.
            other.write_all(b"ready").await.expect("a write");
            assert_eq!(read_name(&mut resets, 5).await, "ready");
            let bytes = pattern(len, 6);
            soon("the data", async {
                let mut received = vec![0; len];
                let (written, read) =
                    tokio::join!(resets.write_all(&bytes), other.read_exact(&mut received));
                written.expect("a write");
                read.expect("a read");
                assert!(received == bytes);
            })
            .await;
            crate::conn::copy::reset_on_drop(&resets);
            drop(resets);
            let end = soon("a reset", other.read(&mut [0])).await;
            assert_eq!(end.expect_err("a reset").kind(), ErrorKind::ConnectionReset);
        }
    }
    gateway
        .ends(Mode::Forward, CloseReason::ClientReset, 3)
        .await;
    gateway
        .ends(Mode::Forward, CloseReason::UpstreamReset, 3)
        .await;
}

#[tokio::test]
async fn an_answer_given_before_a_reset_is_delivered() {
    // A server that answers without reading what it is sent, and closes: the
    // kernel turns that into a reset (RFC 1122 section 4.2.2.13).
    let (socket, address) = backend().await;
    let gateway = Gateway::start(ListenerTable::Forward(to(&[address])));
    for _ in 0..20 {
        let (mut client, mut server) = pair(&gateway, &socket).await;
        client
            .write_all(&pattern(300_000, 7))
            .await
            .expect("a write");
        soon("the first bytes", server.readable())
            .await
            .expect("bytes");
        server.write_all(b"too large").await.expect("an answer");
        drop(server);
        assert_eq!(read_name(&mut client, 9).await, "too large");
        let end = soon("the end", client.read(&mut [0])).await;
        assert!(end.is_err() || matches!(end, Ok(0)), "{end:?}");
    }
}

#[tokio::test]
async fn an_idle_connection_ends_only_where_a_timeout_is_set() {
    const IDLE: Duration = Duration::from_millis(400);
    let address = echo("hi").await;
    let patient = Gateway::start(ListenerTable::Forward(to(&[address])));
    let action = to(&[address]);
    let hasty = Gateway::start(ListenerTable::Forward(Arc::new(TcpAction {
        idle_timeout: Some(IDLE),
        origin: action.origin.clone(),
        destinations: action.destinations.clone(),
        hash_policy: action.hash_policy,
        handoff: action.handoff,
        kept_port: None,
    })));
    let mut kept = patient.connect().await;
    let mut closed = hasty.connect().await;
    for client in [&mut kept, &mut closed] {
        assert_eq!(read_name(client, 2).await, "hi");
    }
    // Activity in either direction counts.
    let begun = std::time::Instant::now();
    let mut pace = tokio::time::interval(IDLE / 4);
    while begun.elapsed() < IDLE * 2 {
        pace.tick().await;
        round_trip(&mut closed, b"x").await;
    }
    assert_eq!(
        soon("the end", closed.read(&mut [0]))
            .await
            .expect("an end"),
        0
    );
    hasty.ends(Mode::Forward, CloseReason::IdleTimeout, 1).await;
    round_trip(&mut kept, b"still there").await;
}
