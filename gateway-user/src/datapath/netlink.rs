// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Questions to the kernel by netlink, asked and answered at once.
//!
//! The kernel answers a netlink request before `sendmsg` returns, so a blocking
//! socket never waits, and needs neither a task nor a runtime.

use std::{
    fmt::Debug,
    io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
};

use rtnetlink::{
    MulticastGroup,
    packet_core::{
        NLM_F_ACK, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
        NetlinkPayload, NetlinkSerializable,
    },
    packet_route::AddressFamily,
    sys::{
        Socket, SocketAddr,
        protocols::{NETLINK_GENERIC, NETLINK_ROUTE},
    },
};

/// A socket for requests.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket for links, addresses, routes and neighbours, in the thread's
    /// network namespace.
    ///
    /// # Errors
    /// Those of `socket` and `bind`.
    pub fn open() -> io::Result<Self> {
        Self::of(NETLINK_ROUTE)
    }

    /// Opens one for generic netlink.
    ///
    /// # Errors
    /// As [`Netlink::open`].
    pub fn open_generic() -> io::Result<Self> {
        Self::of(NETLINK_GENERIC)
    }

    fn of(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends a request and collects the answers. `flags` come on top of those
    /// of every request.
    ///
    /// # Errors
    /// What the kernel answers, or the socket.
    pub fn ask<M>(&mut self, message: M, flags: u16) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for message in messages::<M>(&datagram) {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    _ => {}
                }
            }
        }
    }
}

/// The messages of a datagram. One that cannot be parsed is passed over: the
/// kernel may be newer than the parser.
fn messages<M>(datagram: &[u8]) -> impl Iterator<Item = NetlinkMessage<M>>
where
    M: NetlinkDeserializable + Debug,
{
    let mut rest = datagram;
    std::iter::from_fn(move || {
        loop {
            let length: [u8; 4] = rest.get(..4)?.try_into().ok()?;
            let length = u32::from_ne_bytes(length) as usize;
            // The shortest message is its header, 16 bytes (netlink(7)).
            if length < 16 {
                return None;
            }
            let message = rest.get(..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            if let Ok(message) = NetlinkMessage::deserialize(message) {
                return Some(message);
            }
        }
    })
}

/// A socket that hears of every change of links, addresses, routes and rules.
#[derive(Debug)]
pub struct Changes(Socket);

impl Changes {
    /// Subscribes in the thread's network namespace.
    ///
    /// # Errors
    /// Those of `socket` and `bind`.
    pub fn open() -> io::Result<Self> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv6Route,
        ];
        let mask = groups
            .iter()
            .fold(0, |mask, group| mask | 1 << (*group as u32 - 1));
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, mask))?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// A copy that becomes readable with a change; only [`Changes::any`] may
    /// read it.
    ///
    /// # Errors
    /// Those of `dup`.
    pub fn watch(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }

    /// Whether anything has changed since the last call.
    pub fn any(&self) -> bool {
        let mut changed = false;
        loop {
            let mut discard = Vec::with_capacity(4_096);
            match self.0.recv(&mut discard, 0) {
                Ok(_) => changed = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return changed,
                // ENOBUFS: so much changed that some of it was lost. Any other
                // error is not silence either.
                Err(_) => return true,
            }
        }
    }
}

/// The address family and the prefix length of one address.
pub fn family(ip: IpAddr) -> (AddressFamily, u8) {
    match ip {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    }
}
