// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A gateway on a loopback socket, backends whose every byte a test decides,
//! and clients that write bytes.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

use crate::{
    balance::Balancer,
    drain::{self, DrainTrigger},
    http::{Connection, HttpLimits, HttpWorker, serve},
    model::{
        ClusterId, HeaderEdits, HttpAction, HttpDestination, HttpRule, LoadBalancing, PathRewrite,
        Sources,
    },
    origin::Origin,
    snapshot::{Cluster, Endpoint, HttpTable, VirtualHost},
    telemetry::{
        access::{CloseReason, Mode},
        counters::WorkerCounters,
    },
};

/// No step of a test takes longer.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Runs a test on one thread, within a deadline.
pub fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(6 * DEADLINE, test)
            .await
            .expect("the test ends in time");
    });
}

/// A gateway that serves `table`.
pub struct Gateway {
    pub address: SocketAddr,
    pub counters: Arc<WorkerCounters>,
    pub drain: DrainTrigger,
    pub closed: Rc<RefCell<Vec<CloseReason>>>,
    pub table: Rc<RefCell<Arc<HttpTable>>>,
}

impl Gateway {
    pub async fn start(table: HttpTable) -> Self {
        Self::with(table, HttpLimits::default()).await
    }

    pub async fn with(table: HttpTable, limits: HttpLimits) -> Self {
        let listener = listen().await;
        let address = listener.local_addr().expect("bound");
        let counters = Arc::new(WorkerCounters::default());
        let (drain, watcher) = drain::channel();
        let worker = HttpWorker::new(Arc::clone(&counters), Balancer::new(), watcher, limits);
        let table = Rc::new(RefCell::new(Arc::new(table)));
        let closed = Rc::new(RefCell::new(Vec::new()));
        let (served, reasons) = (Rc::clone(&table), Rc::clone(&closed));
        tokio::task::spawn_local(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                stream.set_nodelay(true).expect("a TCP socket");
                let (worker, served) = (Rc::clone(&worker), Rc::clone(&served));
                let reasons = Rc::clone(&reasons);
                let connection = Connection {
                    peer,
                    local: stream.local_addr().expect("connected"),
                    mode: Mode::PlainHttp,
                    sni: None,
                    tls: None,
                    http2: false,
                    table: Rc::new(move || Arc::clone(&served.borrow())),
                };
                tokio::task::spawn_local(async move {
                    let reason = serve(stream, connection, &worker).await;
                    reasons.borrow_mut().push(reason);
                });
            }
        });
        Self {
            address,
            counters,
            drain,
            closed,
            table,
        }
    }

    pub async fn client(&self) -> Client {
        Client {
            stream: TcpStream::connect(self.address).await.expect("connected"),
            read: Vec::new(),
        }
    }

    /// The reasons of connections that ended, when there are `n`.
    pub async fn closed(&self, n: usize) -> Vec<CloseReason> {
        until(|| self.closed.borrow().len() >= n).await;
        self.closed.borrow().clone()
    }
}

/// Waits for a condition.
pub async fn until(holds: impl Fn() -> bool) {
    tokio::time::timeout(DEADLINE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("the condition holds in time");
}

async fn listen() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a loopback port")
}

/// An address nothing listens on.
pub async fn nowhere() -> SocketAddr {
    listen().await.local_addr().expect("bound")
}

/// A cluster of endpoints.
pub fn cluster(name: &str, endpoints: &[SocketAddr]) -> Arc<Cluster> {
    Arc::new(Cluster {
        id: ClusterId::new(name, 80, None),
        endpoints: endpoints
            .iter()
            .map(|&address| Endpoint { address, weight: 1 })
            .collect(),
        load_balancing: LoadBalancing::RoundRobin,
        connect_timeout: Duration::from_secs(2),
        proxy_protocol: None,
        down: Vec::new(),
        leaving: Vec::new(),
        panic: false,
        health: None,
        sources: Sources::everyone(),
        source_address: crate::model::SourceAddress::Node,
    })
}

