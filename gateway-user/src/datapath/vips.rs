// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses the gateway claims: `local VIP dev lo table local` routes.
//!
//! A local route makes the node take an address and answer ARP for it without
//! configuring it on an interface; neighbour discovery needs more (`neighbours`).
//! Ours carry a
//! protocol number of their own, so that they are recognised and given back by
//! `detach`; the end of an agent, planned or not, leaves them.

use std::{collections::BTreeSet, io, net::IpAddr};

use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
    },
};

use crate::datapath::{
    DatapathError,
    netlink::{Netlink, family},
};

/// In the range that rtnetlink(7) leaves to users; not one of iproute2's.
pub const PROTOCOL: RouteProtocol = RouteProtocol::Other(151);
/// `RT_TABLE_LOCAL`.
const TABLE_LOCAL: u8 = 255;

/// Makes the claimed addresses exactly `wanted`; those that are the node's own
/// anyway stay as they are.
///
/// # Errors
/// When the kernel refuses a route.
pub fn claim(
    netlink: &mut Netlink,
    wanted: &BTreeSet<IpAddr>,
    loopback: u32,
) -> Result<(), DatapathError> {
    let claimed = claimed(netlink).map_err(refused("list the local routes"))?;
    for ip in wanted.difference(&claimed) {
        let message = RouteNetlinkMessage::NewRoute(route(*ip, loopback));
        match netlink.ask(message, NLM_F_CREATE | NLM_F_EXCL) {
            Ok(_) => {}
            // Configured on an interface.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => {
                return Err(refused(format!(
                    "claim {ip} as a local address (is the interface lo up?)"
                ))(error));
            }
        }
    }
    for ip in claimed.difference(wanted) {
        give_back(netlink, *ip, loopback)?;
    }
    Ok(())
}

/// Gives every claimed address back and says which they were.
///
/// # Errors
/// When the kernel refuses to remove one.
pub fn release(netlink: &mut Netlink, loopback: u32) -> Result<Vec<IpAddr>, DatapathError> {
    let claimed = claimed(netlink).map_err(refused("list the local routes"))?;
    for ip in &claimed {
        give_back(netlink, *ip, loopback)?;
    }
    Ok(claimed.into_iter().collect())
}

fn give_back(netlink: &mut Netlink, ip: IpAddr, loopback: u32) -> Result<(), DatapathError> {
    let message = RouteNetlinkMessage::DelRoute(route(ip, loopback));
    match netlink.ask(message, 0) {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        Err(error) => Err(refused(format!("give the local address {ip} back"))(error)),
    }
}

fn claimed(netlink: &mut Netlink) -> io::Result<BTreeSet<IpAddr>> {
    let mut claimed = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.table = TABLE_LOCAL;
        let answers = netlink.ask(RouteNetlinkMessage::GetRoute(request), NLM_F_DUMP)?;
        for answer in answers {
            let RouteNetlinkMessage::NewRoute(route) = answer else {
                continue;
            };
            if route.header.protocol != PROTOCOL || route.header.kind != RouteType::Local {
                continue;
            }
            for attribute in &route.attributes {
                match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(ip)) => {
                        claimed.insert((*ip).into());
                    }
                    RouteAttribute::Destination(RouteAddress::Inet6(ip)) => {
                        claimed.insert((*ip).into());
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(claimed)
}

fn route(ip: IpAddr, loopback: u32) -> RouteMessage {
    let mut route = RouteMessage::default();
    (
        route.header.address_family,
        route.header.destination_prefix_length,
    ) = family(ip);
    route.header.table = TABLE_LOCAL;
    route.header.protocol = PROTOCOL;
    route.header.scope = RouteScope::Host;
    route.header.kind = RouteType::Local;
    route.attributes = vec![
        RouteAttribute::Destination(ip.into()),
        RouteAttribute::Oif(loopback),
    ];
    route
}

fn refused(operation: impl Into<String>) -> impl FnOnce(io::Error) -> DatapathError {
    let operation = operation.into();
    move |cause| DatapathError::Netlink { operation, cause }
}
