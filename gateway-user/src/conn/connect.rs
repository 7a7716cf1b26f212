// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Dials an endpoint of a cluster.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{
    balance::{ActiveGuard, Balancer},
    conn::handoff,
    datapath::{
        config::{KEEPALIVE, KEEPALIVE_PROBES},
        handoff::Handoffs,
    },
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
/// `cluster`, each attempt within the cluster's timeout; from a
/// source of the datapath's own with `handoff`. Its first bytes are
/// `header`, which is no byte of the client's.
///
/// # Errors
/// [`ConnectError`] when there is no endpoint, or the last attempt failed.
pub async fn connect(
    balancer: &Balancer,
    cluster: &Arc<Cluster>,
    action: &TcpAction,
    client: SocketAddr,
    local: SocketAddr,
    handoff: Option<&Source<'_>>,
    header: &[u8],
) -> Result<Upstream, ConnectError> {
    let mut failed: Vec<SocketAddr> = Vec::new();
    let mut error = ConnectError {
        reason: CloseReason::NoEndpoint,
        address: None,
    };
    while failed.len() < ATTEMPTS {
        let Some(picked) = balancer.pick_for(cluster, action.hash_policy, client, &failed) else {
            break;
        };
        let address = action.reached_at(picked.address, local.port());
        let dialled = async {
            let mut stream = dial(address, handoff).await?;
            // Before any byte of the client, and whole: it is shorter than what a
            // new socket takes at once.
            stream.write_all(header).await?;
            io::Result::Ok(stream)
        };
        let attempt = timeout(cluster.connect_timeout, dialled).await;
        let (reason, cause) = match attempt {
            Ok(Ok(stream)) => {
                return Ok(Upstream {
                    stream,
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

async fn dial(address: SocketAddr, handoff: Option<&Source<'_>>) -> io::Result<TcpStream> {
    let open = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        set_options(&SockRef::from(&socket))?;
        Ok(socket)
    };
    if let Some(source) = handoff
        && let Some(socket) = handoff::bound(source.table, address, open)?
    {
        // Without it the connection may not fit; then it stays with the agent.
        let _ = handoff::limit_mss(&socket, source.client);
        return socket.connect(address).await;
    }
    open()?.connect(address).await
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
