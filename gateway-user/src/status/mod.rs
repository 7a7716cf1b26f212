// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reports: what the agent serves, how its kernel side does, what is wrong with
//! the configuration. Nothing here changes routing.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use serde::Serialize;

use crate::{
    datapath::{DatapathReport, returning::NotKept},
    diagnostic::{Diagnostic, Reason, Severity},
    health::HealthReport,
    model::SourceAddress,
    snapshot::{ListenerTable, Snapshot},
    telemetry::{
        access::CloseReason,
        counters::{Counter, INELIGIBLE, MODES, NOT_YET, WorkerCounters},
        histogram::Times,
    },
};

pub mod flows;
pub mod matching;
mod text;
pub mod trace;

pub use text::text;

/// Where the agent is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The first generation is not in effect yet.
    Starting,
    /// The first generation could not be brought into effect; why.
    Failing(String),
    /// A generation is in effect.
    Ready,
    /// Told to stop.
    Draining,
}

/// What a report is made of.
pub struct Inputs<'a> {
    /// In force.
    pub snapshot: &'a Snapshot,
    /// Of the last load.
    pub diagnostics: &'a [Diagnostic],
    /// Why eBPF is left out.
    pub missing: Option<&'a [String]>,
    /// Of the kernel side.
    pub datapath: Option<DatapathReport>,
    /// One per worker.
    pub counters: &'a [Arc<WorkerCounters>],
    /// Connections in the agent.
    pub active: usize,
    /// Of the probes.
    pub health: HealthReport,
    /// Snapshots that took more than one attempt.
    pub apply_failures: u64,
    /// Where the agent is in its life.
    pub readiness: &'a Readiness,
}

/// The body of `/status`, and what `/metrics` is made of.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of the agent.
    pub version: &'static str,
    /// Of the snapshot in force.
    pub generation: u64,
    /// `starting`, `failing`, `ready` or `draining`.
    pub readiness: &'static str,
    /// Failed attempts to bring a snapshot into effect.
    pub apply_failures: u64,
    /// Kernel or userspace.
    pub datapath: DatapathState,
    /// Listeners in force.
    pub listeners: Vec<ListenerReport>,
    /// Connections in the agent.
    pub connections: Connections,
    /// Probes of endpoints.
    pub health: HealthReport,
    /// Clusters with an endpoint that is down.
    pub impaired: Vec<ImpairedReport>,
    /// Certificates in use.
    pub certificates: Vec<CertificateReport>,
    /// Findings of the last load.
    pub diagnostics: Vec<Finding>,
}

/// Kernel or userspace.
#[derive(Debug, Serialize)]
pub struct DatapathState {
    /// `ebpf` or `userspace`.
    pub mode: &'static str,
    /// Why eBPF is left out.
    pub missing: Vec<String>,
    /// Of the kernel side.
    pub report: Option<DatapathReport>,
}

/// One listener.
#[derive(Debug, Serialize)]
pub struct ListenerReport {
    /// `address:port`.
    pub listener: String,
    /// `forward`, `tls` or `http`.
    pub kind: &'static str,
    /// `file:line`.
    pub origin: String,
}

/// Connections in the agent since its start.
#[derive(Debug, Default, Serialize)]
pub struct Connections {
    /// Open now.
    pub active: u64,
    /// Accepted.
    pub opened: u64,
    /// Ended, by mode and reason.
    pub closed: Vec<Closed>,
    /// From clients.
    pub bytes_in: u64,
    /// To clients.
    pub bytes_out: u64,
    /// Requests answered, by status class 1xx to 5xx.
    pub responses: [u64; 5],
    /// Requests the validator refused.
    pub bad_requests: u64,
    /// Whose address connections came from, of those to clusters that want the
    /// client's: `client`, or `node_` and why.
    pub sources: BTreeMap<&'static str, u64>,
    /// What became of connections that could be handed to the kernel, by label.
    pub handoff: BTreeMap<String, u64>,
    /// How long packets were held for that.
    pub handoff_holds: Times,
    /// Upstream connections opened for HTTP.
    pub upstream_opened: u64,
    /// Requests on a pooled upstream connection.
    pub upstream_reused: u64,
}

/// Connections that ended one way.
#[derive(Debug, Serialize)]
pub struct Closed {
    /// How they were served.
    pub mode: &'static str,
    /// Why they ended.
    pub reason: &'static str,
    /// How many.
    pub count: u64,
}

/// A cluster with an endpoint that is down.
#[derive(Debug, Serialize)]
pub struct ImpairedReport {
    /// Its name.
    pub cluster: String,
    /// Endpoints that take new connections.
    pub used: usize,
    /// Endpoints that are down, as `address:port`.
    pub down: Vec<String>,
    /// So few are up that all of them are used.
    pub panic: bool,
}

/// One certificate.
#[derive(Debug, Serialize)]
pub struct CertificateReport {
    /// Its name.
    pub certificate: String,
    /// End of validity, seconds since the Unix epoch.
    pub not_after_s: i64,
    /// Days until then; negative when it is over.
    pub days_left: i64,
}

/// One diagnostic.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// File.
    pub file: String,
    /// Line, 0 when only the file is known.
    pub line: u32,
    /// How bad.
    pub severity: Severity,
    /// What kind.
    pub reason: Reason,
    /// What, and what to do.
    pub message: String,
}

