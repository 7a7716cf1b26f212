// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The way of replies to connections that have their client's address: `fwmark MARK
//! lookup TABLE`, and `local default dev lo` in that table.
//!
//! Such a reply is addressed to the client. The programs mark it, and by this rule
//! and route the stack takes it for local (Documentation/networking/tproxy.rst). Both
//! carry the protocol number of our other routes, so that they are recognised and
//! taken back by `detach`; the end of an agent leaves them.

use std::io;

use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{RouteAttribute, RouteMessage, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};

use crate::datapath::{DatapathError, netlink::Netlink, vips::PROTOCOL};

/// Ours goes before the usual rules of others; that of the local table (0, or 100
/// where a network plugin has moved it) stays before ours.
const PRIORITY: u32 = 151;

/// What marks replies, and where they find their route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnRoute {
    /// Not 0.
    pub mark: u32,
    /// A routing table of our own.
    pub table: u32,
}

impl ReturnRoute {
    /// Makes rule and route of one family as they should be, and removes rules of
    /// ours that are otherwise. `loopback` is the index of `lo`.
    ///
    /// # Errors
    /// [`DatapathError::Taken`] when somebody else uses the mark or the table, or
    /// when the kernel refuses.
    pub fn claim(
        self,
        netlink: &mut Netlink,
        is_ipv6: bool,
        loopback: u32,
    ) -> Result<(), DatapathError> {
        let family = family(is_ipv6);
        let mut is_there = false;
        let rules = rules(netlink, family).map_err(refused("list the routing rules"))?;
        for rule in rules {
            if !is_own(&rule) {
                self.apart(&rule)?;
            } else if mark_of(&rule) == Some((self.mark, u32::MAX)) && table_of(&rule) == self.table
            {
                is_there = true;
            } else {
                remove_rule(netlink, rule)?;
            }
        }
        // First the route: what is marked is to find it.
        let route = RouteNetlinkMessage::NewRoute(self.route(family, loopback));
        match netlink.ask(route, NLM_F_CREATE | NLM_F_EXCL) {
            Ok(_) => {}
            // Behind a rule of ours it is ours.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                if !is_there && !self.has_own_route(netlink, family)? {
                    return Err(self.taken("table", self.table, "a default route"));
                }
            }
            Err(error) => return Err(refused("add a route for replies to clients")(error)),
        }
        if !is_there {
            let rule = RouteNetlinkMessage::NewRule(self.rule(family));
            netlink
                .ask(rule, NLM_F_CREATE | NLM_F_EXCL)
                .map_err(refused("add a routing rule for replies to clients"))?;
        }
        Ok(())
    }

    /// Whether somebody else's rule leaves the mark and the table alone.
    fn apart(self, rule: &RuleMessage) -> Result<(), DatapathError> {
        let priority = rule
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                RuleAttribute::Priority(priority) => Some(*priority),
                _ => None,
            });
        let who = || format!("the routing rule {}", priority.unwrap_or(0));
        if table_of(rule) == self.table {
            return Err(self.taken("table", self.table, &who()));
        }
        match mark_of(rule) {
            Some((mark, mask)) if self.mark & mask == mark & mask => {
                Err(self.taken("mark", self.mark, &who()))
            }
            _ => Ok(()),
        }
    }

    fn taken(self, key: &'static str, number: u32, by: &str) -> DatapathError {
        DatapathError::Taken {
            what: key,
            number,
            by: by.to_owned(),
        }
    }

    fn has_own_route(
        self,
        netlink: &mut Netlink,
        family: AddressFamily,
    ) -> Result<bool, DatapathError> {
        let routes = own_routes(netlink, family).map_err(refused("list the routes"))?;
        Ok(routes.iter().any(|route| route_table(route) == self.table))
    }

    fn rule(self, family: AddressFamily) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.header.family = family;
        rule.header.action = RuleAction::ToTable;
        rule.attributes = vec![
            RuleAttribute::Priority(PRIORITY),
            RuleAttribute::FwMark(self.mark),
            RuleAttribute::FwMask(u32::MAX),
            RuleAttribute::Table(self.table),
            RuleAttribute::Protocol(PROTOCOL),
        ];
        rule
    }

    fn route(self, family: AddressFamily, loopback: u32) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.address_family = family;
        route.header.protocol = PROTOCOL;
        route.header.scope = RouteScope::Host;
        route.header.kind = RouteType::Local;
        route.attributes = vec![
            RouteAttribute::Table(self.table),
            RouteAttribute::Oif(loopback),
        ];
        route
    }
}