/// A rule that sends everything to clusters by weight.
pub fn rule(destinations: &[(&str, u32)]) -> HttpRule {
    HttpRule {
        origin: Origin::new("test.yaml", 1),
        name: None,
        matches: Vec::new(),
        action: HttpAction::Route {
            destinations: destinations
                .iter()
                .map(|&(name, weight)| HttpDestination {
                    cluster: ClusterId::new(name, 80, None),
                    weight,
                    request_headers: HeaderEdits::default(),
                    response_headers: HeaderEdits::default(),
                })
                .collect(),
            timeout: None,
            rewrite: PathRewrite::default(),
        },
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    }
}

/// A virtual host.
pub fn host(name: &str, rules: Vec<HttpRule>) -> Arc<VirtualHost> {
    Arc::new(VirtualHost {
        host: name.to_owned(),
        rules: rules.into_iter().map(Arc::new).collect(),
        https_redirect: false,
    })
}

/// A table in which `rules` serve any host.
pub fn table(rules: Vec<HttpRule>, clusters: &[Arc<Cluster>]) -> HttpTable {
    HttpTable {
        any: Some(host("*", rules)),
        clusters: clusters
            .iter()
            .map(|cluster| (cluster.id.clone(), Arc::clone(cluster)))
            .collect(),
        ..HttpTable::default()
    }
}

/// A table that sends everything to one endpoint.
pub fn to(endpoint: SocketAddr) -> HttpTable {
    table(vec![rule(&[("b", 1)])], &[cluster("b", &[endpoint])])
}

/// A client that reads and writes bytes.
pub struct Client {
    pub stream: TcpStream,
    read: Vec<u8>,
}

/// A response, or a request as a backend sees it.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Start line.
    pub start: String,
    /// Fields by lower-case name, joined by `|`.
    pub fields: HashMap<String, String>,
    /// Body, without chunk framing.
    pub body: Vec<u8>,
    /// Trailer lines.
    pub trailers: String,
}

impl Message {
    pub fn status(&self) -> u16 {
        let code = self.start.split(' ').nth(1).unwrap_or_default();
        code.parse().unwrap_or_default()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("sent");
    }

    /// Reads one response; `None` at the end of the stream in front of it.
    pub async fn response(&mut self, to: &str) -> Option<Message> {
        tokio::time::timeout(DEADLINE, read_message(&mut self.stream, &mut self.read, to))
            .await
            .expect("a response in time")
    }

    /// Sends a request and reads its response.
    pub async fn ask(&mut self, request: impl AsRef<[u8]>) -> Message {
        let request = request.as_ref();
        self.write(request).await;
        let method = request.split(|&b| b == b' ').next().unwrap_or_default();
        let method = String::from_utf8_lossy(method).into_owned();
        self.response(&method).await.expect("a response")
    }

    /// Everything up to the end of the stream.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.read);
        let read = self.stream.read_to_end(&mut rest);
        // A reset is an end as well.
        let _ = tokio::time::timeout(DEADLINE, read)
            .await
            .expect("an end in time");
        rest
    }
}

/// Reads a message leniently: the tests look at what is there.
async fn read_message(stream: &mut TcpStream, read: &mut Vec<u8>, to: &str) -> Option<Message> {
    let end = loop {
        if let Some(at) = read.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if more(stream, read).await == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&read.drain(..end).collect::<Vec<_>>()).into_owned();
    let mut lines = head.split("\r\n");
    let mut message = Message {
        start: lines.next().unwrap_or_default().to_owned(),
        ..Message::default()
    };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        message
            .fields
            .entry(name.to_ascii_lowercase())
            .and_modify(|held| {
                held.push('|');
                held.push_str(value);
            })
            .or_insert_with(|| value.to_owned());
    }
    let status = message.status();
    if to == "HEAD" || matches!(status, 100..=199 | 204 | 304) {
        return Some(message);
    }
    if message.field("transfer-encoding") == Some("chunked") {
        loop {
            let line = read_line(stream, read).await?;
            let size = usize::from_str_radix(line.split(';').next()?, 16).ok()?;
            if size == 0 {
                break;
            }
            while read.len() < size + 2 {
                if more(stream, read).await == 0 {
                    return None;
                }
            }
            message.body.extend(read.drain(..size));
            read.drain(..2);
        }
        loop {
            let line = read_line(stream, read).await?;
            if line.is_empty() {
                return Some(message);
            }
            message.trailers.push_str(&line);
            message.trailers.push('\n');
        }
    }
    if let Some(length) = message.field("content-length") {
        let length: usize = length.parse().ok()?;
        while read.len() < length {
            if more(stream, read).await == 0 {
                return None;
            }
        }
        message.body = read.drain(..length).collect();
    } else if message.start.starts_with("HTTP/") {
        while more(stream, read).await > 0 {}
        message.body = std::mem::take(read);
    }
    Some(message)
}

