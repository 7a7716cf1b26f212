// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One connection: accept, peek, decide, act, record.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::{
    balance::Balancer,
    conn::{
        client_hello::Outcome,
        copy::Stream,
        decide::{Decision, Step},
        handoff::{About, Handoff, HandoffOptions},
        limits::{ConnectionLimits, HttpLimits},
        prefixed::Prefixed,
        session::Session,
        source::ClientAddresses,
    },
    datapath::handoff::{Ends, RelayMode},
    drain::DrainWatcher,
    http::{self, HttpWorker},
    model::HashPolicy,
    proxy_header::TlsVersion,
    snapshot::{Cluster, HttpTable, SnapshotHandle, TcpAction},
    telemetry::{
        access::{CloseReason, Mode},
        counters::WorkerCounters,
    },
    tls::handshake::{self, HandshakeError},
};

pub mod client_hello;
pub mod connect;
pub mod copy;
pub mod decide;
pub mod handoff;
pub mod limits;
pub mod peek;
pub mod prefixed;
mod refuse;
mod scratch;
mod session;
pub mod source;
pub mod splice;

/// What the connections of one worker thread share.
pub struct Worker {
    /// Asked once for a connection, and once for each HTTP request.
    snapshot: SnapshotHandle,
    limits: ConnectionLimits,
    counters: Arc<WorkerCounters>,
    balancer: Rc<Balancer>,
    http: Rc<HttpWorker>,
    /// Where connections can be handed to the kernel.
    handoff: Option<HandoffOptions>,
    /// Where they can have their client's address.
    clients: Option<ClientAddresses>,
    /// Every connection holds a guard of it.
    drain: DrainWatcher,
}

impl Worker {
    /// One per thread, as `counters` are.
    pub fn new(
        snapshot: SnapshotHandle,
        limits: ConnectionLimits,
        http: HttpLimits,
        handoff: Option<HandoffOptions>,
        clients: Option<ClientAddresses>,
        counters: Arc<WorkerCounters>,
        drain: DrainWatcher,
    ) -> Rc<Self> {
        let balancer = Balancer::new();
        Rc::new(Self {
            snapshot,
            limits,
            http: HttpWorker::new(
                Arc::clone(&counters),
                Rc::clone(&balancer),
                drain.clone(),
                http,
            ),
            counters,
            balancer,
            handoff,
            clients,
            drain,
        })
    }

    /// Limits of every connection.
    pub fn limits(&self) -> &ConnectionLimits {
        &self.limits
    }

    /// Tells when to stop accepting.
    pub fn drain(&self) -> &DrainWatcher {
        &self.drain
    }
}

type Client = Prefixed<TcpStream>;

/// Serves one connection to its end. However it ends, also when this future is
/// dropped, there is one access record and one counted reason.
pub async fn serve(stream: TcpStream, peer: SocketAddr, local: SocketAddr, worker: Rc<Worker>) {
    let mut session = Session::new(peer, local, Rc::clone(&worker));
    let reason = decide_and_act(stream, &mut session, &worker).await;
    session.end(reason);
}

/// Resets a connection for which there is no room, and records it.
pub fn refuse_over_limit(
    stream: &TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    worker: Rc<Worker>,
) {
    copy::reset_on_drop(stream);
    Session::new(peer, local, worker).end(CloseReason::OverLimit);
}

async fn decide_and_act(
    stream: TcpStream,
    session: &mut Session,
    worker: &Rc<Worker>,
) -> CloseReason {
    // The listener is looked up when the connection is accepted, and kept: a
    // change of the configuration is for those that come later.
    let listener = {
        let snapshot = worker.snapshot.load();
        snapshot
            .listener(session.local.ip(), session.local.port())
            .cloned()
    };
    let mut received = Vec::new();
    let decision = match decide::decide(listener.as_deref(), session.peer.ip()) {
        Step::Act(decision) => decision,
        Step::Peek(table) => {
            let outcome = peek::peek(&stream, &mut received, &worker.limits).await;
            session.counts.add_read(received.len());
            match outcome {
                Ok(outcome) => {
                    if let Outcome::Hello(hello) = &outcome {
                        session.sni.clone_from(&hello.sni);
                        session.alpn = hello.alpn.first().cloned();
                        if let [only] = &hello.alpn[..]
                            && !only.contains(char::REPLACEMENT_CHARACTER)
                        {
                            session.spoken = Some(only.clone());
                        }
                    }
                    decide::decide_tls(table, &outcome)
                }
                Err(reason) => Decision::Refuse(reason),
            }
        }
    };
    drop(listener);
    let client = |received| Prefixed::new(stream, received, Rc::clone(&session.counts));
    match decision {
        Decision::Refuse(reason) => {
            refuse::close(client(Vec::new()), reason).await;
            reason
        }
        Decision::Passthrough(chain, action) => {
            let client = client(received);
            session.decided(Mode::Passthrough, &chain.origin);
            proxy(client, &action, session, worker).await
        }
        Decision::Forward(action) => {
            let client = client(received);
            session.decided(Mode::Forward, &action.origin);
            proxy(client, &action, session, worker).await
        }
        // Boxed: these futures are large, and a waiting passthrough connection
        // is not to pay for them.
        Decision::TerminateTcp(chain, config, action) => {
            let client = client(received);
            session.decided(Mode::TerminateTcp, &chain.origin);
            Box::pin(async {
                match terminate(client, config, session, worker).await {
                    Ok(client) => proxy(client, &action, session, worker).await,
                    Err(reason) => reason,
                }
            })
            .await
        }
        Decision::TerminateHttp(chain, config, table) => {
            let client = client(received);
            session.decided(Mode::TerminateHttp, &chain.origin);
            Box::pin(async {
                match terminate(client, config, session, worker).await {
                    Ok(client) => {
                        let http2 = session.alpn.as_deref() == Some("h2");
                        serve_http(client, http2, table, session, worker).await
                    }
                    Err(reason) => reason,
                }
            })
            .await
        }
        Decision::PlainHttp(table) => {
            let client = client(received);
            session.mode = Mode::PlainHttp;
            Box::pin(serve_http(client, false, table, session, worker)).await
        }
    }
}

