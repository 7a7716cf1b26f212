// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which interfaces carry programs, and what the node's own addresses are.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use globset::{Glob, GlobSet, GlobSetBuilder};
use rtnetlink::{
    packet_core::NLM_F_DUMP,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage, AddressScope},
        link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp},
        route::{RouteAttribute, RouteMessage},
    },
};

use crate::datapath::{DatapathConfig, DatapathError, netlink::Netlink};

/// `RT_TABLE_MAIN`.
const TABLE_MAIN: u8 = 254;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Whether it is a loopback device.
    pub loopback: bool,
    /// Whether software made it (veth, bridge, vlan, tun …).
    pub is_virtual: bool,
    /// Ids of the XDP programs on it, anybody's.
    pub xdp: Vec<u32>,
}

/// What an interface is to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Clients come in by it.
    Wire,
    /// A local backend hangs on it.
    Pod,
}

impl Role {
    /// The word for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Pod => "pod",
        }
    }
}

/// The patterns of the configuration.
#[derive(Debug)]
pub struct Patterns {
    /// None: those with a default route.
    wire: Option<GlobSet>,
    pod: GlobSet,
}

impl Patterns {
    /// Compiles the patterns of `config`.
    ///
    /// # Errors
    /// When one is not a glob.
    pub fn new(config: &DatapathConfig) -> Result<Self, DatapathError> {
        let wire = &config.wire_interfaces;
        Ok(Self {
            wire: if wire.is_empty() {
                None
            } else {
                Some(compile(wire)?)
            },
            pod: compile(&config.pod_interfaces)?,
        })
    }

    /// Whether the default routes matter.
    pub fn follow_default_route(&self) -> bool {
        self.wire.is_none()
    }

    /// The interfaces that carry programs. One that is both is a wire.
    pub fn choose(
        &self,
        interfaces: &BTreeMap<String, Interface>,
        default_routes: &BTreeSet<u32>,
    ) -> BTreeMap<String, (Interface, Role)> {
        let candidates = interfaces
            .iter()
            .filter(|(_, interface)| !interface.loopback);
        candidates
            .filter_map(|(name, interface)| {
                let wire = match &self.wire {
                    Some(patterns) => patterns.is_match(name),
                    None => default_routes.contains(&interface.index),
                };
                let role = if wire {
                    Role::Wire
                } else if self.pod.is_match(name) {
                    Role::Pod
                } else {
                    return None;
                };
                Some((name.clone(), (interface.clone(), role)))
            })
            .collect()
    }
}

fn compile(patterns: &[String]) -> Result<GlobSet, DatapathError> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).map_err(|error| DatapathError::Pattern {
            pattern: pattern.clone(),
            cause: error.into(),
        })?);
    }
    set.build().map_err(|error| DatapathError::Pattern {
        pattern: patterns.join(" "),
        cause: error.into(),
    })
}

/// Every interface of the network namespace by name.
///
/// # Errors
/// When the kernel does not answer.
pub fn interfaces(netlink: &mut Netlink) -> io::Result<BTreeMap<String, Interface>> {
    let answers = netlink.ask(
        RouteNetlinkMessage::GetLink(LinkMessage::default()),
        NLM_F_DUMP,
    )?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| {
            let RouteNetlinkMessage::NewLink(link) = answer else {
                return None;
            };
            let mut name = None;
            let mut is_virtual = false;
            let mut xdp = Vec::new();
            for attribute in link.attributes {
                match attribute {
                    LinkAttribute::IfName(text) => name = Some(text),
                    LinkAttribute::Xdp(details) => xdp.extend(details.iter().filter_map(xdp_id)),
                    LinkAttribute::LinkInfo(details) => {
                        is_virtual = details.iter().any(|d| matches!(d, LinkInfo::Kind(_)));
                    }
                    _ => {}
                }
            }
            let interface = Interface {
                index: link.header.index,
                loopback: link.header.flags.contains(LinkFlags::Loopback),
                is_virtual,
                xdp,
            };
            Some((name?, interface))
        })
        .collect())
}

