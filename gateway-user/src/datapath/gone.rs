// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Flows whose endpoint is in no configuration any more.
//!
//! That alone ends no flow: whoever is taken off the list may be at work yet.
//! So the endpoint is asked, in the client's name, and only when it stays
//! silent the connection is reset on both sides. Sessions of UDP, and
//! connections that were never answered, are let go instead: the next packet
//! of the client finds another endpoint.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use gateway_common::{
    addr::Addr16,
    flow::{
        DIR_TO_BACKEND, DIR_TO_CLIENT, KIND_DSR, KIND_HANDOFF, SLOT_ACTIVE, SLOT_CLOSING, SLOT_DEAD,
    },
    tcp_state, udp_state,
};

use crate::datapath::{notices::Notices, segments, slots::Slot, tables::Desired};

/// Questions without an answer before a flow is given up.
const QUESTIONS: u32 = 3;
/// An endpoint that has answered is left alone for so many intervals.
const REST: u32 = 12;
/// Resets of one flow, should a side go on sending.
const RESETS: u32 = 3;

/// The endpoints there are, and the flows of those there are no more.
#[derive(Debug)]
pub struct Gone {
    interval: Duration,
    /// None until the first configuration: nobody knows yet what is gone.
    present: Option<Present>,
    /// Some flow may be of an endpoint that is not present.
    looking: bool,
    watched: HashMap<u32, Watch>,
    found: bool,
    counts: GoneCounts,
}

/// The endpoints of a configuration.
#[derive(Debug, Default, PartialEq, Eq)]
struct Present {
    /// Of forwarded services: address and port, network order; port 0 stands for
    /// whatever the client used.
    backends: HashSet<(Addr16, u16)>,
    /// Of connections of the agent. Without ports: one of a range may be reached
    /// on any.
    endpoints: HashSet<Addr16>,
}

impl Present {
    fn of(desired: &Desired) -> Self {
        let backends = desired.backends.values();
        Self {
            backends: backends
                .map(|target| {
                    let ip = target.address.ip().to_canonical();
                    (ip.into(), target.address.port().to_be())
                })
                .collect(),
            endpoints: desired
                .endpoints
                .iter()
                .copied()
                .map(Addr16::from)
                .collect(),
        }
    }

    /// Whether there is nothing in it that is not in `other`.
    fn is_within(&self, other: &Self) -> bool {
        self.backends.is_subset(&other.backends) && self.endpoints.is_subset(&other.endpoints)
    }

    fn has(&self, slot: &Slot) -> bool {
        let (address, port_be) = slot.backend();
        if slot.kind() == KIND_HANDOFF {
            return self.endpoints.contains(&address);
        }
        [port_be, 0]
            .iter()
            .any(|port_be| self.backends.contains(&(address, *port_be)))
    }
}

/// What became of flows whose endpoint was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoneCounts {
    /// Connections reset on both sides, since start.
    pub reset: u64,
    /// Flows let go, so that the client's next packet chooses again, since
    /// start.
    pub released: u64,
    /// Flows whose endpoint is not configured any more, and answers or is being
    /// asked.
    pub watched: u32,
}

/// A flow whose endpoint is not present.
#[derive(Clone, Copy, Debug)]
struct Watch {
    /// Of the slot: another flow may take it.
    generation: u32,
    /// When it was asked first, or heard last: an answer is later. Coarse
    /// monotonic clock, as the programs', ns.
    since_ns: u64,
    /// When the next step is due.
    due_ns: u64,
    /// Questions since it was heard.
    asked: u32,
    /// Times both sides were told.
    told: u32,
}

/// What a flow needs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Wait,
    Ask,
    Reset,
    Release,
}

impl Watch {
    fn new(generation: u32, now: u64, interval: u64) -> Self {
        Self {
            generation,
            since_ns: now,
            due_ns: now + interval,
            asked: 0,
            told: 0,
        }
    }