/// Completes the TLS handshake and notes what was negotiated.
async fn terminate(
    client: Client,
    config: Arc<ServerConfig>,
    session: &mut Session,
    worker: &Worker,
) -> Result<TlsStream<Client>, CloseReason> {
    match handshake::accept(client, config, worker.limits.handshake_timeout).await {
        Ok(client) => {
            let tls = client.get_ref().1;
            session.alpn = tls
                .alpn_protocol()
                .map(|name| String::from_utf8_lossy(name).into_owned());
            session.spoken.clone_from(&session.alpn);
            session.tls = TlsVersion::of(tls);
            Ok(client)
        }
        Err(HandshakeError::Timeout(_)) => Err(CloseReason::HandshakeTimeout),
        Err(HandshakeError::Failed(error)) => {
            tracing::debug!(peer = %session.peer, sni = session.sni, %error, "tls handshake failed");
            Err(CloseReason::HandshakeFailed)
        }
    }
}

/// Connects to an endpoint and copies both ways.
async fn proxy<C: Stream>(
    mut client: C,
    action: &TcpAction,
    session: &mut Session,
    worker: &Worker,
) -> CloseReason {
    let Some(cluster) = destination(action, session.peer, &worker.balancer) else {
        return CloseReason::NoEndpoint;
    };
    session.cluster = Some(Arc::clone(cluster));
    if !cluster.sources.contain(session.peer.ip()) {
        copy::reset_on_drop(client.socket());
        return CloseReason::SourceDenied;
    }
    let handoff = worker.handoff.as_ref().filter(|options| {
        matches!(session.mode, Mode::Passthrough | Mode::Forward)
            && options.includes(&action.handoff)
    });
    let header = match session.header(cluster) {
        Ok(header) => header,
        Err(error) => {
            tracing::debug!(peer = %session.peer, %error, "no PROXY header");
            copy::reset_on_drop(client.socket());
            return CloseReason::Internal;
        }
    };
    let needs = connect::Needs {
        handoff: handoff.map(|options| connect::Source {
            table: &options.table,
            client: client.socket(),
        }),
        clients: worker.clients.as_ref(),
        header: &header,
    };
    let connected = connect::connect(
        &worker.balancer,
        cluster,
        action,
        session.peer,
        session.local,
        needs,
    )
    .await;
    match connected {
        Ok(mut upstream) => {
            session.upstream = Some(upstream.address);
            session.kept = upstream.kept;
            if let Some(kept) = upstream.kept {
                source::count(kept, &worker.counters);
            }
            let handoff = handoff.and_then(|options| {
                let ends = Ends {
                    client: session.peer,
                    destination: session.local,
                    source: upstream.stream.local_addr().ok()?,
                    backend: upstream.address,
                };
                let about = About {
                    ends,
                    mode: match session.mode {
                        Mode::Forward => RelayMode::Forward,
                        _ => RelayMode::Passthrough,
                    },
                    sni: session.sni.clone(),
                    alpn: session.alpn.clone(),
                    rule: session.rule()?.clone(),
                    cluster: Arc::clone(cluster),
                    accepted: session.accepted,
                    idle: action.idle_timeout,
                    policy: action.handoff,
                };
                let counters = Arc::clone(&worker.counters);
                source::is_ours(&options.table, ends.source)
                    .then(|| Box::new(Handoff::new(options, counters, &worker.drain, about)))
            });
            copy::bidirectional(
                &mut client,
                &mut upstream.stream,
                action.idle_timeout,
                handoff,
            )
            .await
        }
        Err(error) => {
            session.upstream = error.address;
            // A client that speaks TLS learns more from a reset than from an
            // end in the middle of its handshake.
            copy::reset_on_drop(client.socket());
            error.reason
        }
    }
}

fn destination<'a>(
    action: &'a TcpAction,
    client: SocketAddr,
    balancer: &Balancer,
) -> Option<&'a Arc<Cluster>> {
    match action.hash_policy {
        HashPolicy::FiveTuple => balancer.pick_weighted(&action.destinations),
        HashPolicy::SourceAddress => {
            balancer.pick_weighted_by_source(&action.destinations, client.ip())
        }
    }
}

/// Hands the connection to the HTTP room.
async fn serve_http<C: Stream + 'static>(
    client: C,
    http2: bool,
    decided: Arc<HttpTable>,
    session: &Session,
    worker: &Worker,
) -> CloseReason {
    let snapshot = worker.snapshot.clone();
    let (local, sni) = (session.local, session.sni.clone());
    // A kept connection sees new routes; when its listener or chain is gone it
    // keeps those it came for.
    let table = Rc::new(move || {
        let snapshot = snapshot.load();
        let listener = snapshot.listener(local.ip(), local.port());
        decide::http_table(listener.map(AsRef::as_ref), sni.as_deref())
            .unwrap_or_else(|| Arc::clone(&decided))
    });
    let connection = http::Connection {
        peer: session.peer,
        local,
        mode: session.mode,
        sni: session.sni.clone(),
        tls: session.tls,
        http2,
        table,
    };
    http::serve(client, connection, &worker.http).await
}

#[cfg(test)]
mod tests;
