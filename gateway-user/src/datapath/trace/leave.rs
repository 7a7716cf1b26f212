// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The way out: route, neighbour, MTU, and the way of the answers.

use std::net::SocketAddr;

use gateway_common::{counters::VerdictCounter, drop_reason::DropReason};
use rtnetlink::packet_route::neighbour::NeighbourState;

use super::{
    Outcome, Translation, Walk,
    fib::{Hop, NoHop},
    node::Way,
};
use crate::datapath::{DatapathError, pins};

/// Where the kernel's routing table sends the rewritten packet.
///
/// # Errors
/// When the kernel does not answer.
pub fn route(walk: &mut Walk<'_>) -> Result<Option<Outcome>, DatapathError> {
    let Some((source, destination)) = ends(walk) else {
        return Ok(None);
    };
    let Some((index, name)) = walk.ingress.as_ref().map(|i| (i.index, i.name.clone())) else {
        return Ok(None);
    };
    let ip = destination.ip();
    let found = walk.node.hop(index, walk.key.proto, source, destination)?;
    let (reason, text) = match found {
        Ok(hop) => {
            let out = walk.node.name(hop.index);
            walk.found(
                "route",
                if hop.address == ip {
                    format!("{ip} by {out}")
                } else {
                    format!("{ip} by {out}, router {}", hop.address)
                },
            );
            walk.hop = Some(hop);
            return Ok(None);
        }
        Err(NoHop::NotForwarded) => return not_forwarded(walk, ip).map(Some),
        Err(NoHop::Forbidden(kind)) => (
            DropReason::NoRoute,
            format!("a route of type {kind} leads to {ip}: remove it"),
        ),
        Err(NoHop::ForwardingOff) => (
            DropReason::NoRoute,
            format!(
                "forwarding sysctl off on {name}: set net.{}.conf.{name}.forwarding=1",
                if ip.is_ipv4() { "ipv4" } else { "ipv6" }
            ),
        ),
        Err(NoHop::TooLong) => (
            DropReason::PacketTooBig,
            format!("the way to {ip} does not even take a SYN: raise its MTU"),
        ),
        Err(NoHop::Other(number)) => (
            DropReason::NoRoute,
            format!("the programs cannot use the route to {ip} (bpf_fib_lookup: {number})"),
        ),
    };
    walk.missing("route", format!("{text}; dropped as {}", reason.name()));
    Ok(Some(Outcome::dropped(reason)))
}

/// The programs hand the rewritten packet to the stack.
fn not_forwarded(walk: &mut Walk<'_>, ip: std::net::IpAddr) -> Result<Outcome, DatapathError> {
    if walk.node.way(ip)? == Way::Local {
        walk.found("route", format!("{ip} is this node: delivered here"));
        return Ok(Outcome::delivered(VerdictCounter::LocalDelivery));
    }
    walk.missing(
        "route",
        format!(
            "none to {ip}: left to the stack, which answers that it is unreachable; add a route"
        ),
    );
    Ok(Outcome::lost(VerdictCounter::LocalDelivery))
}

/// Whether the next hop's MAC address is known.
///
/// # Errors
/// When the kernel does not answer.
pub fn neighbour(walk: &mut Walk<'_>) -> Result<Option<Outcome>, DatapathError> {
    let Some(Hop { index, address, .. }) = walk.hop.clone() else {
        return Ok(None);
    };
    let Some(link) = walk.node.link(index).cloned() else {
        return Ok(None);
    };
    let place = format!("{address} on {}", link.name);
    if link.no_arp {
        walk.found("neighbour", format!("{} needs no MAC address", link.name));
        return Ok(None);
    }
    match walk.node.neighbour(index, address)? {
        Some((NeighbourState::Failed, _)) => {
            walk.fails_later = true;
            walk.missing(
                "neighbour",
                format!("{place} does not answer (failed): packets wait for it and are lost; is the host up?"),
            );
        }
        None | Some((NeighbourState::Incomplete | NeighbourState::None, _)) => {
            let is_tc = walk.ingress.as_ref().is_none_or(super::Ingress::is_tc);
            let meanwhile = if is_tc {
                "the first packet waits for it"
            } else {
                "the first packet goes through the stack"
            };
            walk.found("neighbour", format!("{place} not resolved: {meanwhile}"));
        }
        Some((state, mac)) => {
            walk.found("neighbour", format!("{place} is {mac} ({state})"));
        }
    }
    Ok(None)
}