/// The id of an XDP program. With programs in several modes at once the kernel
/// names the id of each mode, else the one id in both ways.
fn xdp_id(detail: &LinkXdp) -> Option<u32> {
    match detail {
        LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => Some(*id),
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    }
    .filter(|id| *id != 0)
}

/// Indices of the interfaces that a default route of any table uses.
///
/// # Errors
/// When the kernel does not answer.
pub fn default_routes(netlink: &mut Netlink) -> io::Result<BTreeSet<u32>> {
    let mut indices = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let answers = netlink.ask(RouteNetlinkMessage::GetRoute(request), NLM_F_DUMP)?;
        for answer in answers {
            let RouteNetlinkMessage::NewRoute(route) = answer else {
                continue;
            };
            if route.header.destination_prefix_length != 0 || route.header.table != TABLE_MAIN {
                continue;
            }
            for attribute in route.attributes {
                match attribute {
                    RouteAttribute::Oif(index) => {
                        indices.insert(index);
                    }
                    RouteAttribute::MultiPath(hops) => {
                        indices.extend(hops.iter().map(|hop| hop.interface_index));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(indices)
}

/// The node's own addresses: all but loopback and link-local ones.
///
/// # Errors
/// When the kernel does not answer.
pub fn addresses(netlink: &mut Netlink) -> io::Result<BTreeSet<IpAddr>> {
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let answers = netlink.ask(request, NLM_F_DUMP)?;
    let mut addresses = BTreeSet::new();
    for answer in answers {
        let RouteNetlinkMessage::NewAddress(message) = answer else {
            continue;
        };
        if matches!(
            message.header.scope,
            AddressScope::Host | AddressScope::Link
        ) {
            continue;
        }
        let mut address = None;
        for attribute in message.attributes {
            match attribute {
                // On a point-to-point link, Address is the other end.
                AddressAttribute::Local(ip) => address = Some(ip),
                AddressAttribute::Address(ip) => {
                    address.get_or_insert(ip);
                }
                _ => {}
            }
        }
        addresses.extend(address.filter(|ip| !ip.is_loopback()));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{Interface, Patterns, Role};
    use crate::datapath::DatapathConfig;

    fn chosen(wire: &[&str], pod: &[&str]) -> Vec<(String, &'static str)> {
        let names = ["lo", "eth0", "eth1", "veth1a2b", "cali7", "docker0"];
        let interfaces: BTreeMap<String, Interface> = (1..)
            .zip(names)
            .map(|(index, name)| {
                let interface = Interface {
                    index,
                    loopback: name == "lo",
                    ..Interface::default()
                };
                (name.to_owned(), interface)
            })
            .collect();
        let config = DatapathConfig {
            wire_interfaces: wire.iter().map(ToString::to_string).collect(),
            pod_interfaces: pod.iter().map(ToString::to_string).collect(),
            ..DatapathConfig::default()
        };
        let patterns = Patterns::new(&config).expect("valid patterns");
        // eth0 has the default route.
        let chosen = patterns.choose(&interfaces, &BTreeSet::from([2]));
        let roles = chosen.into_iter().map(|(name, (_, role))| (name, role));
        roles
            .map(|(name, role): (String, Role)| (name, role.name()))
            .collect()
    }

    #[test]
    fn wires_default_to_default_routes_and_win_over_pods() {
        type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a [(&'a str, &'a str)]);
        let cases: [Case<'_>; 4] = [
            (
                &[],
                &["veth*", "cali*"],
                &[("cali7", "pod"), ("eth0", "wire"), ("veth1a2b", "pod")],
            ),
            (&["eth*"], &[], &[("eth0", "wire"), ("eth1", "wire")]),
            (
                &["eth1", "veth*"],
                &["*"],
                &[
                    ("cali7", "pod"),
                    ("docker0", "pod"),
                    ("eth0", "pod"),
                    ("eth1", "wire"),
                    ("veth1a2b", "wire"),
                ],
            ),
            (&["nope"], &["lo"], &[]),
        ];
        for (wire, pod, expected) in cases {
            let expected: Vec<(String, &str)> = expected
                .iter()
                .map(|(name, role)| ((*name).to_owned(), *role))
                .collect();
            assert_eq!(chosen(wire, pod), expected, "{wire:?} {pod:?}");
        }
    }
}