    /// What to do at `now` with a flow that has come as far as `progress`
    /// (`TCP_*` or `UDP_*`) and whose backend was heard last at `heard`.
    fn step(&mut self, progress: u32, heard: u64, now: u64, interval: u64) -> Step {
        let is_udp = udp_state::is_udp(progress);
        let is_open = !is_udp && progress != tcp_state::TCP_SYN_SENT;
        // The clock goes in steps: an answer may have the time of its question.
        if heard >= self.since_ns && (heard > self.since_ns || self.asked > 0) {
            self.since_ns = now;
            self.asked = 0;
            self.due_ns = now + interval * if is_open { u64::from(REST) } else { 1 };
            return Step::Wait;
        }
        if now < self.due_ns {
            return Step::Wait;
        }
        self.due_ns = now + interval;
        if self.asked == 0 {
            self.since_ns = now;
        }
        self.asked += 1;
        if is_open {
            if self.asked > QUESTIONS {
                Step::Reset
            } else {
                Step::Ask
            }
        } else if is_udp && self.asked < QUESTIONS {
            // Nobody knows a question for it; the client's may be one.
            Step::Wait
        } else {
            Step::Release
        }
    }
}

impl Gone {
    /// Knows of no endpoint yet; asks at this interval.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            present: None,
            looking: false,
            watched: HashMap::new(),
            found: false,
            counts: GoneCounts::default(),
        }
    }

    /// These are the endpoints from now on: no new flow goes to others.
    pub fn set_present(&mut self, desired: &Desired) {
        let present = Present::of(desired);
        // After a start, flows may be of endpoints that left before.
        self.looking |= self
            .present
            .as_ref()
            .is_none_or(|before| !before.is_within(&present));
        self.present = Some(present);
    }

    /// Whether [`Self::visit`] has to see every flow.
    pub fn is_looking(&self) -> bool {
        self.looking
    }

    /// Every slot has been visited since the last call.
    pub fn finish_round(&mut self) {
        self.looking = self.found;
        self.found = false;
        if !self.looking {
            self.watched.clear();
        }
    }

    /// Looks after the flow in `slot`, which is in `state` (active or closing);
    /// true when the flow is to be removed at once. `now` is of the coarse
    /// monotonic clock, nanoseconds.
    pub fn visit(
        &mut self,
        index: u32,
        slot: &Slot,
        state: u32,
        now: u64,
        notices: &mut Notices,
    ) -> bool {
        let Some(present) = &self.present else {
            return false;
        };
        // Answers to a wrapped packet do not come this way.
        if slot.kind() == KIND_DSR || present.has(slot) {
            return false;
        }
        let generation = slot.generation();
        if state == SLOT_CLOSING {
            self.closing(index, slot, generation, now, notices);
            return false;
        }
        self.found = true;
        let interval = self.interval.as_nanos() as u64;
        let watch = self
            .watched
            .entry(index)
            .and_modify(|watch| {
                if watch.generation != generation {
                    *watch = Watch::new(generation, now, interval);
                }
            })
            .or_insert_with(|| Watch::new(generation, now, interval));
        if !notices.has_room() && now >= watch.due_ns {
            // Its turn comes with the next sweep.
            return false;
        }
        let (progress, ..) = slot.timing();
        let heard = slot.last_seen_ns(DIR_TO_CLIENT as usize);
        let step = watch.step(progress, heard, now, interval);
        let is_second = watch.asked.is_multiple_of(2);
        match step {
            Step::Wait => {}
            Step::Ask => {
                notices.send(segments::probe(&slot.copy(), DIR_TO_BACKEND, is_second).as_slice());
            }
            Step::Reset => self.reset(index, slot, now, notices),
            Step::Release => {
                if slot.change_state(SLOT_ACTIVE, SLOT_DEAD) {
                    self.counts.released += 1;
                    self.watched.remove(&index);
                    return true;
                }
            }
        }
        false
    }

    /// A flow that has ended: by our reset, by the answer to our question, or by
    /// itself.
    fn closing(
        &mut self,
        index: u32,
        slot: &Slot,
        generation: u32,
        now: u64,
        notices: &mut Notices,
    ) {
        let Some(watch) = self.watched.get_mut(&index) else {
            return;
        };
        if watch.generation != generation {
            self.watched.remove(&index);
            return;
        }
        if watch.told == 0 {
            // Its host is there, the connection is not: it has said so itself.
            let (progress, ..) = slot.timing();
            if progress == tcp_state::TCP_RESET && watch.asked > 0 {
                self.counts.reset += 1;
            }
            self.watched.remove(&index);
            return;
        }
        self.found = true;
        // A side that goes on has not taken it: what it sends says what it
        // expects (RFC 5961 section 3.2), or was on its way.
        let heard = slot.last_seen_ns(0).max(slot.last_seen_ns(1));
        if heard > watch.since_ns {
            watch.since_ns = now;
            watch.told += 1;
            if watch.told <= RESETS {
                notices.send(&segments::resets(&slot.copy()));
            }
        }
        if self
            .watched
            .get(&index)
            .is_some_and(|watch| watch.told > RESETS || now >= watch.due_ns)
        {
            self.watched.remove(&index);
        }
    }

    fn reset(&mut self, index: u32, slot: &Slot, now: u64, notices: &mut Notices) {
        if !notices.reset(slot) {
            return;
        }
        self.counts.reset += 1;
        let interval = self.interval.as_nanos() as u64;
        if let Some(watch) = self.watched.get_mut(&index) {
            watch.told = 1;
            watch.since_ns = now;
            watch.due_ns = now + u64::from(REST) * interval;
        }
    }

    /// For reports.
    pub fn counts(&self) -> GoneCounts {
        GoneCounts {
            // Those that were told are over, and only looked after.
            watched: self.watched.values().filter(|w| w.told == 0).count() as u32,
            ..self.counts
        }
    }
}

