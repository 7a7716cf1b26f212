// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sends IP packets as they are, whoever their source is (raw(7)): needs
//! CAP_NET_RAW.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// One socket for each family, opened when it is needed first.
#[derive(Debug, Default)]
pub struct RawSender {
    v4: Option<Socket>,
    v6: Option<Socket>,
}

impl RawSender {
    /// Sends a whole IP packet to `dst`, without waiting.
    ///
    /// # Errors
    /// Those of socket(2) and sendto(2): without CAP_NET_RAW, or when there is
    /// no route.
    pub fn send(&mut self, packet: &[u8], dst: IpAddr) -> io::Result<()> {
        let (socket, domain) = match dst {
            IpAddr::V4(_) => (&mut self.v4, Domain::IPV4),
            IpAddr::V6(_) => (&mut self.v6, Domain::IPV6),
        };
        let socket = match socket {
            Some(socket) => socket,
            none => none.insert(open(domain)?),
        };
        // The port is that in the packet; here there is none.
        socket.send_to(packet, &SockAddr::from(SocketAddr::new(dst, 0)))?;
        Ok(())
    }
}

/// A socket of IPPROTO_RAW: it takes whole packets and receives none.
fn open(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
