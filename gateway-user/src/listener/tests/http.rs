// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The way from a socket to the HTTP room and back: which table, which
//! protocol, which record.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{Gateway, backend, chain, cluster, listener, soon};
use crate::{
    model::{
        HeaderEdits, HttpAction, HttpDestination, HttpMatch, HttpRule, PathRewrite, TlsSettings,
    },
    origin::Origin,
    snapshot::{ChainAction, HttpTable, ListenerTable, Snapshot, SniTable, VirtualHost},
    telemetry::access::{CloseReason, Mode},
    tls::{server_config, tests::ca::Ca},
};

/// An HTTP/1.1 server that answers every request with `name`.
async fn web(name: &'static str) -> SocketAddr {
    let (socket, address) = backend().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).await? > 0 {
                    if line == "\r\n" {
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{name}");
                        stream.get_mut().write_all(answer.as_bytes()).await?;
                    }
                    line.clear();
                }
                std::io::Result::Ok(())
            });
        }
    });
    address
}

/// Everything goes to one endpoint.
fn table(endpoint: SocketAddr) -> Arc<HttpTable> {
    let cluster = cluster("web", &[endpoint]);
    let rule = HttpRule {
        origin: Origin::new("test.yaml", 4),
        name: None,
        matches: vec![HttpMatch::default()],
        action: HttpAction::Route {
            destinations: vec![HttpDestination {
                cluster: cluster.id.clone(),
                weight: 1,
                request_headers: HeaderEdits::default(),
                response_headers: HeaderEdits::default(),
            }],
            timeout: None,
            rewrite: PathRewrite::default(),
        },
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    };
    Arc::new(HttpTable {
        any: Some(Arc::new(VirtualHost {
            host: "*".into(),
            rules: vec![Arc::new(rule)],
            https_redirect: false,
        })),
        clusters: [(cluster.id.clone(), cluster)].into(),
        ..HttpTable::default()
    })
}

/// One request on a connection that stays; the body of the answer.
async fn get<S>(stream: &mut S) -> String
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    soon("an answer", async {
        let request = b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n";
        stream.write_all(request).await.expect("a request");
        stream.flush().await.expect("a request");
        let mut answer = Vec::new();
        let end = loop {
            let byte = stream.read_u8().await.expect("a head");
            answer.push(byte);
            if answer.ends_with(b"\r\n\r\n") {
                break answer.len();
            }
        };
        assert!(
            answer.starts_with(b"HTTP/1.1 200 "),
            "{}",
            answer.escape_ascii()
        );
        answer.resize(end + 3, 0);
        stream.read_exact(&mut answer[end..]).await.expect("a body");
        String::from_utf8(answer.split_off(end)).expect("a name")
    })
    .await
}

fn publish(gateway: &Gateway, table: ListenerTable) {
    let key = *gateway.workers.bound().first().expect("a key");
    gateway.snapshot.publish(Arc::new(Snapshot {
        generation: gateway.snapshot.load().generation + 1,
        listeners: [(key, listener(table))].into(),
        ..Snapshot::default()
    }));
}

#[tokio::test]
async fn a_kept_connection_follows_new_routes_and_outlives_its_listener() {
    let gateway = Gateway::start(ListenerTable::PlainHttp(table(web("one").await)));
    let mut client = gateway.connect().await;
    assert_eq!(get(&mut client).await, "one");
    publish(&gateway, ListenerTable::PlainHttp(table(web("two").await)));
    assert_eq!(get(&mut client).await, "two");
    gateway.snapshot.publish(Arc::new(Snapshot {
        generation: 3,
        ..Snapshot::default()
    }));
    // What it was accepted for.
    assert_eq!(get(&mut client).await, "one");
    drop(client);
    gateway.ends(Mode::PlainHttp, CloseReason::Done, 1).await;
    assert!(gateway.total(|counters| counters.bytes_in.value()) > 100);
    assert!(gateway.total(|counters| counters.bytes_out.value()) > 100);
}

#[tokio::test]
async fn terminated_http_negotiates_its_version_and_uses_the_table_of_its_name() {
    let ca = Ca::new();
    let settings = TlsSettings {
        certificates: Vec::new(),
        allow_tls12: true,
        allow_tls13: true,
    };
    let terminate = |name: &str, table| {
        let cert = ca.issue(&[name], &rcgen::PKCS_ECDSA_P256_SHA256);
        let config = server_config(vec![cert], &settings, &[b"h2", b"http/1.1"]);
        chain(ChainAction::TerminateHttp(
            config.expect("a configuration"),
            table,
        ))
    };
    let gateway = Gateway::start(ListenerTable::Tls(SniTable {
        exact: HashMap::from([
            (
                "a.example.com".into(),
                terminate("a.example.com", table(web("one").await)),
            ),
            (
                "b.example.com".into(),
                terminate("b.example.com", table(web("two").await)),
            ),
        ]),
        ..SniTable::default()
    }));
    for (name, expected) in [("a.example.com", "one"), ("b.example.com", "two")] {
        let connect = |alpn: &[u8]| {
            let mut client = ca.client(rustls::ALL_VERSIONS);
            client.alpn_protocols = vec![alpn.to_vec()];
            let name = ServerName::try_from(name).expect("a name");
            let connector = TlsConnector::from(Arc::new(client));
            let stream = TcpStream::connect(gateway.address);
            async move { connector.connect(name, stream.await?).await }
        };
        let mut client = soon("a handshake", connect(b"http/1.1"))
            .await
            .expect("a handshake");
        assert_eq!(get(&mut client).await, expected);
        assert_eq!(get(&mut client).await, expected);

        let client = soon("a handshake", connect(b"h2"))
            .await
            .expect("a handshake");
        let io = hyper_util::rt::TokioIo::new(client);
        let executor = hyper_util::rt::TokioExecutor::new();
        let handshake = hyper::client::conn::http2::handshake(executor, io);
        let (mut send, connection) = soon("h2", handshake).await.expect("h2");
        tokio::spawn(connection);
        let request = http::Request::get(format!("https://{name}/"))
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .expect("a request");
        let response = soon("an answer", send.send_request(request))
            .await
            .expect("an answer");
        assert_eq!(response.status(), 200);
        let body = http_body_util::BodyExt::collect(response.into_body());
        assert_eq!(
            soon("a body", body).await.expect("a body").to_bytes(),
            expected
        );
    }
    gateway
        .ends(Mode::TerminateHttp, CloseReason::Done, 4)
        .await;
}
