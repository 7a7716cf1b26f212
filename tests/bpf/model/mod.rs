// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A reference model of the data plane: what the kernel programs must do with a
//! frame, written from the RFCs, the design and the contract in `gateway-common`,
//! not from the programs.
//!
//! It owes them nothing: it has its own parser, it sums checksums up from
//! scratch, its tables are those of the standard library, and what the kernel
//! says about routes it knows from the one topology that it is asked about. Only
//! the arithmetic that is shared on purpose (`gateway_common::maglev`) is used.
//!
//! # How to extend it
//!
//! Each step of a packet's way has a file: [`parse`], [`fragment`], [`flow`],
//! [`handoff`], [`service`], [`source`], [`limits`], [`rewrite`] or [`encap`], [`icmp`],
//! [`route`]. A step returns what the next one needs, or the [`Fate`] that ends the
//! packet's way; [`Model::forward`] and [`icmp::translate`] name them in order. For
//! something new:
//!
//! 1. add its maps to [`Model`], as a standard collection, and its step as a file;
//! 2. in `property/world.rs` put random entries into the map state, which
//!    installs them in the kernel and in the model;
//! 3. in `property/compare.rs` compare what the programs write there;
//! 4. in `property/traffic.rs` make packets that meet it, half of them only just;
//! 5. run many cases (`SLUICE_MODEL_CASES=5000000 SLUICE_MODEL_SEED=7`), and turn
//!    each disagreement into a case of its own in `found.rs`.
//!
//! Where model and program disagree the RFC decides, and the comment says which.

pub mod checksum;
pub mod encap;
pub mod flow;
pub mod fragment;
pub mod handoff;
mod icmp;
pub mod limits;
pub mod parse;
mod rewrite;
pub mod route;
mod service;
pub mod source;

use std::collections::{HashMap, HashSet};

use gateway_common::{
    addr::Addr16,
    backend::Backend,
    counters::{Stats, VerdictCounter},
    drop_reason::DropReason,
    flow::KIND_DSR,
    service::{RingChunk, ServiceKey, ServiceValue},
    settings::Settings,
};

use crate::lab::{Action, Hook};
use parse::{Ip, Part, Transport, Tuple};

/// State of the data plane: the maps, and what was counted.
#[derive(Clone)]
pub struct Model {
    pub hook: Hook,
    pub settings: Settings,
    /// Whether [`route::SLOW`] sends what XDP redirects to it.
    pub slow_sends: bool,
    pub services: HashMap<ServiceKey, ServiceValue>,
    /// Which ranges of ports an address has, by protocol.
    pub port_ranges: HashMap<(Addr16, u8), Vec<(u16, u16)>>,
    /// Sources that have no token left, by service; all others have plenty.
    pub spent: HashSet<(u32, source::Prefix)>,
    /// Source lists: by id and prefix, whether it is allowed.
    pub sources: HashMap<(u32, source::Prefix), bool>,
    /// By index of the chunk; what is not here is zero, up to the array's end.
    pub rings: HashMap<u32, RingChunk>,
    /// By id; what is not here is unused, up to the array's end.
    pub backends: HashMap<u32, Backend>,
    pub flows: flow::Table,
    pub fragments: fragment::Seen,
    pub service_stats: HashMap<u32, Stats>,
    pub backend_stats: HashMap<u32, Stats>,
}

/// How a packet's way ends before it is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Untouched to the stack.
    Pass(VerdictCounter),
    Drop(DropReason),
}

/// Not ours.
pub const PASS: Fate = Fate::Pass(VerdictCounter::Passed);

/// What has to come out.
#[derive(Clone, Debug)]
pub struct Expected {
    pub action: Action,
    pub verdict: VerdictCounter,
    pub drop: Option<DropReason>,
    /// The frame; of one that is dropped nothing is left to compare.
    pub frame: Vec<u8>,
    /// Offsets of checksums whose zero may be written either way: 0 and 0xffff
    /// (what came in was wrong or not in its usual form).
    pub loose: Vec<usize>,
}

/// A rewritten packet.
pub struct Rewritten {
    frame: Vec<u8>,
    loose: Vec<usize>,
}

impl Model {
    /// Handles a frame that comes in by `interface`.
    pub fn process(&mut self, interface: &'static str, frame: &[u8]) -> Expected {
        let ended = match parse::frame(self.hook, interface, frame) {
            None => Err(PASS),
            Some(ip) if ip.is_icmp() => icmp::translate(self, frame, &ip),
            Some(ip) => self.forward(frame, &ip),
        };
        let (rewritten, sent) = match ended {
            Err(Fate::Drop(reason)) => return dropped(reason),
            Err(Fate::Pass(verdict)) => {
                return Expected {
                    action: Action::Pass,
                    verdict,
                    drop: None,
                    frame: frame.to_vec(),
                    loose: Vec::new(),
                };
            }
            Ok(ended) => ended,
        };
        let Rewritten { mut frame, loose } = rewritten;
        let (action, verdict) =
            match route::send((self.hook, self.slow_sends), interface, &sent, &mut frame) {
                Ok(end) => end,
                // The sender lets routers fragment it (RFC 791 section 2.3).
                Err(DropReason::PacketTooBig) if sent.may_be_fragmented => {
                    (Action::Pass, VerdictCounter::Fragmented)
                }
                // The sender is told, but in these runs never is: see `property`.
                Err(reason) => return dropped(reason),
            };
        Expected {
            action,
            verdict,
            drop: None,
            frame,
            loose,
        }
    }

