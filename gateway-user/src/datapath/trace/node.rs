// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the kernel of this node says: interfaces, neighbours, routes.

use std::net::{IpAddr, SocketAddr};

use gateway_common::flow::FlowKey;
use rtnetlink::{
    packet_core::NLM_F_DUMP,
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkFlags, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
        route::{RouteAttribute, RouteMessage, RouteType},
    },
};

use super::{
    fib::{Fib, Hop, Lookup, NoHop},
    pinned::asked,
};
use crate::datapath::{
    DatapathError,
    netlink::{Netlink, family},
};

/// Bytes of the packet whose way is asked for: a SYN with the usual options.
const LENGTH: u16 = 60;

/// Sockets and answers that do not change within a walk.
pub struct Node {
    netlink: Netlink,
    fib: Fib,
    links: Vec<Link>,
}

/// An interface.
#[derive(Clone, Debug)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// It is up and has a carrier.
    pub running: bool,
    /// It has no MAC addresses to resolve.
    pub no_arp: bool,
}

/// Where the stack would send a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To this node itself.
    Local,
    /// Out of the interface with this index.
    Out(u32),
    /// Nowhere.
    None,
}

impl Node {
    /// Opens the sockets in the thread's network namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open() -> Result<Self, DatapathError> {
        let mut netlink = Netlink::open().map_err(asked("open a netlink socket"))?;
        let answers = netlink
            .ask(
                RouteNetlinkMessage::GetLink(LinkMessage::default()),
                NLM_F_DUMP,
            )
            .map_err(asked("list the interfaces"))?;
        let links = answers.into_iter().filter_map(link).collect();
        Ok(Self {
            netlink,
            fib: Fib::open().map_err(asked("load the program that asks for routes"))?,
            links,
        })
    }

    /// The interface with an index.
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The interface with a name.
    pub fn named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// Its name for people.
    pub fn name(&self, index: u32) -> String {
        self.link(index)
            .map_or_else(|| format!("interface {index}"), |link| link.name.clone())
    }

    /// Where the stack sends what this node itself has for `ip`.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn way(&mut self, ip: IpAddr) -> Result<Way, DatapathError> {
        let ip = ip.to_canonical();
        let mut request = RouteMessage::default();
        (
            request.header.address_family,
            request.header.destination_prefix_length,
        ) = family(ip);
        request
            .attributes
            .push(RouteAttribute::Destination(ip.into()));
        let answers = match self.netlink.ask(RouteNetlinkMessage::GetRoute(request), 0) {
            Ok(answers) => answers,
            // Among them ENETUNREACH; a socket that does not work would have
            // failed before.
            Err(_) => return Ok(Way::None),
        };
        let way = answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => Some(way(&route)),
            _ => None,
        });
        Ok(way.unwrap_or(Way::None))
    }

    /// The programs' question for the way of a packet with this tuple, which
    /// came in by an interface.
    ///
    /// # Errors
    /// When the helper refuses.
    pub fn hop(
        &self,
        ingress: u32,
        protocol: u8,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Result<Result<Hop, NoHop>, DatapathError> {
        let lookup = Lookup {
            source,
            destination,
            protocol,
            ingress,
            length: LENGTH,
        };
        let asking = asked(format!("look up the route to {}", destination.ip()));
        self.fib.look_up(&lookup).map_err(asking)
    }

    /// State and MAC address of a neighbour; none when there is no entry.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn neighbour(
        &mut self,
        index: u32,
        ip: IpAddr,
    ) -> Result<Option<(NeighbourState, String)>, DatapathError> {
        let mut request = NeighbourMessage::default();
        (request.header.family, _) = family(ip);
        let answers = self
            .netlink
            .ask(RouteNetlinkMessage::GetNeighbour(request), NLM_F_DUMP)
            .map_err(asked("list the neighbours"))?;
        let wanted = NeighbourAddress::from(ip);
        Ok(answers.into_iter().find_map(|answer| {
            let RouteNetlinkMessage::NewNeighbour(neighbour) = answer else {
                return None;
            };
            let mut is_wanted = false;
            let mut mac = String::new();
            for attribute in neighbour.attributes {
                match attribute {
                    NeighbourAttribute::Destination(of) => is_wanted = of == wanted,
                    NeighbourAttribute::LinkLayerAddress(bytes) => {
                        let bytes: Vec<String> =
                            bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                        mac = bytes.join(":");
                    }
                    _ => {}
                }
            }
            (is_wanted && neighbour.header.ifindex == index)
                .then_some((neighbour.header.state, mac))
        }))
    }
}

/// The address a key's packets are sent to.
pub fn destination(key: &FlowKey) -> IpAddr {
    key.dst.into()
}

fn link(answer: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else {
        return None;
    };
    let flags = message.header.flags;
    let (mut name, mut mtu) = (None, 0);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text),
            LinkAttribute::Mtu(bytes) => mtu = bytes,
            _ => {}
        }
    }
    Some(Link {
        index: message.header.index,
        name: name?,
        mtu,
        running: flags.contains(LinkFlags::Up) && flags.contains(LinkFlags::LowerUp),
        no_arp: flags.contains(LinkFlags::Noarp),
    })
}

fn way(route: &RouteMessage) -> Way {
    match route.header.kind {
        RouteType::Local => Way::Local,
        RouteType::Unicast => {
            let out = route
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                });
            out.map_or(Way::None, Way::Out)
        }
        _ => Way::None,
    }
}
