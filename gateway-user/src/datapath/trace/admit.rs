// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether a new flow is let in, and how it is translated.

use gateway_common::{
    addr::Addr16,
    backend::{Backend, FORWARD_DSR, FORWARD_SNAT},
    drop_reason::DropReason,
    flow::{FlowKey, FlowRef, FlowSlot, SLOT_CLOSING, SLOT_DEAD, SLOT_FREE},
    limits::SNAT_PORT_TRIES,
    snat::PortPlace,
};

use super::{Outcome, Translation, Walk};
use crate::datapath::{DatapathError, stats::socket_addr};

/// Whether the flow table has room.
///
/// # Errors
/// Never: what cannot be seen is left out.
pub fn limits(walk: &mut Walk<'_>) -> Result<Option<Outcome>, DatapathError> {
    if walk.backend.is_none() {
        return Ok(None);
    }
    let (used, all) = walk.pinned.occupancy();
    if used < all {
        walk.found("limits", format!("{used} of {all} flows in use"));
        return Ok(None);
    }
    let reason = DropReason::FlowTableFull;
    walk.missing(
        "limits",
        format!(
            "all {all} flows are in use: dropped as {}; raise limits.max_flows",
            reason.name()
        ),
    );
    Ok(Some(Outcome::dropped(reason)))
}

/// How the flow would be translated: as `flow::create` of the programs does it.
///
/// # Errors
/// When a map cannot be read.
pub fn translation(walk: &mut Walk<'_>) -> Result<Option<Outcome>, DatapathError> {
    let Some((_, backend)) = walk.backend else {
        return Ok(None);
    };
    let original = walk.key;
    if backend.forwarding == FORWARD_DSR && backend.addr != original.src {
        return Ok(wrapped(walk, &backend));
    }
    let mut reply = FlowKey {
        src: backend.addr,
        dst: original.src,
        src_port_be: match backend.port_be {
            0 => original.dst_port_be,
            port_be => port_be,
        },
        dst_port_be: original.src_port_be,
        ..original
    };
    let mut why = "the backend is forwarded so";
    let mut snat = backend.forwarding == FORWARD_SNAT;
    if !snat && backend.addr == original.src {
        snat = true;
        why = "the backend is its own client";
    }
    if !snat && is_taken(walk, &reply)? {
        snat = true;
        why = "another flow of the client has these ports";
    }
    if snat {
        if backend.snat_addr == Addr16::ANY {
            let reason = if backend.forwarding == FORWARD_SNAT {
                DropReason::BadMapEntry
            } else {
                DropReason::ReplyTupleTaken
            };
            walk.missing(
                "translation",
                format!(
                    "{why}, and there is no source address for it: dropped as {}",
                    reason.name()
                ),
            );
            return Ok(Some(Outcome::dropped(reason)));
        }
        reply.dst = backend.snat_addr;
        if !free_port(walk, &mut reply)? {
            let reason = DropReason::SnatPortsExhausted;
            walk.missing(
                "translation",
                format!(
                    "{SNAT_PORT_TRIES} source ports tried, all taken: dropped as {}; widen snat_ports",
                    reason.name()
                ),
            );
            return Ok(Some(Outcome::dropped(reason)));
        }
    }
    let source = socket_addr(reply.dst, reply.dst_port_be);
    walk.found(
        "translation",
        if snat {
            format!("snat: the backend sees {source} ({why})")
        } else {
            format!("dnat: the backend sees the client, {source}")
        },
    );
    walk.translation = Some(Translation {
        source: (reply.dst, reply.dst_port_be),
        destination: (reply.src, reply.src_port_be),
        to_backend: true,
        wrapped: false,
    });
    Ok(None)
}

/// The packet goes as it is, inside another one.
fn wrapped(walk: &mut Walk<'_>, backend: &Backend) -> Option<Outcome> {
    if backend.snat_addr == Addr16::ANY {
        let reason = DropReason::BadMapEntry;
        let text = format!(
            "there is no source address to wrap it with: dropped as {}",
            reason.name()
        );
        walk.missing("translation", text);
        return Some(Outcome::dropped(reason));
    }
    let source = socket_addr(backend.snat_addr, 0).ip();
    walk.found(
        "translation",
        format!(
            "dsr: the packet as it is, inside one from {source}; the backend answers past this node"
        ),
    );
    walk.translation = Some(Translation {
        source: (backend.snat_addr, walk.key.src_port_be),
        destination: (backend.addr, walk.key.dst_port_be),
        to_backend: true,
        wrapped: true,
    });
    None
}

/// Gives `reply` the first port that makes it unique, else the last one looked
/// at whose flow has ended; false when there is neither.
fn free_port(walk: &Walk<'_>, reply: &mut FlowKey) -> Result<bool, DatapathError> {
    let settings = walk.pinned.settings()?;
    let mut place = PortPlace::first(&walk.key, &settings);
    let mut ended = None;
    for _ in 0..SNAT_PORT_TRIES {
        reply.dst_port_be = place.port_be(&settings);
        match walk.pinned.flow(reply)? {
            Some((reference, slot)) if is_live(walk, reference, &slot) => {
                if slot.state == SLOT_CLOSING {
                    ended = Some(reply.dst_port_be);
                }
            }
            _ => return Ok(true),
        }
        place = place.next(&settings);
    }
    reply.dst_port_be = ended.unwrap_or(reply.dst_port_be);
    Ok(ended.is_some())
}

/// Whether a live flow has the key.
fn is_taken(walk: &Walk<'_>, key: &FlowKey) -> Result<bool, DatapathError> {
    let found = walk.pinned.flow(key)?;
    Ok(found.is_some_and(|(reference, slot)| is_live(walk, reference, &slot)))
}

/// Whether a flow that was found by a key has it, and has not only left it
/// behind.
fn is_live(walk: &Walk<'_>, reference: FlowRef, slot: &FlowSlot) -> bool {
    walk.ended != Some(reference.slot) && slot.state != SLOT_DEAD && slot.state != SLOT_FREE
}
