// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Metrics of connections that are handed to the kernel.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::metrics::{Families, one};
use crate::{
    datapath::report::HandoffReport,
    status::Connections,
    telemetry::histogram::{BOUNDS_NS, Times},
};

/// Of the agent's side.
pub(super) fn agent(out: &mut Families<'_>, connections: &Connections) {
    out.counter(
        "handoffs",
        "Connections and attempts to hand them to the kernel, by what became of them",
        connections
            .handoff
            .iter()
            .map(|(outcome, count)| (vec![("outcome", outcome.clone())], *count)),
    );
    out.metric(
        "handoff_hold_seconds",
        "How long packets were held while a connection was handed to the kernel",
        Holds(connections.handoff_holds.clone()),
    );
}

/// Of the kernel's side.
pub(super) fn kernel(out: &mut Families<'_>, handoff: &HandoffReport) {
    out.gauge(
        "handoff_flows",
        "Open connections that agents have handed to the kernel, as the last sweep saw them",
        one(i64::from(handoff.active)),
    );
    out.counter(
        "handoff_parked_packets",
        "Packets that waited while their connection was handed to the kernel",
        one(handoff.parked),
    );
    out.counter(
        "handoff_ended",
        "Connections in the kernel that this agent found ended, by how",
        handoff
            .ended
            .iter()
            .map(|(reason, count)| (vec![("reason", (*reason).to_owned())], *count)),
    );
    out.counter(
        "handoff_bytes",
        "Bytes of connections that were handed to the kernel, all of theirs, by server name; of a thousand names, then `other`",
        handoff.bytes.iter().flat_map(|(sni, bytes)| {
            [("in", bytes[0]), ("out", bytes[1])].map(|(direction, bytes)| {
                let labels = vec![
                    ("sni", sni.clone()),
                    ("direction", direction.to_owned()),
                ];
                (labels, bytes)
            })
        }),
    );
    out.gauge(
        "handoff_labels",
        "Different names of connections in the kernel",
        one(i64::from(handoff.labels)),
    );
    out.counter(
        "handoff_labels_refused",
        "Connections in the kernel without their server name, as there were too many",
        one(handoff.labels_refused),
    );
}

/// Encoded as a histogram; counted elsewhere.
#[derive(Debug)]
struct Holds(Times);

impl EncodeMetric for Holds {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let bounds = BOUNDS_NS.iter().map(|bound| *bound as f64 / 1e9);
        let bounds = bounds.chain([f64::INFINITY]);
        let counts = self.0.buckets.iter().copied().chain(std::iter::repeat(0));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        encoder.encode_histogram::<NoLabelSet>(self.0.sum_s, self.0.count(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