#[cfg(test)]
mod tests {
    use gateway_common::{
        tcp_state::{TCP_ESTABLISHED, TCP_FIN_WAIT, TCP_SYN_SENT},
        udp_state::{UDP_ONE_WAY, UDP_TWO_WAY},
    };

    use super::{Step, Watch};

    const INTERVAL: u64 = 5;

    /// Steps once a second until the flow is over or 200 seconds have passed;
    /// the backend is heard at the times given. The second of each question,
    /// and how it ended when.
    fn follow(progress: u32, heard: &[u64]) -> (Vec<u64>, Option<(Step, u64)>) {
        let start = 100;
        let mut watch = Watch::new(1, start, INTERVAL);
        let mut asked = Vec::new();
        for second in 0..200 {
            let now = start + second;
            let last = heard.iter().copied().filter(|at| *at < second).max();
            let last = last.map_or(start - 1, |at| start + at);
            match watch.step(progress, last, now, INTERVAL) {
                Step::Wait => {}
                Step::Ask => asked.push(second),
                end => return (asked, Some((end, second))),
            }
        }
        (asked, None)
    }

    #[test]
    fn a_silent_connection_is_asked_three_times_and_reset() {
        for progress in [TCP_ESTABLISHED, TCP_FIN_WAIT] {
            assert_eq!(
                follow(progress, &[]),
                (vec![5, 10, 15], Some((Step::Reset, 20)))
            );
        }
    }

    #[test]
    fn any_sign_of_life_starts_it_over() {
        // In the very step of the clock that the question was sent in, and
        // after the last one: then it is left alone.
        for (heard, questions) in [(5, 1), (17, 3)] {
            let (asked, end) = follow(TCP_ESTABLISHED, &[heard]);
            assert_eq!(asked[questions], heard + 61, "{asked:?}");
            assert_eq!(end, Some((Step::Reset, heard + 76)));
        }
        // By itself, and each time it is asked.
        let talking: Vec<u64> = (0..200).step_by(3).collect();
        assert_eq!(follow(TCP_ESTABLISHED, &talking), (vec![], None));
        let answering: Vec<u64> = (0..200).filter(|at| at % 65 == 5).collect();
        let (asked, end) = follow(TCP_ESTABLISHED, &answering);
        assert!(asked.len() <= 4 && end.is_none(), "{asked:?} {end:?}");
    }

    #[test]
    fn what_was_never_answered_is_let_go_at_once_and_udp_soon() {
        assert_eq!(
            follow(TCP_SYN_SENT, &[]),
            (vec![], Some((Step::Release, 5)))
        );
        for progress in [UDP_ONE_WAY, UDP_TWO_WAY] {
            assert_eq!(follow(progress, &[]), (vec![], Some((Step::Release, 15))));
        }
        assert_eq!(
            follow(UDP_TWO_WAY, &[4, 8]),
            (vec![], Some((Step::Release, 24)))
        );
    }
}