/// Diagnostics as they are written in JSON.
pub fn findings(diagnostics: &[Diagnostic]) -> Vec<Finding> {
    let finding = |Diagnostic {
                       origin,
                       severity,
                       reason,
                       message,
                   }: &Diagnostic| Finding {
        file: origin.file.to_string(),
        line: origin.line,
        severity: *severity,
        reason: *reason,
        message: message.clone(),
    };
    diagnostics.iter().map(finding).collect()
}

/// Puts a report together.
pub fn report(inputs: Inputs<'_>) -> Report {
    let Inputs {
        snapshot,
        diagnostics,
        missing,
        datapath,
        counters,
        active,
        health,
        apply_failures,
        readiness,
    } = inputs;
    let now_s = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64);
    Report {
        version: env!("CARGO_PKG_VERSION"),
        generation: snapshot.generation,
        readiness: match readiness {
            Readiness::Starting => "starting",
            Readiness::Failing(_) => "failing",
            Readiness::Ready => "ready",
            Readiness::Draining => "draining",
        },
        apply_failures,
        datapath: DatapathState {
            mode: if datapath.is_some() {
                "ebpf"
            } else {
                "userspace"
            },
            missing: missing.unwrap_or_default().to_vec(),
            report: datapath,
        },
        listeners: snapshot
            .listeners
            .iter()
            .map(|(key, listener)| ListenerReport {
                listener: key.to_string(),
                kind: match listener.table {
                    ListenerTable::Forward(_) => "forward",
                    ListenerTable::Tls(_) => "tls",
                    ListenerTable::PlainHttp(_) => "http",
                },
                origin: listener.origin.to_string(),
            })
            .collect(),
        connections: connections(counters, active),
        health,
        impaired: snapshot
            .clusters
            .values()
            .filter(|cluster| !cluster.down.is_empty())
            .map(|cluster| ImpairedReport {
                cluster: cluster.id.to_string(),
                used: cluster.endpoints.len(),
                down: cluster
                    .down
                    .iter()
                    .map(|endpoint| endpoint.address.to_string())
                    .collect(),
                panic: cluster.panic,
            })
            .collect(),
        certificates: snapshot
            .certificates
            .iter()
            .map(|certificate| CertificateReport {
                certificate: certificate.id.to_string(),
                not_after_s: certificate.not_after_s,
                days_left: (certificate.not_after_s - now_s).div_euclid(86_400),
            })
            .collect(),
        diagnostics: findings(diagnostics),
    }
}

fn connections(counters: &[Arc<WorkerCounters>], active: usize) -> Connections {
    let sum = |field: fn(&WorkerCounters) -> u64| counters.iter().map(|one| field(one)).sum();
    let mut closed = Vec::new();
    for mode in MODES {
        for reason in CloseReason::ALL {
            let count = counters
                .iter()
                .map(|one| one.closed[mode as usize][reason as usize].value())
                .sum();
            if count > 0 {
                closed.push(Closed {
                    mode: mode.as_str(),
                    reason: reason.as_str(),
                    count,
                });
            }
        }
    }
    let mut responses = [0; 5];
    for one in counters {
        for (total, class) in responses.iter_mut().zip(&one.responses) {
            *total += class.value();
        }
    }
    Connections {
        active: active as u64,
        opened: sum(|one| one.opened.value()),
        closed,
        bytes_in: sum(|one| one.bytes_in.value()),
        bytes_out: sum(|one| one.bytes_out.value()),
        responses,
        bad_requests: sum(|one| one.bad_requests.value()),
        sources: sources(counters),
        handoff: handoffs(counters),
        handoff_holds: counters.iter().fold(Times::default(), |mut times, one| {
            times.add(&one.handoff.holds);
            times
        }),
        upstream_opened: sum(|one| one.upstream_opened.value()),
        upstream_reused: sum(|one| one.upstream_reused.value()),
    }
}

/// Whose address connections came from.
fn sources(counters: &[Arc<WorkerCounters>]) -> BTreeMap<&'static str, u64> {
    let mut sums = BTreeMap::new();
    for one in counters {
        let reasons = NotKept::ALL.map(NotKept::name);
        let kept = [(SourceAddress::Client.name(), &one.client_source)];
        for (label, counter) in kept
            .into_iter()
            .chain(reasons.into_iter().zip(&one.node_source))
        {
            *sums.entry(label).or_default() += counter.value();
        }
    }
    sums
}

/// Every count of handoffs: those begun and not, and attempts that came to
/// nothing. Those that succeeded are closed connections.
fn handoffs(counters: &[Arc<WorkerCounters>]) -> BTreeMap<String, u64> {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for one in counters {
        let one = &one.handoff;
        let mut add = |label: String, counter: &Counter| {
            *sums.entry(label).or_default() += counter.value();
        };
        add("begun".to_owned(), &one.begun);
        add("gave_up".to_owned(), &one.gave_up);
        add("table_full".to_owned(), &one.table_full);
        add("ports_taken".to_owned(), &one.ports_taken);
        add("failed".to_owned(), &one.failed);
        for (reason, counter) in NOT_YET.iter().zip(&one.not_yet) {
            add(format!("not_yet_{reason}"), counter);
        }
        for (reason, counter) in INELIGIBLE.iter().zip(&one.ineligible) {
            add(format!("ineligible_{reason}"), counter);
        }
    }
    sums
}
