// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The access record of a connection that has ended in the kernel.

use crate::{
    datapath::relayed::{EndedFlow, FlowEnd, RelayMode},
    model::SourceAddress,
    telemetry::access::{CloseReason, ConnectionRecord, Mode},
};

/// What is recorded of a handed-off connection that has ended.
pub fn record(ended: &EndedFlow) -> ConnectionRecord {
    let names = ended.names.as_deref();
    ConnectionRecord {
        peer: ended.client,
        local: ended.destination,
        mode: match names.map(|names| names.mode) {
            Some(RelayMode::Forward) => Mode::Forward,
            Some(RelayMode::Passthrough) | None => Mode::Passthrough,
        },
        sni: names.and_then(|names| names.sni.clone()),
        alpn: names.and_then(|names| names.alpn.clone()),
        rule: names.and_then(|names| names.rule.clone()),
        cluster: names.and_then(|names| names.cluster.clone()),
        upstream: Some(ended.backend),
        source: ended.keeps_client.then(|| SourceAddress::Client.name()),
        bytes_in: ended.bytes_in,
        bytes_out: ended.bytes_out,
        duration: ended.duration,
        reason: match ended.end {
            FlowEnd::Done => CloseReason::Done,
            FlowEnd::ClientReset => CloseReason::ClientReset,
            FlowEnd::BackendReset => CloseReason::UpstreamReset,
            FlowEnd::Idle => CloseReason::IdleTimeout,
            FlowEnd::PeerGone => CloseReason::PeerGone,
        },
        path: Some("handoff"),
    }
}