/// Removes every such rule and route.
///
/// # Errors
/// When the kernel refuses to.
pub fn release(netlink: &mut Netlink) -> Result<(), DatapathError> {
    for family in [family(false), family(true)] {
        let rules = rules(netlink, family).map_err(refused("list the routing rules"))?;
        for rule in rules.into_iter().filter(is_own) {
            remove_rule(netlink, rule)?;
        }
        for route in own_routes(netlink, family).map_err(refused("list the routes"))? {
            match netlink.ask(RouteNetlinkMessage::DelRoute(route), 0) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                    return Err(refused("remove the route for replies to clients")(error));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn family(is_ipv6: bool) -> AddressFamily {
    if is_ipv6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    }
}

fn rules(netlink: &mut Netlink, family: AddressFamily) -> io::Result<Vec<RuleMessage>> {
    let mut request = RuleMessage::default();
    request.header.family = family;
    let answers = match netlink.ask(RouteNetlinkMessage::GetRule(request), NLM_F_DUMP) {
        Ok(answers) => answers,
        // Without policy routing, or without IPv6, there are none.
        Err(error)
            if [Some(libc::EOPNOTSUPP), Some(libc::EAFNOSUPPORT)]
                .contains(&error.raw_os_error()) =>
        {
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    let rules = answers.into_iter().filter_map(|answer| match answer {
        // A kernel without rules of this family answers with those of all.
        RouteNetlinkMessage::NewRule(rule) if rule.header.family == family => Some(rule),
        _ => None,
    });
    Ok(rules.collect())
}

/// Default routes of ours: local ones, in a table of our own.
fn own_routes(netlink: &mut Netlink, family: AddressFamily) -> io::Result<Vec<RouteMessage>> {
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    let answers = netlink.ask(RouteNetlinkMessage::GetRoute(request), NLM_F_DUMP)?;
    let routes = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewRoute(route)
            if route.header.protocol == PROTOCOL
                && route.header.kind == RouteType::Local
                && route.header.address_family == family
                && route.header.destination_prefix_length == 0 =>
        {
            Some(route)
        }
        _ => None,
    });
    Ok(routes.collect())
}

fn is_own(rule: &RuleMessage) -> bool {
    rule.attributes.contains(&RuleAttribute::Protocol(PROTOCOL))
}

/// The mark a rule is for, and which bits of it count.
fn mark_of(rule: &RuleMessage) -> Option<(u32, u32)> {
    let attributes = rule.attributes.iter();
    let mark = attributes.clone().find_map(|attribute| match attribute {
        RuleAttribute::FwMark(mark) => Some(*mark),
        _ => None,
    });
    let mask = attributes.clone().find_map(|attribute| match attribute {
        RuleAttribute::FwMask(mask) => Some(*mask),
        _ => None,
    });
    mark.map(|mark| (mark, mask.unwrap_or(u32::MAX)))
}

fn table_of(rule: &RuleMessage) -> u32 {
    let found = rule
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::Table(table) => Some(*table),
            _ => None,
        });
    found.unwrap_or_else(|| rule.header.table.into())
}

fn route_table(route: &RouteMessage) -> u32 {
    let found = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    found.unwrap_or_else(|| route.header.table.into())
}

fn remove_rule(netlink: &mut Netlink, rule: RuleMessage) -> Result<(), DatapathError> {
    match netlink.ask(RouteNetlinkMessage::DelRule(rule), 0) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(refused(
            "remove the routing rule for replies to clients",
        )(error)),
        _ => Ok(()),
    }
}

fn refused(operation: &str) -> impl FnOnce(io::Error) -> DatapathError {
    let operation = operation.to_owned();
    move |cause| DatapathError::Netlink { operation, cause }
}