/// Whether XDP can send it there.
///
/// # Errors
/// When the map cannot be read.
pub fn egress(walk: &mut Walk<'_>) -> Result<Option<Outcome>, DatapathError> {
    let (Some(hop), Some(ingress)) = (&walk.hop, &walk.ingress) else {
        return Ok(None);
    };
    if !ingress.is_xdp() || hop.index == ingress.index || walk.pinned.is_egress(hop.index)? {
        return Ok(None);
    }
    walk.is_egress_missing = true;
    let out = walk.node.name(hop.index);
    walk.found(
        "egress",
        format!(
            "{out} sends nothing that XDP redirects to it: the stack sends it, which costs more"
        ),
    );
    Ok(None)
}

/// The longest packet that goes through.
///
/// # Errors
/// Never; it only looks at what other steps have found.
pub fn mtu(walk: &mut Walk<'_>) -> Result<Option<Outcome>, DatapathError> {
    let (Some(hop), Some(ingress)) = (&walk.hop, &walk.ingress) else {
        return Ok(None);
    };
    let wrapping = match &walk.translation {
        Some(to) if to.wrapped && walk.query.to.ip().is_ipv4() => 20,
        Some(to) if to.wrapped => 40,
        _ => 0,
    };
    let out = hop.mtu.saturating_sub(wrapping);
    if out >= ingress.mtu {
        walk.found("mtu", format!("{out}"));
        return Ok(None);
    }
    let text = format!(
        "{out} on the way out, {} on {}: longer packets are dropped as {}, and their \
         senders told",
        ingress.mtu,
        ingress.name,
        DropReason::PacketTooBig.name()
    );
    walk.missing("mtu", text);
    Ok(None)
}

/// Whether answers find back.
///
/// # Errors
/// When the kernel does not answer.
pub fn replies(walk: &mut Walk<'_>) -> Result<Option<Outcome>, DatapathError> {
    let Some(hop) = walk.hop.clone() else {
        return Ok(None);
    };
    if walk
        .translation
        .as_ref()
        .is_none_or(|to| !to.to_backend || to.wrapped)
    {
        return Ok(None);
    }
    let links = walk.pins.links();
    let name = walk.node.name(hop.index);
    let attached = pins::found(&links, &name, hop.index)
        .map_err(DatapathError::file("open the links in", links))?;
    if attached.is_none() {
        walk.missing(
            "replies",
            format!(
                "{name} carries no program: answers that come in by it are not translated back; \
                 add it to pod_interfaces or wire_interfaces"
            ),
        );
        return Ok(None);
    }
    let (vip, client) = (walk.query.to.address, walk.query.from);
    match walk.node.hop(hop.index, walk.key.proto, vip, client)? {
        Ok(back) => {
            let out = walk.node.name(back.index);
            walk.found("replies", format!("in by {name}, back by {out}"));
        }
        Err(NoHop::ForwardingOff) => walk.missing(
            "replies",
            format!(
                "forwarding sysctl off on {name}: answers are dropped as {}",
                DropReason::NoRoute.name()
            ),
        ),
        Err(_) => walk.missing(
            "replies",
            format!("no route back to {}: add one", client.ip()),
        ),
    }
    Ok(None)
}

fn ends(walk: &Walk<'_>) -> Option<(SocketAddr, SocketAddr)> {
    let to: &Translation = walk.translation.as_ref()?;
    Some((to.source(), to.destination()))
}
