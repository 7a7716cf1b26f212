// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which backend a connection reaches, and what it sees on the way.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{
    Gateway, Port, action, backend, chain, cluster, echo, read_name, round_trip, soon, to,
};
use crate::{
    model::{HashPolicy, TlsSettings},
    snapshot::{ChainAction, ListenerTable, SniTable, TcpAction},
    telemetry::access::{CloseReason, Mode},
    tls::{server_config, tests::ca::Ca},
};

const BOTH: TlsSettings = TlsSettings {
    certificates: Vec::new(),
    allow_tls12: true,
    allow_tls13: true,
};

pub(super) fn server(ca: &Ca, name: &str) -> Arc<rustls::ServerConfig> {
    let cert = ca.issue(&[name], &rcgen::PKCS_ECDSA_P256_SHA256);
    server_config(vec![cert], &BOTH, &[]).expect("a configuration")
}

/// A TLS server of its own that greets with its name and echoes.
async fn tls_backend(ca: &Ca, name: &'static str) -> SocketAddr {
    let (socket, address): (TcpListener, _) = backend().await;
    let acceptor = TlsAcceptor::from(server(ca, name));
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                stream.write_all(name.as_bytes()).await?;
                let (mut reader, mut writer) = tokio::io::split(stream);
                tokio::io::copy(&mut reader, &mut writer).await?;
                writer.shutdown().await
            });
        }
    });
    address
}

pub(super) async fn tls_connect(
    ca: &Ca,
    gateway: &Gateway,
    name: &str,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let connector = TlsConnector::from(Arc::new(ca.client(rustls::ALL_VERSIONS)));
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    soon(
        "a handshake",
        connector.connect(name, gateway.connect().await),
    )
    .await
    .expect("a handshake")
}

fn passthrough(endpoint: SocketAddr) -> ChainAction {
    ChainAction::Passthrough(to(&[endpoint]))
}

#[tokio::test]
async fn passthrough_and_terminated_names_share_a_port() {
    let ca = Ca::new();
    let table = SniTable {
        exact: HashMap::from([
            (
                "a.example.com".into(),
                chain(passthrough(tls_backend(&ca, "a.example.com").await)),
            ),
            (
                "t.example.com".into(),
                chain(ChainAction::TerminateTcp(
                    server(&ca, "t.example.com"),
                    to(&[echo("plain").await]),
                )),
            ),
        ]),
        suffixes: HashMap::from([(
            ".example.com".into(),
            chain(passthrough(tls_backend(&ca, "b.example.com").await)),
        )]),
        default: Some(chain(passthrough(tls_backend(&ca, "other.example").await))),
    };
    let gateway = Gateway::start(ListenerTable::Tls(table));
    // The client verifies the name, so that only the right server passes.
    for (name, greeting) in [
        ("a.example.com", "a.example.com"),
        ("b.example.com", "b.example.com"),
        ("other.example", "other.example"),
        ("t.example.com", "plain"),
    ] {
        let mut stream = tls_connect(&ca, &gateway, name).await;
        assert_eq!(read_name(&mut stream, greeting.len()).await, greeting);
        round_trip(&mut stream, &vec![7; 300_000]).await;
        soon("the end", async {
            stream.shutdown().await.expect("an end");
            assert_eq!(stream.read(&mut [0]).await.expect("an end"), 0);
        })
        .await;
    }
    gateway.ends(Mode::Passthrough, CloseReason::Done, 3).await;
    gateway.ends(Mode::TerminateTcp, CloseReason::Done, 1).await;
    assert_eq!(gateway.total(|counters| counters.opened.value()), 4);
    assert!(gateway.total(|counters| counters.bytes_in.value()) > 1_200_000);
    assert!(gateway.total(|counters| counters.bytes_out.value()) > 1_200_000);
}

#[tokio::test]
async fn a_handshake_that_fails_is_counted_and_reaches_no_backend() {
    let ca = Ca::new();
    let (socket, address) = backend().await;
    let terminate = ChainAction::TerminateTcp(server(&ca, "t.example.com"), to(&[address]));
    let gateway = Gateway::start(ListenerTable::Tls(SniTable {
        default: Some(chain(terminate)),
        ..SniTable::default()
    }));
    let connector = TlsConnector::from(Arc::new(Ca::new().client(rustls::ALL_VERSIONS)));
    let name = ServerName::try_from("t.example.com").expect("a name");
    let failed = soon(
        "a refusal",
        connector.connect(name, gateway.connect().await),
    )
    .await;
    assert!(failed.is_err());
    gateway
        .ends(Mode::TerminateTcp, CloseReason::HandshakeFailed, 1)
        .await;
    let socket = socket.into_std().expect("a socket");
    let nobody = socket.accept().map(|_| ());
    assert_eq!(
        nobody.expect_err("nobody").kind(),
        std::io::ErrorKind::WouldBlock
    );
}

#[tokio::test]
async fn weights_divide_connections() {
    let (one, two) = (echo("one").await, echo("two").await);
    let gateway = Gateway::start(ListenerTable::Forward(action(vec![
        (cluster("one", &[one]), 80),
        (cluster("two", &[two]), 20),
    ])));
    let mut ones = 0;
    for _ in 0..400 {
        let mut stream = gateway.connect().await;
        ones += u32::from(read_name(&mut stream, 3).await == "one");
    }
    assert!((280..=360).contains(&ones), "{ones} of 400");
}

#[tokio::test]
async fn one_client_keeps_to_one_backend_when_asked() {
    let endpoints = [echo("one").await, echo("two").await, echo("six").await];
    let gateway = Gateway::start(ListenerTable::Forward(Arc::new(TcpAction {
        hash_policy: HashPolicy::SourceAddress,
        kept_port: None,
        ..TcpAction::clone_of(&to(&endpoints))
    })));
    let mut names = std::collections::HashSet::new();
    for _ in 0..30 {
        names.insert(read_name(&mut gateway.connect().await, 3).await);
    }
    assert_eq!(names.len(), 1, "{names:?}");
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over() {
    let dead = Port::reserve();
    let gateway = Gateway::start(ListenerTable::Forward(to(&[
        dead.address,
        echo("alive").await,
    ])));
    for _ in 0..10 {
        assert_eq!(read_name(&mut gateway.connect().await, 5).await, "alive");
    }
}

impl TcpAction {
    fn clone_of(other: &Self) -> Self {
        Self {
            origin: other.origin.clone(),
            destinations: other.destinations.clone(),
            idle_timeout: other.idle_timeout,
            hash_policy: other.hash_policy,
            handoff: other.handoff,
            kept_port: other.kept_port,
        }
    }
}
