// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What became of handed-off connections: how many there are, what they move,
//! and a record of each that ends, whichever agent handed it off.
//!
//! The slot says whether a record is owed, in a word that is changed by
//! comparing it. So there is one, and by the agent that finds the end first.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use gateway_common::{
    flow::{DIR_TO_BACKEND, DIR_TO_CLIENT, FlowSlot, SLOT_ACTIVE, SLOT_CLOSING},
    tcp_state::{FLAG_RST, TCP_CLOSING, TCP_RESET, TCP_RESET_UNCONFIRMED},
};

use crate::datapath::{
    DatapathError,
    labels::Labels,
    relayed::{EndedFlow, FlowEnd},
    report::HandoffReport,
    slots::Slot,
    stats::socket_addr,
    volume::Volume,
};

/// Flows of one label, met in a round of sweeps.
#[derive(Debug, Default)]
struct Sums {
    active: u32,
    /// Bytes of flows that stay, and of those that were taken away.
    open: [u64; 2],
    ended: [u64; 2],
}

/// The account of one agent.
#[derive(Debug)]
pub struct Account {
    labels: Arc<Labels>,
    epoch: u32,
    /// By label, as far as the round under way has come.
    round: HashMap<u32, Sums>,
    /// Open flows of the last whole one.
    active: u32,
    volume: Volume,
    /// Records not fetched yet.
    ended: Vec<EndedFlow>,
    /// Flows by how they ended.
    ends: BTreeMap<FlowEnd, u64>,
}

impl Account {
    /// Of flows with these labels; `epoch` is the number of the agent's start.
    pub fn new(labels: Arc<Labels>, epoch: u32) -> Self {
        Self {
            labels,
            epoch,
            round: HashMap::new(),
            active: 0,
            volume: Volume::default(),
            ended: Vec::new(),
            ends: BTreeMap::new(),
        }
    }

    /// Whether this agent has taken the slot of a handed-off flow.
    pub fn is_own(&self, slot: &Slot) -> bool {
        slot.epoch() == self.epoch
    }

    /// The sweeper comes by the slot of a handed-off flow, in `state`.
    pub fn visit(&mut self, slot: &Slot, state: u32) {
        self.round.entry(slot.label()).or_default();
        if state == SLOT_CLOSING {
            // While it lingers, what it was is still there.
            self.end(slot);
        }
    }

    /// It stays, active or closing.
    pub fn stays(&mut self, slot: &Slot, state: u32) {
        let sums = self.round.entry(slot.label()).or_default();
        sums.active += u32::from(state == SLOT_ACTIVE);
        add(&mut sums.open, slot.bytes());
    }

    /// It is about to be taken away, however it came to that.
    pub fn goes(&mut self, slot: &Slot) {
        self.end(slot);
        if slot.settle() {
            let sums = self.round.entry(slot.label()).or_default();
            add(&mut sums.ended, slot.bytes());
        }
    }

    /// Records the flow in `slot`, which has ended, unless that was done.
    fn end(&mut self, slot: &Slot) {
        if !slot.take_record() {
            return;
        }
        let ended = ended(&slot.copy(), &self.labels);
        *self.ends.entry(ended.end).or_default() += 1;
        self.ended.push(ended);
    }

    /// Every slot has been visited since the last call.
    ///
    /// # Errors
    /// When a label cannot be taken away.
    pub fn finish_round(&mut self) -> Result<(), DatapathError> {
        self.active = self.round.values().map(|sums| sums.active).sum();
        for (label, sums) in &self.round {
            if (sums.open, sums.ended) == ([0; 2], [0; 2]) {
                continue;
            }
            let names = self.labels.names(*label);
            let sni = names.as_ref().and_then(|names| names.sni.as_deref());
            self.volume.add(sni, sums.open, true);
            self.volume.add(sni, sums.ended, false);
        }
        self.volume.finish_round();
        let found: HashSet<u32> = self.round.drain().map(|(label, _)| label).collect();
        self.labels.finish_round(&found)
    }

