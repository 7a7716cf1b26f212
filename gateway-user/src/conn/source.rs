// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The local end of connections to backends, where the kernel's programs need to
//! know it: a port of the range that no flow of a service uses, at the node's
//! address or at that of the client.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::Arc,
};

use socket2::Socket;

use crate::{
    datapath::{
        handoff::Handoffs,
        returning::{NotKept, Returning},
    },
    telemetry::counters::{NODE_SOURCES, WorkerCounters},
};

/// What connections need to have the addresses of their clients.
#[derive(Clone, Debug)]
pub struct ClientAddresses {
    /// Says which local ends are free.
    pub table: Arc<Handoffs>,
    /// To where it works.
    pub returning: Arc<Returning>,
}

impl ClientAddresses {
    /// A socket that connects `client` to `backend` from the client's address, as
    /// [`start_from`] does.
    ///
    /// # Errors
    /// Why the connection is to have the node's address.
    pub fn start(
        &self,
        client: IpAddr,
        backend: SocketAddr,
        open: impl Fn() -> io::Result<Socket>,
    ) -> Result<Socket, NotKept> {
        self.returning.keeps(client, backend.ip())?;
        let open = || {
            let socket = open()?;
            set_transparent(&socket, backend.is_ipv6())?;
            Ok(socket)
        };
        match start_from(&self.table, client.to_canonical(), backend, open) {
            Ok(Some(socket)) => Ok(socket),
            Ok(None) => Err(NotKept::NoPort),
            Err(error) => {
                tracing::debug!(%client, %backend, %error, "no socket with the client's address");
                Err(NotKept::Refused)
            }
        }
    }
}

/// Lets a socket be bound to an address that is not the node's (ip(7),
/// IP_TRANSPARENT; ipv6(7)). Takes CAP_NET_ADMIN or CAP_NET_RAW.
fn set_transparent(socket: &Socket, is_ipv6: bool) -> io::Result<()> {
    if !is_ipv6 {
        return socket.set_ip_transparent_v4(true);
    }
    let one: libc::c_int = 1;
    // SAFETY: the descriptor is the socket's, which lives, and the pointer and the
    // length are those of a local value.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IPV6,
            libc::IPV6_TRANSPARENT,
            (&raw const one).cast(),
            size_of_val(&one) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The node's address towards `backend`.
///
/// # Errors
/// Those of socket(2) and connect(2).
pub fn of_node(backend: SocketAddr) -> io::Result<IpAddr> {
    // Which address the kernel would take: it says so of a socket that never
    // sends.
    let any: SocketAddr = match backend {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let asked = UdpSocket::bind(any)?;
    asked.connect(backend)?;
    Ok(asked.local_addr()?.ip())
}

/// A socket that connects to `backend` from the address `source` and a port that no
/// handed-off connection to it has. None when a few ports in a row are taken. `open`
/// makes an unbound one that does not block.
///
/// Connections to different backends share ports (SO_REUSEADDR, socket(7)), and the
/// kernel refuses one that the same backend knows from an open socket or one that
/// has just ended. The table is asked once more when the port is had: a connection
/// is in it before its socket is closed, so what is free then stays free.
///
/// # Errors
/// Those of `open`, of connect(2).
pub fn start_from(
    table: &Handoffs,
    source: IpAddr,
    backend: SocketAddr,
    open: impl Fn() -> io::Result<Socket>,
) -> io::Result<Option<Socket>> {
    let ports = table.ports();
    let count = u32::from(*ports.end() - *ports.start()) + 1;
    let first = random() % count;
    for offset in 0..PORT_TRIES.min(count) {
        let port = u32::from(*ports.start()) + (first + offset) % count;
        // Within a range of ports.
        let source = SocketAddr::new(source, port as u16);
        if table.is_taken(source, backend) {
            continue;
        }
        let socket = open()?;
        socket.set_reuse_address(true)?;
        if socket.bind(&source.into()).is_err() {
            continue;
        }
        match start(&socket, backend) {
            Ok(()) if !table.is_taken(source, backend) => return Ok(Some(socket)),
            // Its last owner has handed it off in between.
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Begins to connect a socket that does not block.
///
/// # Errors
/// Those of connect(2).
pub fn start(socket: &Socket, backend: SocketAddr) -> io::Result<()> {
    match socket.connect(&backend.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        result => result,
    }
}

/// Counts whose address a connection came from, where its cluster wants its client's.
pub fn count(kept: Result<(), NotKept>, counters: &WorkerCounters) {
    const { assert!(NotKept::ALL.len() == NODE_SOURCES) };
    match kept {
        Ok(()) => counters.client_source.add(1),
        Err(reason) => counters.node_source[reason as usize].add(1),
    }
}

/// Whether a connection from this port may be handed off.
pub fn is_ours(table: &Handoffs, source: SocketAddr) -> bool {
    table.ports().contains(&source.port())
}

/// Ports looked at for one connection.
const PORT_TRIES: u32 = 16;

/// A different number each time; no secret.
fn random() -> u32 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() as u32
}
