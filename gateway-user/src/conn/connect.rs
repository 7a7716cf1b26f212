// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Dials an endpoint of a cluster.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use crate::{
    balance::{ActiveGuard, Balancer},
    conn::{
        handoff,
        source::{self, ClientAddresses},
    },
    datapath::{
        config::{KEEPALIVE, KEEPALIVE_PROBES},
        handoff::Handoffs,
        returning::NotKept,
    },
    model::SourceAddress,
    snapshot::{Cluster, TcpAction},
    telemetry::access::CloseReason,
};

/// A connection to an endpoint.
#[derive(Debug)]
pub struct Upstream {
    /// Connected.
    pub stream: TcpStream,
    /// To where.
    pub address: SocketAddr,
    /// Counts it as active.
    pub guard: ActiveGuard,
    /// Whether it has its client's address, where its cluster wants that.
    pub kept: Option<Result<(), NotKept>>,
}

/// What a connection to a backend may need from its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs<'a> {
    /// To be handed off.
    pub handoff: Option<Source<'a>>,
    /// To have its client's address; none without the kernel's programs.
    pub clients: Option<&'a ClientAddresses>,
    /// Its first bytes, which are none of the client's.
    pub header: &'a [u8],
}

/// What a connection needs from its start to be handed off later.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Says which local ends are free.
    pub table: &'a Handoffs,
    /// The connection it is for.
    pub client: &'a TcpStream,
}

/// Why no endpoint answered.
#[derive(Debug)]
pub struct ConnectError {
    /// `NoEndpoint`, `ConnectFailed` or `ConnectTimeout`.
    pub reason: CloseReason,
    /// The last one tried.
    pub address: Option<SocketAddr>,
}

/// Endpoints tried for one connection: no byte has been sent yet, so that
/// another one may stand in.
const ATTEMPTS: usize = 3;

/// Sent data that is not acknowledged for so long ends the connection
/// (TCP_USER_TIMEOUT, tcp(7)): the same span, for a peer that vanished while
/// data was on its way.
const USER_TIMEOUT: Duration = Duration::from_secs(300);

/// Connects a connection from `client`, which came for `local`, to an endpoint of
/// `cluster`, each attempt within the cluster's timeout; from where the cluster
/// and `needs` say.
///
/// # Errors
/// [`ConnectError`] when there is no endpoint, or the last attempt failed.
pub async fn connect(
    balancer: &Balancer,
    cluster: &Arc<Cluster>,
    action: &TcpAction,
    client: SocketAddr,
    local: SocketAddr,
    needs: Needs<'_>,
) -> Result<Upstream, ConnectError> {
    let mut failed: Vec<SocketAddr> = Vec::new();
    let mut error = ConnectError {
        reason: CloseReason::NoEndpoint,
        address: None,
    };
    let keeps = cluster.source_address == SourceAddress::Client;
    let from = keeps.then(|| client.ip());
    while failed.len() < ATTEMPTS {
        let Some(picked) = balancer.pick_for(cluster, action.hash_policy, client, &failed) else {
            break;
        };
        let address = action.reached_at(picked.address, local.port());
        let dialled = async {
            let (mut stream, kept) = dial(address, needs, from).await?;
            // Before any byte of the client, and whole: it is shorter than what a
            // new socket takes at once.
            stream.write_all(needs.header).await?;
            io::Result::Ok((stream, kept))
        };
        let attempt = timeout(cluster.connect_timeout, dialled).await;
        let (reason, cause) = match attempt {
            Ok(Ok((stream, kept))) => {
                return Ok(Upstream {
                    stream,
                    kept,
                    address,
                    guard: picked.guard,
                });
            }
            Ok(Err(cause)) => (CloseReason::ConnectFailed, cause),
            Err(elapsed) => (CloseReason::ConnectTimeout, elapsed.into()),
        };
        tracing::debug!(
            cluster = %cluster.id,
            upstream = %address,
            error = %cause,
            "connection attempt failed"
        );
        error = ConnectError {
            reason,
            address: Some(address),
        };
        failed.push(picked.address);
    }
    Err(error)
}

/// Connects to `address`, from the address of the client if there is one in `from`;
/// and whether that was possible.
async fn dial(
    address: SocketAddr,
    needs: Needs<'_>,
    from: Option<IpAddr>,
) -> io::Result<(TcpStream, Option<Result<(), NotKept>>)> {
    let open = || {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        set_options(&SockRef::from(&socket))?;
        io::Result::Ok(socket)
    };
    let open_for_kernel = || {
        let socket = open()?;
        if let Some(handoff) = needs.handoff {
            // Without it the connection may not fit; then it stays with the agent.
            let _ = handoff::limit_mss(&socket, handoff.client);
        }
        Ok(socket)
    };
    let own = from.map(|client| match needs.clients {
        Some(clients) => clients.start(client, address, open_for_kernel),
        None => Err(NotKept::NoPrograms),
    });
    let (started, kept) = match own {
        Some(Ok(socket)) => (Some(socket), Some(Ok(()))),
        Some(Err(reason)) => (None, Some(Err(reason))),
        None => (None, None),
    };
    let started = match (started, needs.handoff) {
        (None, Some(handoff)) => {
            let node = source::of_node(address)?;
            source::start_from(handoff.table, node, address, open_for_kernel)?
        }
        (started, _) => started,
    };
    let socket = match started {
        Some(socket) => socket,
        None => {
            let socket = open()?;
            source::start(&socket, address)?;
            socket
        }
    };
    Ok((connected(socket).await?, kept))
}

/// Waits for the end of connect(2).
async fn connected(socket: Socket) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    match stream.take_error()? {
        None => Ok(stream),
        Some(error) => Err(error),
    }
}

/// What both sides of every connection have: no delay of small segments, and a
/// dead peer found. A listening socket hands them on to what it accepts.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_options(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}