    /// What has ended since the last call.
    pub fn take_ended(&mut self) -> Vec<EndedFlow> {
        std::mem::take(&mut self.ended)
    }

    /// For reports; so many packets have `parked`.
    pub fn report(&self, parked: u64) -> HandoffReport {
        let labels = self.labels.counts();
        HandoffReport {
            active: self.active,
            parked,
            ended: self.ends.iter().map(|(end, n)| (end.name(), *n)).collect(),
            bytes: self.volume.totals(),
            labels: labels.used,
            labels_refused: labels.refused,
        }
    }
}

fn add(sum: &mut [u64; 2], bytes: [u64; 2]) {
    for (sum, bytes) in sum.iter_mut().zip(bytes) {
        *sum = sum.saturating_add(bytes);
    }
}

impl FlowEnd {
    /// The word in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::ClientReset => "client_reset",
            Self::BackendReset => "upstream_reset",
            Self::Idle => "idle_timeout",
            Self::PeerGone => "peer_gone",
        }
    }

    /// Of a connection in this state (`TCP_*`), in which `client` and `backend`
    /// have sent these flags.
    fn of(tcp_state: u32, client: u32, backend: u32) -> Self {
        match tcp_state {
            TCP_CLOSING => Self::Done,
            TCP_RESET | TCP_RESET_UNCONFIRMED => {
                if client & FLAG_RST != 0 {
                    Self::ClientReset
                } else if backend & FLAG_RST != 0 {
                    Self::BackendReset
                } else {
                    Self::PeerGone
                }
            }
            _ => Self::Idle,
        }
    }
}

fn ended(flow: &FlowSlot, labels: &Labels) -> EndedFlow {
    let to_backend = &flow.dir[DIR_TO_BACKEND as usize];
    let to_client = &flow.dir[DIR_TO_CLIENT as usize];
    let last_seen = to_backend.last_seen_ns.max(to_client.last_seen_ns);
    EndedFlow {
        client: socket_addr(to_client.new_dst, to_client.new_dst_port_be),
        destination: socket_addr(to_client.new_src, to_client.new_src_port_be),
        backend: socket_addr(to_backend.new_dst, to_backend.new_dst_port_be),
        keeps_client: to_backend.new_src == to_client.new_dst,
        names: labels.names(flow.service_id),
        bytes_in: to_backend.bytes,
        bytes_out: to_client.bytes,
        duration: Duration::from_nanos(last_seen.saturating_sub(flow.created_ns)),
        end: FlowEnd::of(
            flow.tcp_state,
            to_backend.tcp_flags_seen,
            to_client.tcp_flags_seen,
        ),
    }
}

#[cfg(test)]
mod tests {
    use gateway_common::tcp_state::{
        FLAG_ACK, FLAG_FIN, FLAG_RST, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT, TCP_RESET,
        TCP_RESET_UNCONFIRMED,
    };

    use super::FlowEnd;

    #[test]
    fn each_way_a_connection_can_end() {
        let fin = FLAG_ACK | FLAG_FIN;
        let reset = FLAG_ACK | FLAG_RST;
        for (state, client, backend, end) in [
            (TCP_CLOSING, fin, fin, FlowEnd::Done),
            (TCP_RESET, reset, FLAG_ACK, FlowEnd::ClientReset),
            (TCP_RESET, fin, reset, FlowEnd::BackendReset),
            (TCP_RESET, FLAG_ACK, FLAG_ACK, FlowEnd::PeerGone),
            (
                TCP_RESET_UNCONFIRMED,
                FLAG_ACK,
                reset,
                FlowEnd::BackendReset,
            ),
            (TCP_ESTABLISHED, FLAG_ACK, FLAG_ACK, FlowEnd::Idle),
            (TCP_FIN_WAIT, fin, FLAG_ACK, FlowEnd::Idle),
        ] {
            assert_eq!(FlowEnd::of(state, client, backend), end);
        }
    }
}
