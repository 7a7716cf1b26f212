// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether the limits of the service and of the node let a new flow in.

use gateway_common::{
    counters::VerdictCounter,
    drop_reason::DropReason,
    flow::PROTOCOL_TCP,
    guard::{
        Guard, HALF_OPEN_NODE, NodeLimits, SYN_COOKIES_ALWAYS, SYN_COOKIES_OFF, VERIFIED_NS,
        half_open_index,
    },
    limit::{SourceId, take_token},
    service::ServiceValue,
};

use super::{Outcome, Walk};
use crate::datapath::{DatapathError, flows::monotonic_ns};

/// In the order of the programs: half-open flows, new flows of the node, flows of
/// the source, its rate.
///
/// # Errors
/// When a map cannot be read.
pub fn limits(walk: &mut Walk<'_>) -> Result<Option<Outcome>, DatapathError> {
    let Some(service) = walk.service else {
        return Ok(None);
    };
    let node = walk.pinned.settings()?.limits;
    for step in [half_open, node_rate, source_flows, source_rate] {
        if let Some(refused) = step(walk, &service, &node)? {
            return Ok(Some(refused));
        }
    }
    Ok(None)
}

type Limited = Result<Option<Outcome>, DatapathError>;

fn half_open(walk: &mut Walk<'_>, service: &ServiceValue, node: &NodeLimits) -> Limited {
    if walk.key.proto != PROTOCOL_TCP {
        return Ok(None);
    }
    for (whose, limit, index) in [
        (
            "of the service",
            service.guard.half_open,
            half_open_index(service.service_id),
        ),
        ("of the node", node.max_half_open, HALF_OPEN_NODE),
    ] {
        if limit == 0 {
            continue;
        }
        let now = walk.pinned.half_open(index)?;
        let text = format!("{now} of {limit} half-open connections {whose}");
        let cookies = service.guard.syn_cookies;
        if now >= limit && (cookies == SYN_COOKIES_OFF || now / 2 >= limit) {
            return Ok(Some(refused(walk, text, DropReason::HalfOpenFull)));
        }
        if now >= limit {
            return challenged(walk, &text);
        }
        walk.found("limits", text);
    }
    if service.guard.syn_cookies == SYN_COOKIES_ALWAYS {
        return challenged(walk, "every source has to show that it is there");
    }
    Ok(None)
}

fn node_rate(walk: &mut Walk<'_>, service: &ServiceValue, node: &NodeLimits) -> Limited {
    let (rate, burst) = (node.new_flow_rate, node.new_flow_burst);
    if rate == 0 {
        return Ok(None);
    }
    let left = left(walk.pinned.node_bucket()?, rate, burst);
    let text = format!("{left} of {burst} new flows of the node left, {rate} more a second");
    if left > 0 {
        walk.found("limits", text);
        Ok(None)
    } else if service.guard.syn_cookies == SYN_COOKIES_OFF {
        Ok(Some(refused(walk, text, DropReason::NewFlowFlood)))
    } else {
        challenged(walk, &text)
    }
}

/// Whether the source has shown that it is there; else its SYN is sent back.
fn challenged(walk: &mut Walk<'_>, why: &str) -> Limited {
    let since = walk.pinned.verified(&walk.key.src)?;
    let now = monotonic_ns();
    if since.is_some_and(|since| now.saturating_sub(since) < VERIFIED_NS) {
        walk.found(
            "limits",
            format!("{why}: this one has answered a challenge"),
        );
        return Ok(None);
    }
    walk.missing(
        "limits",
        format!("{why}: sent back as a challenge; a client that answers it is let in when it tries again"),
    );
    Ok(Some(Outcome::lost(VerdictCounter::Challenged)))
}

fn source_flows(walk: &mut Walk<'_>, service: &ServiceValue, node: &NodeLimits) -> Limited {
    let Guard { source_flows, .. } = service.guard;
    if source_flows == 0 {
        return Ok(None);
    }
    let source = source(walk, service, node);
    let now = walk.pinned.source_flows(&source, node)?;
    let text = format!("{now} of {source_flows} flows of this source");
    if now >= source_flows {
        return Ok(Some(refused(walk, text, DropReason::SourceFlows)));
    }
    walk.found("limits", text);
    Ok(None)
}

fn source_rate(walk: &mut Walk<'_>, service: &ServiceValue, node: &NodeLimits) -> Limited {
    let Guard {
        source_rate: rate,
        source_burst: burst,
        ..
    } = service.guard;
    if rate == 0 {
        return Ok(None);
    }
    let source = source(walk, service, node);
    let left = left(walk.pinned.source_bucket(&source)?, rate, burst);
    let text = format!("{left} of {burst} new flows of this source left, {rate} more a second");
    if left == 0 {
        return Ok(Some(refused(walk, text, DropReason::SourceRate)));
    }
    walk.found("limits", text);
    Ok(None)
}

/// Tokens left in a bucket.
fn left(mut full_at: u64, rate: u32, burst: u32) -> u32 {
    let now = monotonic_ns();
    let mut left = 0;
    while left < burst
        && let Some(next) = take_token(full_at, now, rate, burst)
    {
        (full_at, left) = (next, left + 1);
    }
    left
}

fn source(walk: &Walk<'_>, service: &ServiceValue, node: &NodeLimits) -> SourceId {
    SourceId {
        addr: node.source_mask.prefix(&walk.key.src),
        service_id: service.service_id,
    }
}

fn refused(walk: &mut Walk<'_>, text: String, reason: DropReason) -> Outcome {
    walk.missing("limits", format!("{text}: dropped as {}", reason.name()));
    Outcome::dropped(reason)
}