async fn read_line(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(at) = read.windows(2).position(|w| w == b"\r\n") {
            let line = String::from_utf8_lossy(&read[..at]).into_owned();
            read.drain(..at + 2);
            return Some(line);
        }
        if more(stream, read).await == 0 {
            return None;
        }
    }
}

async fn more(stream: &mut TcpStream, read: &mut Vec<u8>) -> usize {
    stream.read_buf(read).await.unwrap_or(0)
}

/// One connection to a backend, as its script sees it.
pub struct Peer {
    pub stream: TcpStream,
    read: Vec<u8>,
    /// Number of the connection, from 0.
    pub number: usize,
    seen: Rc<RefCell<Vec<Message>>>,
}

impl Peer {
    /// The next request, which the backend also remembers.
    pub async fn request(&mut self) -> Option<Message> {
        let message = read_message(&mut self.stream, &mut self.read, "").await?;
        self.seen.borrow_mut().push(message.clone());
        Some(message)
    }

    /// The head of the next request only.
    pub async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = self.read.drain(..at + 4).collect::<Vec<_>>();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            if more(&mut self.stream, &mut self.read).await == 0 {
                return None;
            }
        }
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        // The gateway may be gone: that is what some tests are about.
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Whether the gateway has closed; reads and drops what comes before.
    pub async fn ended(&mut self) {
        let mut scratch = [0; 4096];
        while self.stream.read(&mut scratch).await.unwrap_or(0) > 0 {}
    }
}

/// A backend run by a script.
pub struct Backend {
    pub address: SocketAddr,
    /// Requests seen by [`Peer::request`].
    pub seen: Rc<RefCell<Vec<Message>>>,
    /// Connections accepted.
    pub connections: Rc<Cell<usize>>,
}

impl Backend {
    /// Runs `script` on every connection.
    pub async fn start<F: Future<Output = ()> + 'static>(
        script: impl Fn(Peer) -> F + 'static,
    ) -> Self {
        let listener = listen().await;
        let address = listener.local_addr().expect("bound");
        let seen = Rc::new(RefCell::new(Vec::new()));
        let connections = Rc::new(Cell::new(0));
        let (requests, count) = (Rc::clone(&seen), Rc::clone(&connections));
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("a TCP socket");
                let number = count.get();
                count.set(number + 1);
                tokio::task::spawn_local(script(Peer {
                    stream,
                    read: Vec::new(),
                    number,
                    seen: Rc::clone(&requests),
                }));
            }
        });
        Self {
            address,
            seen,
            connections,
        }
    }

    /// Answers every request with its own target and body.
    pub async fn echo() -> Self {
        Self::start(|mut peer| async move {
            while let Some(request) = peer.request().await {
                let target = request
                    .start
                    .split(' ')
                    .nth(1)
                    .unwrap_or_default()
                    .to_owned();
                let body = format!("{target}|{}", request.text());
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                let body = if request.start.starts_with("HEAD") {
                    ""
                } else {
                    &body
                };
                peer.write(format!("{head}{body}")).await;
            }
        })
        .await
    }

    /// Answers every request with the same bytes.
    pub async fn fixed(answer: &'static str) -> Self {
        Self::start(move |mut peer| async move {
            while peer.request().await.is_some() {
                peer.write(answer).await;
            }
        })
        .await
    }

    pub fn last(&self) -> Message {
        self.seen.borrow().last().expect("a request").clone()
    }
}
