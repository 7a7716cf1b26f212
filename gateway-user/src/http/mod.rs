// SPDX-License-Identifier: Apache-2.0 OR MIT
//! HTTP: validate, route, forward, respond.
//!
//! Everything here belongs to one worker thread: no lock, no atomic reference
//! count on the path of a request. [`router`] and the checks are pure.

use std::{cell::Cell, io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    balance::Balancer,
    drain::DrainWatcher,
    http::{
        guard::Turn,
        upstream::{Link, Pool},
    },
    proxy_header::{self, Proxied, TlsVersion},
    snapshot::{Cluster, HttpTable},
    telemetry::{access::Mode, counters::WorkerCounters},
};

mod attempt;
mod authority;
mod deadline;
mod exchange;
mod forward;
pub mod framing;
mod guard;
mod headers;
pub mod path;
mod request_body;
mod respond;
mod response_body;
pub mod router;
mod server;
mod upstream;
mod upstream_guard;
pub mod validate;

pub use server::serve;

/// A client connection that speaks HTTP.
pub struct Connection {
    /// The client.
    pub peer: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// `PlainHttp`, or `TerminateHttp` when TLS ended here.
    pub mode: Mode,
    /// Server name of its ClientHello.
    pub sni: Option<String>,
    /// Version of the TLS that ended here.
    pub tls: Option<TlsVersion>,
    /// ALPN chose `h2`. HTTP/2 with prior knowledge is recognised without it
    /// where there is no TLS.
    pub http2: bool,
    /// The table in force, asked once per request: a keep-alive connection
    /// follows the configuration.
    pub table: Rc<dyn Fn() -> Arc<HttpTable>>,
}

/// Bounds of what a client or an upstream may make us hold.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// From the first byte of a request head, or from accept, to its end.
    pub head_timeout: Duration,
    /// A connection between requests.
    pub idle_timeout: Duration,
    /// No byte of a request body arrives, or none of a response is taken.
    pub stall_timeout: Duration,
    /// Bytes of a request or response head.
    pub max_head: usize,
    /// Header fields of a head.
    pub max_headers: usize,
    /// An idle upstream connection.
    pub upstream_idle_timeout: Duration,
    /// Idle upstream connections per endpoint and thread.
    pub upstream_max_idle: usize,
    /// HTTP/2 streams a client may have open.
    pub max_concurrent_streams: u32,
    /// Bytes of a decoded HTTP/2 header list.
    pub max_header_list: u32,
    /// HTTP/2 streams a client may reset before we have looked at them.
    pub max_pending_resets: usize,
    /// Between HTTP/2 PINGs to a silent client.
    pub ping_interval: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(60),
            max_head: 64 * 1024,
            max_headers: 128,
            upstream_idle_timeout: Duration::from_secs(60),
            upstream_max_idle: 64,
            max_concurrent_streams: 100,
            max_header_list: 64 * 1024,
            max_pending_resets: 20,
            ping_interval: Duration::from_secs(30),
        }
    }
}

/// What the HTTP connections of one thread share.
pub struct HttpWorker {
    counters: Arc<WorkerCounters>,
    balancer: Rc<Balancer>,
    drain: DrainWatcher,
    limits: Rc<HttpLimits>,
    pool: Pool,
}

impl HttpWorker {
    /// One per thread. `counters.bytes_in` and `bytes_out` are left to the
    /// owner of the socket.
    pub fn new(
        counters: Arc<WorkerCounters>,
        balancer: Rc<Balancer>,
        drain: DrainWatcher,
        limits: HttpLimits,
    ) -> Rc<Self> {
        Rc::new(Self {
            counters,
            balancer,
            drain,
            limits: Rc::new(limits),
            pool: Pool::default(),
        })
    }
}

/// What the requests of one connection share.
pub(crate) struct Client {
    peer: SocketAddr,
    local: SocketAddr,
    mode: Mode,
    sni: Option<String>,
    tls: Option<TlsVersion>,
    table: Rc<dyn Fn() -> Arc<HttpTable>>,
    /// Upstream connections that began with this client's PROXY header: for
    /// nobody else.
    own: Pool,
    worker: Rc<HttpWorker>,
    /// Of HTTP/1.
    turn: Option<Rc<Turn>>,
    /// Requests not yet answered in full.
    active: Cell<usize>,
    /// When the last one ended.
    last_active: Cell<Instant>,
}

impl Client {
    /// As the client sees the gateway.
    fn scheme(&self) -> &'static str {
        match self.mode {
            Mode::PlainHttp => "http",
            _ => "https",
        }
    }

    /// What a connection to a cluster begins with on its behalf. What is spoken
    /// there is not what ALPN has agreed upon here.
    fn header(&self, cluster: &Cluster) -> io::Result<Vec<u8>> {
        let Some(version) = cluster.proxy_protocol else {
            return Ok(Vec::new());
        };
        let of = Proxied {
            client: self.peer,
            destination: self.local,
            authority: self.sni.as_deref(),
            alpn: None,
            tls: self.tls,
        };
        proxy_header::proxied(version, &of)
    }

    /// Where connections to a cluster wait for the next request.
    fn pool(&self, cluster: &Cluster) -> &Pool {
        match cluster.proxy_protocol {
            Some(_) => &self.own,
            None => &self.worker.pool,
        }
    }

    /// Keeps an upstream connection for another request that it is fit for.
    fn keep(&self, link: Link) {
        let pool = if link.is_personal() {
            &self.own
        } else {
            &self.worker.pool
        };
        pool.put(link, self.worker.limits.upstream_max_idle);
    }
}

#[cfg(test)]
mod tests;
