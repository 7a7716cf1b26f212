// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What becomes of a packet that the forwarding programs leave to the stack.

use gateway_common::{counters::VerdictCounter, drop_reason::DropReason};

use super::{
    Outcome, Walk,
    node::{Way, destination},
};
use crate::datapath::{DatapathError, exclusive};

/// Left to the stack as it came.
///
/// # Errors
/// When a map cannot be read.
pub fn pass(walk: &mut Walk<'_>) -> Result<Outcome, DatapathError> {
    let ip = destination(&walk.key);
    match walk.node.way(ip)? {
        Way::Local => local(walk),
        Way::Out(index) => {
            let name = walk.node.name(index);
            walk.missing(
                "stack",
                format!("{ip} is not an address of this node: not ours, left to the stack, which routes it by {name}"),
            );
            Ok(Outcome::lost(VerdictCounter::Passed))
        }
        Way::None => {
            walk.missing(
                "stack",
                format!("{ip} is not an address of this node, and no route leads to it: not ours, left to the stack; add it to vips if it should be"),
            );
            Ok(Outcome::lost(VerdictCounter::Passed))
        }
    }
}

/// Looked up among the sockets of this node: those of the agent first.
///
/// # Errors
/// When a map cannot be read.
pub fn local(walk: &mut Walk<'_>) -> Result<Outcome, DatapathError> {
    let to = walk.query.to;
    let Some(sockets) = walk.pinned.steer(&walk.key)? else {
        walk.missing(
            "stack",
            format!("no listener of the gateway has {to}: left to the stack, where a socket of this node may answer"),
        );
        return Ok(Outcome::lost(VerdictCounter::Passed));
    };
    let agent = exclusive::agent(walk.pins.root());
    if sockets.socket_count == 0 || agent.is_none() {
        walk.missing(
            "steer",
            format!(
                "{to} belongs to the agent, which has no socket for it: refused as {}; start the \
                 agent",
                DropReason::NoSocket.name()
            ),
        );
        return Ok(Outcome::dropped(DropReason::NoSocket));
    }
    walk.found(
        "steer",
        format!(
            "{to}: to one of the {} sockets of the agent (process {})",
            sockets.socket_count,
            agent.unwrap_or_default()
        ),
    );
    Ok(Outcome::delivered(VerdictCounter::Steered))
}
