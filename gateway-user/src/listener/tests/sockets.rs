// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Binding, draining and stopping.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::SockRef;
use tokio::{io::AsyncReadExt, net::TcpStream};

use super::{
    Gateway, Port, echo, expect_reset, listener, read_name, round_trip, soon, to, wait_until,
};
use crate::{
    model::ListenAddress,
    snapshot::{ListenKey, ListenerTable, Snapshot},
    telemetry::access::{CloseReason, Mode},
};

fn publish(gateway: &Gateway, keys: &[ListenKey], backend: SocketAddr) {
    let listeners = keys
        .iter()
        .map(|&key| (key, listener(ListenerTable::Forward(to(&[backend])))));
    gateway.snapshot.publish(Arc::new(Snapshot {
        generation: gateway.snapshot.load().generation + 1,
        listeners: listeners.collect(),
        ..Snapshot::default()
    }));
}

#[tokio::test]
async fn bound_sockets_follow_what_is_wanted_and_connections_stay() {
    let backend = echo("hi").await;
    let mut gateway = Gateway::start(ListenerTable::Forward(to(&[backend])));
    let old = *gateway.workers.bound().first().expect("a key");
    let mut kept = gateway.connect().await;
    assert_eq!(read_name(&mut kept, 2).await, "hi");

    let port = Port::reserve();
    let new = port.key;
    publish(&gateway, &[new], backend);
    assert!(gateway.workers.bind(&BTreeSet::from([new])).is_empty());
    let mut fresh = TcpStream::connect(("127.0.0.1", new.port))
        .await
        .expect("a connection");
    assert_eq!(read_name(&mut fresh, 2).await, "hi");
    let mut refused = false;
    let deadline = std::time::Instant::now() + super::PATIENCE;
    while !refused && std::time::Instant::now() < deadline {
        // Closed by each worker in its own time.
        match TcpStream::connect(("127.0.0.1", old.port)).await {
            Err(error) => refused = error.kind() == ErrorKind::ConnectionRefused,
            Ok(mut stream) => drop(stream.read(&mut [0]).await),
        }
    }
    assert!(refused);
    round_trip(&mut kept, b"still there").await;
}

#[tokio::test]
async fn a_port_in_use_is_reported_and_tried_again() {
    let backend = echo("hi").await;
    let mut gateway = Gateway::start(ListenerTable::Forward(to(&[backend])));
    let ours = *gateway.workers.bound().first().expect("a key");
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let key = ListenKey::tcp(
        ListenAddress::Ip(Ipv4Addr::LOCALHOST.into()),
        taken.local_addr().expect("an address").port(),
    );
    let wanted = BTreeSet::from([ours, key]);
    publish(&gateway, &[ours, key], backend);
    let failed = gateway.workers.bind(&wanted);
    assert_eq!(failed.len(), 1);
    assert_eq!(
        (failed[0].0, failed[0].1.kind()),
        (key, ErrorKind::AddrInUse)
    );
    assert_eq!(read_name(&mut gateway.connect().await, 2).await, "hi");
    drop(taken);
    assert!(gateway.workers.bind(&wanted).is_empty());
    let mut stream = TcpStream::connect(("127.0.0.1", key.port))
        .await
        .expect("a connection");
    assert_eq!(read_name(&mut stream, 2).await, "hi");
}

#[tokio::test]
async fn any_address_takes_ipv4_and_ipv6_clients() {
    let backend = echo("hi").await;
    let mut gateway = Gateway::start(ListenerTable::Forward(to(&[backend])));
    let port = Port::reserve();
    let any = ListenKey::tcp(ListenAddress::Any, port.key.port);
    publish(&gateway, &[any], backend);
    assert!(gateway.workers.bind(&BTreeSet::from([any])).is_empty());
    let v6 = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let addresses = [Some("127.0.0.1"), v6.then_some("::1")];
    for address in addresses.into_iter().flatten() {
        let stream = TcpStream::connect((address, any.port)).await;
        assert_eq!(
            read_name(&mut stream.expect("a connection"), 2).await,
            "hi",
            "{address}"
        );
    }
}

#[tokio::test]
async fn accepted_sockets_have_the_options_of_their_listener() {
    let socket = super::super::socket::bound(Port::reserve().key, 16).expect("a socket");
    let address = socket.local_addr().expect("an address");
    let _client = TcpStream::connect(address).await.expect("a connection");
    let (accepted, _) = socket.accept().expect("a connection");
    let accepted = SockRef::from(&accepted);
    assert!(accepted.tcp_nodelay().expect("an option"));
    assert!(accepted.keepalive().expect("an option"));
    assert_eq!(
        accepted.tcp_keepalive_time().expect("an option"),
        Duration::from_secs(60)
    );
    assert_eq!(
        accepted.tcp_user_timeout().expect("an option"),
        Some(Duration::from_secs(300))
    );
}

#[tokio::test]
async fn steered_sockets_listen_and_serve_nobody_directly() {
    let gateway = Gateway::start(ListenerTable::Forward(to(&[])));
    let sockets = gateway.workers.steered_sockets();
    assert_eq!(sockets.len(), 2);
    for (n, socket) in sockets.into_iter().enumerate() {
        let socket = SockRef::from(&socket);
        assert!(socket.is_listener().expect("an option"));
        let address = socket
            .local_addr()
            .expect("an address")
            .as_socket()
            .expect("an address");
        expect_reset(SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()))).await;
        gateway
            .ends(Mode::Refused, CloseReason::NoListener, n as u64 + 1)
            .await;
    }
}

#[tokio::test]
async fn a_drain_refuses_new_connections_and_waits_for_the_old() {
    let gateway = Gateway::start(ListenerTable::Forward(to(&[echo("hi").await])));
    let mut kept = gateway.connect().await;
    assert_eq!(read_name(&mut kept, 2).await, "hi");
    gateway.drain.start();
    let deadline = std::time::Instant::now() + super::PATIENCE;
    while let Ok(mut stream) = TcpStream::connect(gateway.address).await {
        assert!(std::time::Instant::now() < deadline);
        drop(stream.read(&mut [0]).await);
    }
    for socket in gateway.workers.steered_sockets() {
        wait_until("steered sockets closed", || {
            !SockRef::from(&socket).is_listener().expect("an option")
        })
        .await;
    }
    wait_until("one connection left", || gateway.drain.busy() == 1).await;
    assert!(!gateway.drain.wait(Duration::from_millis(50)).await);
    round_trip(&mut kept, b"still there").await;
    drop(kept);
    assert!(gateway.drain.wait(super::PATIENCE).await);
    gateway.ends(Mode::Forward, CloseReason::Drained, 0).await;
}

#[tokio::test]
async fn stopping_ends_and_records_what_is_left() {
    let gateway = Gateway::start(ListenerTable::Forward(to(&[echo("hi").await])));
    let mut left = gateway.connect().await;
    assert_eq!(read_name(&mut left, 2).await, "hi");
    let counters = gateway.workers.counters().to_vec();
    let Gateway { workers, drain, .. } = gateway;
    workers.shutdown();
    let drained: u64 = counters
        .iter()
        .map(|counters| {
            counters.closed[Mode::Forward as usize][CloseReason::Drained as usize].value()
        })
        .sum();
    assert_eq!(drained, 1);
    assert_eq!(drain.busy(), 0);
    let end = soon("the end", left.read(&mut [0])).await;
    assert!(!matches!(end, Ok(1)), "{end:?}");
}
