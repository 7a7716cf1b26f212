// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Entries of the neighbour tables: next hops that are kept resolved, and VIPs
//! that are answered for.
//!
//! At XDP a packet leaves with the MAC address that the neighbour entry has, and
//! nothing tells the kernel that the entry is in use: it goes stale, and a next
//! hop that has moved is not noticed. The kernel probes entries by itself that are
//! marked as managed (NTF_EXT_MANAGED, Linux 5.16).
//!
//! A local route makes the node answer ARP for a VIP, but not neighbour
//! solicitations: those are for addresses of the interface, or for proxied ones
//! (`ndisc_recv_ns` of the kernel).
//!
//! Both outlive the agent. Ours carry a protocol number of their own, so that
//! they are recognised and given back.

use std::{collections::BTreeSet, io, net::IpAddr};

use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        neighbour::{
            NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags,
            NeighbourMessage, NeighbourState,
        },
    },
};

use crate::datapath::{
    netlink::{Netlink, family},
    vips::PROTOCOL,
};

/// Next hops kept resolved: half of what the kernel's tables hold by default
/// (gc_thresh3 of arp(7)).
pub const MOST: usize = 512;

/// An entry: the interface's index and the address.
pub type Place = (u32, IpAddr);

/// What a kind of entry is marked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Probed by the kernel for as long as it stands.
    Managed,
    /// Answered for on the interface.
    Proxied,
}

impl Kind {
    /// What does not work without, for a warning.
    pub fn problem(self) -> &'static str {
        match self {
            Self::Managed => {
                "the kernel does not keep next hops resolved (Linux 5.16 does): one that moves is noticed late at XDP"
            }
            Self::Proxied => {
                "neighbour solicitations for the VIPs are not answered: route the VIPs to this node"
            }
        }
    }
}

/// Makes the entries of ours those of `wanted`. One that somebody has made
/// permanent stays as it is.
///
/// # Errors
/// When the kernel refuses one.
pub fn follow(netlink: &mut Netlink, kind: Kind, wanted: &BTreeSet<Place>) -> io::Result<()> {
    let (ours, fixed) = entries(netlink, kind)?;
    for place in wanted
        .difference(&ours)
        .filter(|place| !fixed.contains(place))
    {
        let message = RouteNetlinkMessage::NewNeighbour(entry(*place, kind));
        netlink.ask(message, NLM_F_CREATE | NLM_F_REPLACE)?;
    }
    for place in ours.difference(wanted) {
        remove(netlink, *place, kind)?;
    }
    Ok(())
}

/// Removes every entry of ours.
///
/// # Errors
/// When the kernel refuses.
pub fn release(netlink: &mut Netlink) -> io::Result<()> {
    for kind in [Kind::Managed, Kind::Proxied] {
        follow(netlink, kind, &BTreeSet::new())?;
    }
    Ok(())
}

fn remove(netlink: &mut Netlink, place: Place, kind: Kind) -> io::Result<()> {
    let message = RouteNetlinkMessage::DelNeighbour(entry(place, kind));
    match netlink.ask(message, 0) {
        // The interface may have gone, and the entry with it.
        Err(error)
            if !matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO)
            ) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// Entries of ours, and those that are permanent.
fn entries(netlink: &mut Netlink, kind: Kind) -> io::Result<(BTreeSet<Place>, BTreeSet<Place>)> {
    let (mut ours, mut fixed) = (BTreeSet::new(), BTreeSet::new());
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = NeighbourMessage::default();
        request.header.family = family;
        if kind == Kind::Proxied {
            request.header.flags = NeighbourFlags::Proxy;
        }
        let answers = netlink.ask(RouteNetlinkMessage::GetNeighbour(request), NLM_F_DUMP)?;
        for answer in answers {
            let RouteNetlinkMessage::NewNeighbour(entry) = answer else {
                continue;
            };
            let mut address = None;
            let mut is_ours = false;
            for attribute in &entry.attributes {
                match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                        address = Some(IpAddr::from(*ip));
                    }
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                        address = Some(IpAddr::from(*ip));
                    }
                    NeighbourAttribute::Protocol(protocol) => is_ours = *protocol == PROTOCOL,
                    _ => {}
                }
            }
            let Some(address) = address else { continue };
            let place = (entry.header.ifindex, address);
            if is_ours {
                ours.insert(place);
            } else if entry.header.state == NeighbourState::Permanent {
                fixed.insert(place);
            }
        }
    }
    Ok((ours, fixed))
}

fn entry((index, address): Place, kind: Kind) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    (message.header.family, _) = family(address);
    message.header.ifindex = index;
    message.attributes = vec![
        NeighbourAttribute::Destination(address.into()),
        NeighbourAttribute::Protocol(PROTOCOL),
    ];
    match kind {
        Kind::Managed => message
            .attributes
            .push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed)),
        Kind::Proxied => message.header.flags = NeighbourFlags::Proxy,
    }
    message
}
