// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Makes listening sockets.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::{conn::connect, snapshot::ListenKey};

/// A socket for sk_lookup to steer to, on a port the kernel chooses.
///
/// It must not be bound to an IPv6 address: only an unspecified one serves IPv4
/// too, and a socket map takes one socket for both.
pub(super) fn steered(backlog: i32) -> io::Result<TcpListener> {
    open(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0, false, backlog)
        .or_else(|_| open(IpAddr::V4(Ipv4Addr::LOCALHOST), 0, false, backlog))
}

/// A socket on a listener's own port, which others of this process share
/// (SO_REUSEPORT, socket(7)).
pub(super) fn bound(key: ListenKey, backlog: i32) -> io::Result<TcpListener> {
    match key.ip() {
        Some(ip) => open(ip, key.port, true, backlog),
        None => {
            open(Ipv6Addr::UNSPECIFIED.into(), key.port, true, backlog).or_else(|error| match error
                .raw_os_error()
            {
                // No IPv6 on this machine.
                Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => {
                    open(Ipv4Addr::UNSPECIFIED.into(), key.port, true, backlog)
                }
                _ => Err(error),
            })
        }
    }
}

fn open(ip: IpAddr, port: u16, shared: bool, backlog: i32) -> io::Result<TcpListener> {
    let address = SocketAddr::new(ip, port);
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    if ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    // Accepted sockets inherit these (tcp(7)), which saves as many system calls
    // per connection.
    connect::set_options(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}
