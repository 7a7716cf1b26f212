// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which backend the packet is for: flow table, services, ring.

use gateway_common::{
    backend::{FORWARD_DNAT, FORWARD_DSR, FORWARD_SNAT, NO_BACKEND},
    drop_reason::DropReason,
    flow::{DIR_TO_BACKEND, KIND_DSR, SLOT_ACTIVE, SLOT_CLOSING, SLOT_HOLD, SLOT_OBSERVE},
    maglev,
    service::HASH_SOURCE_ADDRESS,
};

use super::{Outcome, Translation, Walk, stack};
use crate::{
    datapath::{
        DatapathError,
        stats::{self, socket_addr},
    },
    model::Transport,
};

/// Whether the tuple has a flow already, which decides.
///
/// # Errors
/// When a map cannot be read.
pub fn flow(walk: &mut Walk<'_>) -> Result<Option<Outcome>, DatapathError> {
    let Some((found, slot)) = walk.pinned.flow(&walk.key)? else {
        walk.found("flow", "none with this source and destination: a new one");
        return Ok(None);
    };
    let direction = found.direction & 1;
    let state = stats::state_name(slot.tcp_state);
    let to_backend = direction == DIR_TO_BACKEND;
    match slot.state {
        SLOT_ACTIVE => {}
        // What opens a connection takes the tuple over.
        SLOT_CLOSING if !to_backend || walk.query.to.transport == Transport::Udp => {}
        SLOT_CLOSING => {
            walk.found("flow", format!("an ended one ({state}): a new one"));
            walk.ended = Some(found.slot);
            return Ok(None);
        }
        SLOT_OBSERVE | SLOT_HOLD => {
            walk.found("flow", "a connection of the agent, to be handed off");
            return Ok(None);
        }
        _ => {
            walk.found("flow", "one that is over: a new one");
            return Ok(None);
        }
    }
    let to = &slot.dir[direction as usize];
    let translation = Translation {
        source: (to.new_src, to.new_src_port_be),
        destination: (to.new_dst, to.new_dst_port_be),
        to_backend,
        wrapped: slot.kind == KIND_DSR,
    };
    let whither = translation.destination();
    walk.found(
        "flow",
        if to_backend {
            format!("slot {}, {state}: goes on to {whither}", found.slot)
        } else {
            format!("slot {}, {state}: an answer, back to {whither}", found.slot)
        },
    );
    walk.translation = Some(translation);
    Ok(None)
}

/// Whether the destination is forwarded.
///
/// # Errors
/// When a map cannot be read.
pub fn service(walk: &mut Walk<'_>) -> Result<Option<Outcome>, DatapathError> {
    if walk.translation.is_some() {
        return Ok(None);
    }
    let to = walk.query.to;
    let Some(service) = walk.pinned.service(&walk.key)? else {
        walk.found("service", format!("{to}: not forwarded, left to the stack"));
        reply(walk)?;
        return stack::pass(walk).map(Some);
    };
    walk.found(
        "service",
        format!(
            "{to}: id {}, ring of {} by {}, generation {}",
            service.service_id,
            service.ring_size,
            if service.hash_policy == HASH_SOURCE_ADDRESS {
                "source address"
            } else {
                "five-tuple"
            },
            service.config_generation
        ),
    );
    walk.service = Some(service);
    Ok(None)
}

/// Whether it may be a reply to a connection that has its client's address.
fn reply(walk: &mut Walk<'_>) -> Result<(), DatapathError> {
    let settings = walk.pinned.settings()?;
    let ports = settings.handoff_port_min..=settings.handoff_port_max;
    let port = u32::from(u16::from_be(walk.key.dst_port_be));
    let is_tcp = walk.query.to.transport == Transport::Tcp;
    let at_tc = walk
        .ingress
        .as_ref()
        .is_some_and(|ingress| !ingress.is_xdp());
    if settings.client_mark != 0 && is_tcp && at_tc && ports.contains(&port) {
        walk.found(
            "reply",
            format!(
                "marked {:#x} and local if a connection of the agent has just these addresses, \
                 one of its client's; taken for another's here",
                settings.client_mark
            ),
        );
    }
    Ok(())
}

/// Which backend the ring has for the tuple.
///
/// # Errors
/// When a map cannot be read.
pub fn backend(walk: &mut Walk<'_>) -> Result<Option<Outcome>, DatapathError> {
    let Some(service) = walk.service else {
        return Ok(None);
    };
    let refused = |walk: &mut Walk<'_>, reason: DropReason, text: String| {
        walk.missing("backend", text);
        Ok(Some(Outcome::dropped(reason)))
    };
    let no_backend = |walk: &mut Walk<'_>| {
        let text = format!(
            "none takes flows (no endpoint, or all are down): dropped as {}; see the endpoints \
             with `sluice status` and `sluice explain`",
            DropReason::NoBackend.name()
        );
        refused(walk, DropReason::NoBackend, text)
    };
    if service.ring_size == 0 {
        return no_backend(walk);
    }
    let seed = walk.pinned.settings()?.hash_seed;
    let slot = maglev::slot(&walk.key, service.hash_policy, seed, service.ring_size);
    let id = walk.pinned.ring(service.ring_chunk, slot)?;
    if id == Some(NO_BACKEND) {
        return no_backend(walk);
    }
    let found = match id {
        Some(id) => walk.pinned.backend(id)?.map(|backend| (id, backend)),
        None => None,
    };
    let Some((id, backend)) = found else {
        let text = format!(
            "slot {slot} of the ring leads nowhere: dropped as {}; restart the agent",
            DropReason::BadMapEntry.name()
        );
        return refused(walk, DropReason::BadMapEntry, text);
    };
    // Port 0 keeps the client's.
    let port_be = match backend.port_be {
        0 => walk.key.dst_port_be,
        _ if backend.forwarding == FORWARD_DSR => walk.key.dst_port_be,
        port_be => port_be,
    };
    let address = socket_addr(backend.addr, port_be);
    let forwarding = match backend.forwarding {
        FORWARD_DNAT => "dnat",
        FORWARD_SNAT => "snat",
        FORWARD_DSR => "dsr",
        0 => {
            let text = format!(
                "{address} (id {id}): no route to it: dropped as {}; add a route",
                DropReason::NoRoute.name()
            );
            return refused(walk, DropReason::NoRoute, text);
        }
        _ => "forwarded in a way this version does not know",
    };
    walk.found(
        "backend",
        format!(
            "{address}: slot {slot} of {}, id {id}, {forwarding}",
            service.ring_size
        ),
    );
    walk.backend = Some((id, backend));
    Ok(None)
}
