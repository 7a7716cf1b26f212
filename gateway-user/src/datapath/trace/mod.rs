// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What would happen to a packet: the way of the kernel programs, walked on the
//! live maps with the same arithmetic, and the kernel asked for the rest.
//!
//! It reads the pinned maps itself: they say what the programs do, also while no
//! agent runs. Nothing is changed and nothing is sent.
//!
//! A step is a function that looks at one thing, says what it found, and either
//! ends the walk or lets it go on. To add one, write it into the file of its
//! kind and name it in [`STEPS`].

mod admit;
mod arrive;
mod decide;
mod fib;
mod guard;
mod leave;
mod node;
mod pinned;
mod sources;
mod stack;

use std::net::SocketAddr;

use gateway_common::{
    addr::Addr16,
    backend::Backend,
    counters::VerdictCounter,
    drop_reason::DropReason,
    flow::{FlowKey, PROTOCOL_TCP, PROTOCOL_UDP},
    service::ServiceValue,
};

use self::{fib::Hop, node::Node, pinned::Pinned};
use crate::{
    datapath::{
        DatapathConfig, DatapathError,
        bpffs::Pins,
        hook::Hook,
        probe,
        report::{TraceQuery, TraceReport, TraceStep},
        stats::socket_addr,
    },
    model::Transport,
};

/// A step: none lets the walk go on.
type Step = fn(&mut Walk<'_>) -> Result<Option<Outcome>, DatapathError>;

/// In the order of the programs.
const STEPS: [Step; 12] = [
    arrive::interface,
    decide::flow,
    decide::service,
    sources::sources,
    guard::limits,
    decide::backend,
    admit::limits,
    admit::translation,
    leave::route,
    leave::neighbour,
    leave::egress,
    leave::mtu,
];

/// Steps behind the verdict on the packet: what its answer meets.
const AFTER: [Step; 1] = [leave::replies];

/// How the way of the packet ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    verdict: VerdictCounter,
    reason: Option<DropReason>,
    delivered: bool,
}

impl Outcome {
    const fn delivered(verdict: VerdictCounter) -> Self {
        Self {
            verdict,
            reason: None,
            delivered: true,
        }
    }

    const fn lost(verdict: VerdictCounter) -> Self {
        Self {
            delivered: false,
            ..Self::delivered(verdict)
        }
    }

    const fn dropped(reason: DropReason) -> Self {
        Self {
            reason: Some(reason),
            ..Self::lost(VerdictCounter::Dropped)
        }
    }
}

/// What the steps have found so far.
struct Walk<'a> {
    query: &'a TraceQuery,
    /// As the programs look the packet up.
    key: FlowKey,
    pins: Pins,
    pinned: Pinned,
    node: Node,
    lines: Vec<TraceStep>,
    ingress: Option<Ingress>,
    service: Option<ServiceValue>,
    backend: Option<(u32, Backend)>,
    /// The slot of an ended flow that a new one would replace.
    ended: Option<u32>,
    /// Of a flow, existing or new.
    translation: Option<Translation>,
    hop: Option<Hop>,
    /// From XDP nothing leaves by the interface of the next hop.
    is_egress_missing: bool,
    /// What the programs cannot know makes the packet fail behind them.
    fails_later: bool,
}

/// Where the packet comes in.
struct Ingress {
    name: String,
    index: u32,
    mtu: u32,
    /// `xdp-native`, `xdp-generic`, `tcx` or `tc-filter`.
    hook: &'static str,
}

impl Ingress {
    fn is_tc(&self) -> bool {
        self.hook == Hook::Tc.name()
    }

    fn is_xdp(&self) -> bool {
        [Hook::XdpNative, Hook::XdpGeneric]
            .iter()
            .any(|hook| hook.name() == self.hook)
    }
}

/// How a flow rewrites the packet.
struct Translation {
    source: (Addr16, u16),
    destination: (Addr16, u16),
    /// It goes to a backend, not back to a client.
    to_backend: bool,
    /// It goes inside another packet, which these are the addresses of.
    wrapped: bool,
}

impl Translation {
    fn source(&self) -> SocketAddr {
        socket_addr(self.source.0, self.source.1)
    }

    fn destination(&self) -> SocketAddr {
        socket_addr(self.destination.0, self.destination.1)
    }
}

impl Walk<'_> {
    fn found(&mut self, step: &'static str, text: impl Into<String>) {
        self.line(step, false, text.into());
    }

    fn missing(&mut self, step: &'static str, text: impl Into<String>) {
        self.line(step, true, text.into());
    }

    fn line(&mut self, step: &'static str, missing: bool, text: String) {
        self.lines.push(TraceStep {
            step,
            missing,
            text,
        });
    }
}

/// Walks the way of a packet in the thread's network namespace.
///
/// # Errors
/// When the maps cannot be read (no root, no agent has ever run here, another
/// layout), the kernel does not answer, or the interface cannot be told.
pub fn trace(config: &DatapathConfig, query: &TraceQuery) -> Result<TraceReport, DatapathError> {
    let missing = probe::capabilities();
    if !missing.is_empty() {
        return Err(DatapathError::NotAllowed { missing });
    }
    let pins = Pins::new(&config.bpffs);
    let mut walk = Walk {
        query,
        key: key(query),
        pinned: Pinned::open(&pins)?,
        pins,
        node: Node::open()?,
        lines: Vec::new(),
        ingress: None,
        service: None,
        backend: None,
        ended: None,
        translation: None,
        hop: None,
        is_egress_missing: false,
        fails_later: false,
    };
    let mut outcome = None;
    for step in STEPS {
        outcome = step(&mut walk)?;
        if outcome.is_some() {
            break;
        }
    }
    if outcome.is_none() {
        for step in AFTER {
            step(&mut walk)?;
        }
    }
    Ok(walk.report(outcome))
}

impl Walk<'_> {
    fn report(self, outcome: Option<Outcome>) -> TraceReport {
        let outcome = outcome.unwrap_or_else(|| {
            // At tc the kernel resolves the neighbour while the packet waits.
            let is_tc = self.ingress.as_ref().is_none_or(Ingress::is_tc);
            let resolved = self.hop.as_ref().is_none_or(|hop| hop.resolved);
            let verdict = if !is_tc && !resolved {
                VerdictCounter::NeighbourMiss
            } else if self.is_egress_missing {
                VerdictCounter::EgressMiss
            } else {
                VerdictCounter::Forwarded
            };
            Outcome {
                delivered: !self.fails_later,
                ..Outcome::delivered(verdict)
            }
        });
        let translation = self.translation.as_ref().filter(|to| to.to_backend);
        TraceReport {
            from: self.query.from,
            to: self.query.to,
            verdict: outcome.verdict.name(),
            reason: outcome.reason.map(DropReason::name),
            delivered: outcome.delivered,
            backend: translation.map(Translation::destination),
            source: translation.map(Translation::source),
            steps: self.lines,
        }
    }
}

fn key(query: &TraceQuery) -> FlowKey {
    let (from, to) = (query.from, query.to.address);
    FlowKey {
        src: from.ip().to_canonical().into(),
        dst: to.ip().to_canonical().into(),
        src_port_be: from.port().to_be(),
        dst_port_be: to.port().to_be(),
        proto: match query.to.transport {
            Transport::Tcp => PROTOCOL_TCP,
            Transport::Udp => PROTOCOL_UDP,
        },
        _pad: [0; 3],
    }
}
