// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whole connections over loopback: real workers, sockets, TLS and backends,
//! with a snapshot made by hand.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

use super::{WorkerOptions, Workers};
use crate::{
    drain::{self, DrainTrigger},
    model::{ClusterId, HandoffPolicy, HashPolicy, ListenAddress, LoadBalancing, Sources},
    origin::Origin,
    snapshot::{
        ChainAction, Cluster, Endpoint, ListenKey, Listener, ListenerTable, Snapshot,
        SnapshotHandle, TcpAction, TlsChain,
    },
    telemetry::access::{CloseReason, Mode},
};

mod copying;
mod http;
mod refusals;
mod routing;
mod sockets;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running gateway with one bound listener.
struct Gateway {
    workers: Workers,
    snapshot: SnapshotHandle,
    drain: DrainTrigger,
    address: SocketAddr,
    _port: Port,
}

impl Gateway {
    fn start(table: ListenerTable) -> Self {
        Self::start_with(table, WorkerOptions::default())
    }

    fn start_with(table: ListenerTable, options: WorkerOptions) -> Self {
        let (drain, watcher) = drain::channel();
        let snapshot = SnapshotHandle::new();
        let mut workers =
            Workers::start(2, options, snapshot.clone(), watcher).expect("worker threads");
        let port = Port::reserve();
        let key = port.key;
        snapshot.publish(Arc::new(Snapshot {
            generation: 1,
            listeners: [(key, listener(table))].into(),
            ..Snapshot::default()
        }));
        let failed = workers.bind(&BTreeSet::from([key]));
        assert!(failed.is_empty(), "{failed:?}");
        Self {
            workers,
            snapshot,
            drain,
            address: port.address,
            _port: port,
        }
    }

    async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address)
            .await
            .expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        stream
    }

    fn closed(&self, mode: Mode, reason: CloseReason) -> u64 {
        self.workers
            .counters()
            .iter()
            .map(|counters| counters.closed[mode as usize][reason as usize].value())
            .sum()
    }

    /// Waits until so many connections ended this way, and none any other way.
    async fn ends(&self, mode: Mode, reason: CloseReason, count: u64) {
        wait_until(&format!("{count} {mode:?} ended by {reason:?}"), || {
            self.closed(mode, reason) == count
        })
        .await;
    }

    fn total(&self, count: impl Fn(&crate::telemetry::counters::WorkerCounters) -> u64) -> u64 {
        self.workers
            .counters()
            .iter()
            .map(|counters| count(counters))
            .sum()
    }
}

async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The result of `future`, which must not take for ever.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

/// A port that is nobody else's for as long as this lives: bound, so that no
/// other test is given it, shared, so that workers can be bound to it, and not
/// listening, so that connections to it are refused.
struct Port {
    key: ListenKey,
    address: SocketAddr,
    _socket: Socket,
}

impl Port {
    fn reserve() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_port(true).expect("an option");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).expect("a port");
        let address = socket
            .local_addr()
            .ok()
            .and_then(|address| address.as_socket());
        let address = address.expect("an address");
        Self {
            key: ListenKey::tcp(ListenAddress::Ip(address.ip()), address.port()),
            address,
            _socket: socket,
        }
    }
}

fn listener(table: ListenerTable) -> Arc<Listener> {
    Arc::new(Listener {
        origin: Origin::new("test.yaml", 1),
        table,
        sources: Sources::everyone(),
    })
}

fn cluster(name: &str, endpoints: &[SocketAddr]) -> Arc<Cluster> {
    Arc::new(Cluster {
        id: ClusterId::new(name, 80, None),
        endpoints: endpoints
            .iter()
            .map(|&address| Endpoint { address, weight: 1 })
            .collect(),
        load_balancing: LoadBalancing::RoundRobin,
        connect_timeout: Duration::from_millis(300),
        proxy_protocol: None,
        down: Vec::new(),
        leaving: Vec::new(),
        panic: false,
        health: None,
        sources: Sources::everyone(),
        source_address: crate::model::SourceAddress::Node,
    })
}

fn action(destinations: Vec<(Arc<Cluster>, u32)>) -> Arc<TcpAction> {
    Arc::new(TcpAction {
        origin: Origin::new("test.yaml", 2),
        destinations,
        idle_timeout: None,
        hash_policy: HashPolicy::FiveTuple,
        handoff: HandoffPolicy::default(),
        kept_port: None,
    })
}

fn to(endpoints: &[SocketAddr]) -> Arc<TcpAction> {
    action(vec![(cluster("backend", endpoints), 1)])
}

fn chain(action: ChainAction) -> Arc<TlsChain> {
    Arc::new(TlsChain {
        origin: Origin::new("test.yaml", 3),
        action,
    })
}

/// Connects, to be reset at once: often before connect(2) has returned.
async fn expect_reset(address: SocketAddr) {
    let end = soon("a reset", async {
        TcpStream::connect(address).await?.read(&mut [0]).await
    })
    .await;
    let error = end.expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// A backend that greets with `name` and sends back what it gets. Ends with the
/// test's runtime.
async fn echo(name: &'static str) -> SocketAddr {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a socket");
    let address = socket.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                stream.write_all(name.as_bytes()).await?;
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await?;
                writer.shutdown().await
            });
        }
    });
    address
}

/// A backend that the test plays itself.
async fn backend() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a socket");
    let address = socket.local_addr().expect("an address");
    (socket, address)
}

/// Sends `sent` and reads it back.
async fn round_trip<S>(stream: &mut S, sent: &[u8])
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    soon("an echo", async {
        stream.write_all(sent).await.expect("a write");
        stream.flush().await.expect("a flush");
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back).await.expect("a read");
        assert_eq!(back, sent);
    })
    .await;
}

async fn read_name<S: tokio::io::AsyncRead + Unpin>(stream: &mut S, len: usize) -> String {
    let mut name = vec![0; len];
    soon("a greeting", stream.read_exact(&mut name))
        .await
        .expect("a greeting");
    String::from_utf8(name).expect("a name")
}
