// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How backends are reached.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::IpAddr,
};

use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};

use crate::datapath::{
    netlink::{Netlink, family},
    tables::Reach,
};

/// Route look-ups, remembered until [`Routes::forget`].
#[derive(Debug, Default)]
pub struct Routes(HashMap<IpAddr, Option<Reach>>);

impl Routes {
    /// To be called when routes, addresses or interfaces have changed.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// How each of `addresses` is reached; those without a route are left out.
    /// `pods` are the indices of pod interfaces.
    ///
    /// # Errors
    /// When the kernel does not answer at all.
    pub fn reach(
        &mut self,
        netlink: &mut Netlink,
        addresses: &BTreeSet<IpAddr>,
        pods: &BTreeSet<u32>,
    ) -> io::Result<HashMap<IpAddr, Reach>> {
        self.0.retain(|ip, _| addresses.contains(ip));
        for ip in addresses {
            if !self.0.contains_key(ip) {
                let reach = look_up(netlink, *ip, pods)?;
                self.0.insert(*ip, reach);
            }
        }
        let known = self.0.iter();
        Ok(known
            .filter_map(|(ip, reach)| Some((*ip, (*reach)?)))
            .collect())
    }
}

fn look_up(netlink: &mut Netlink, ip: IpAddr, pods: &BTreeSet<u32>) -> io::Result<Option<Reach>> {
    let mut request = RouteMessage::default();
    (
        request.header.address_family,
        request.header.destination_prefix_length,
    ) = family(ip);
    request
        .attributes
        .push(RouteAttribute::Destination(ip.into()));
    let answers = match netlink.ask(RouteNetlinkMessage::GetRoute(request), 0) {
        Ok(answers) => answers,
        Err(error) => {
            return match error.raw_os_error() {
                Some(
                    libc::ENETUNREACH
                    | libc::EHOSTUNREACH
                    | libc::EACCES
                    | libc::EINVAL
                    | libc::ENODEV,
                ) => Ok(None),
                _ => Err(error),
            };
        }
    };
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewRoute(route) => reach(&route, ip, pods),
        _ => None,
    }))
}

fn reach(route: &RouteMessage, ip: IpAddr, pods: &BTreeSet<u32>) -> Option<Reach> {
    match route.header.kind {
        RouteType::Local => return Some(Reach::Local),
        RouteType::Unicast => {}
        _ => return None,
    }
    let mut output = None;
    let mut source = None;
    let mut gateway = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => output = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => gateway = Some((*ip).into()),
            RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => gateway = Some((*ip).into()),
            RouteAttribute::Via(RouteVia::Inet6(ip)) => gateway = Some((*ip).into()),
            RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => source = Some((*ip).into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) => source = Some((*ip).into()),
            _ => {}
        }
    }
    let output = output?;
    Some(Reach::Out {
        pod: pods.contains(&output),
        source: source?,
        next_hop: (output, gateway.unwrap_or(ip)),
    })
}