    /// The way of TCP and UDP.
    fn forward(&mut self, frame: &[u8], ip: &Ip) -> Result<(Rewritten, route::Sent), Fate> {
        let transport = match ip.part {
            Part::Later => self.fragments.recall(ip).ok_or(PASS)?,
            Part::Whole | Part::First => Transport::read(frame, ip).ok_or(PASS)?,
        };
        let found = match self.flows.live(&transport.tuple) {
            None => None,
            Some(found) if self.flows.is_of_sockets(found) => {
                return Err(self.flows.note(found, frame, ip, &transport));
            }
            Some(found) => {
                sound(ip, &transport)?;
                (!self.flows.is_restart(found, &transport)).then_some(found)
            }
        };
        let found = match found {
            Some(found) => found,
            None => self.new_flow(ip, &transport)?,
        };
        if ip.part == Part::First {
            self.fragments.remember(ip, &transport);
        }
        let flow = self.flows.track(found, &transport, ip.len);
        let (service, backend, to) = (flow.service_id, flow.backend_id, flow.dir[found.way].to);
        let is_direct = flow.kind == KIND_DSR;
        let splicing = flow.splicing.clone();
        if splicing.is_none() {
            self.count_packet(service, backend, found.way, ip.len as u64);
        }
        if is_direct {
            return Ok(wrapped(frame, ip, to));
        }
        let rewritten = rewrite::packet(frame, ip, &transport, &to, |frame| {
            if let Some(splicing) = splicing {
                splicing.translate(frame, ip.l4, found.way);
            }
        });
        let sent = route::Sent {
            to,
            len: ip.len,
            may_be_fragmented: may_be_fragmented(frame, ip),
        };
        Ok((rewritten, sent))
    }

    /// Counts a packet of a service's flow.
    fn count_packet(&mut self, service: u32, backend: u32, way: usize, len: u64) {
        for stats in [
            self.service_stats.entry(service).or_default(),
            self.backend_stats.entry(backend).or_default(),
        ] {
            if way == flow::TO_BACKEND {
                stats.packets_in += 1;
                stats.bytes_in += len;
            } else {
                stats.packets_out += 1;
                stats.bytes_out += len;
            }
        }
    }

    /// A first packet to a service becomes a flow.
    fn new_flow(&mut self, ip: &Ip, transport: &Transport) -> Result<flow::Found, Fate> {
        let service = *self.service(&transport.tuple).ok_or(PASS)?;
        if ip.part == Part::Later {
            return Err(Fate::Pass(VerdictCounter::NoFlow));
        }
        sound(ip, transport)?;
        if !transport.opens() {
            return Err(Fate::Pass(VerdictCounter::NoFlow));
        }
        let created = self
            .admits(&service, transport)
            .and_then(|()| self.create(transport, &service));
        let stats = self.service_stats.entry(service.service_id).or_default();
        match created {
            Ok(_) => stats.flows += 1,
            Err(_) => stats.refused += 1,
        }
        created.map_err(Fate::Drop)
    }

    fn create(
        &mut self,
        transport: &Transport,
        service: &ServiceValue,
    ) -> Result<flow::Found, DropReason> {
        let (id, backend) = self.select(&transport.tuple, service)?;
        // A flow without a slot never came as far as its backend.
        let slot = self.flows.claim().ok_or(DropReason::FlowTableFull)?;
        let created = self
            .flows
            .create(slot, transport, service, (id, &backend), &self.settings);
        let stats = self.backend_stats.entry(id).or_default();
        match created {
            Ok(_) => {
                stats.flows += 1;
                self.count(slot, service, transport);
            }
            Err(_) => stats.refused += 1,
        }
        created
    }
}

/// The packet inside another one, and how that is sent.
fn wrapped(frame: &[u8], ip: &Ip, to: Tuple) -> (Rewritten, route::Sent) {
    let sent = route::Sent {
        to,
        len: ip.len + encap::header_len(ip.is_v6),
        may_be_fragmented: may_be_fragmented(frame, ip),
    };
    (encap::packet(frame, ip, &to), sent)
}

/// Whether its sender lets routers fragment a packet.
fn may_be_fragmented(frame: &[u8], ip: &Ip) -> bool {
    !ip.is_v6 && frame[20] & 0x40 == 0
}

/// A packet that is ours and cannot be forwarded is dropped (RFC 791 section 3.2
/// on time to live, RFC 8200 section 3 on the hop limit).
fn sound(ip: &Ip, transport: &Transport) -> Result<(), Fate> {
    if ip.is_cut || !transport.agrees {
        Err(Fate::Drop(DropReason::Malformed))
    } else if ip.ttl <= 1 {
        Err(Fate::Drop(DropReason::TtlExceeded))
    } else {
        Ok(())
    }
}

fn dropped(reason: DropReason) -> Expected {
    Expected {
        action: Action::Drop,
        verdict: VerdictCounter::Dropped,
        drop: Some(reason),
        frame: Vec::new(),
        loose: Vec::new(),
    }
}
