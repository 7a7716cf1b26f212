// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether the ends of handed-off connections are still there.
//!
//! While the agent had its sockets, the kernel asked a silent end for a sign of
//! life. Now the sweeper does, by the clock of the flow, in the name of the
//! other end, and as often; an answer goes through to that one, which has no use
//! for it. A connection whose one end says nothing any more is reset on both
//! sides. One that has an idle timeout ends by that instead: an answer would
//! count as life of the connection.

use std::{collections::HashMap, time::Duration};

use gateway_common::{flow::KIND_HANDOFF, tcp_state};

use crate::datapath::{config::KEEPALIVE_PROBES, notices::Notices, segments, slots::Slot};

/// The ends that were asked and have not answered.
#[derive(Debug)]
pub struct Alive {
    interval_ns: u64,
    /// By slot and direction of what is sent to the end.
    asked: HashMap<(u32, u32), Asked>,
    reset: u64,
}

/// An end that was asked.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// Of the slot: another flow may take it.
    generation: u32,
    /// Coarse monotonic clock, as the programs', ns.
    last_ns: u64,
    /// Since it was heard.
    questions: u32,
    /// Seen in the round under way.
    is_current: bool,
}

impl Alive {
    /// Asks ends that are silent for `interval`, and as often again.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval_ns: interval.as_nanos() as u64,
            asked: HashMap::new(),
            reset: 0,
        }
    }

    /// Connections reset because one end was silent, since start.
    pub fn reset(&self) -> u64 {
        self.reset
    }

    /// Looks after the active flow in `slot`. `now` is of the coarse monotonic
    /// clock, nanoseconds.
    pub fn visit(&mut self, index: u32, slot: &Slot, now: u64, notices: &mut Notices) {
        let (progress, idle_timeout_s, _) = slot.timing();
        let is_open = [tcp_state::TCP_ESTABLISHED, tcp_state::TCP_FIN_WAIT].contains(&progress);
        if slot.kind() != KIND_HANDOFF || idle_timeout_s != 0 || !is_open {
            return;
        }
        for direction in [0, 1] {
            // What the end that it leads to sent last is of the other one.
            let heard = slot.last_seen_ns(direction as usize ^ 1);
            let is_silent = now.saturating_sub(heard) > self.interval_ns;
            if !is_silent {
                // As a rule there is nobody, and this costs nothing.
                if !self.asked.is_empty() {
                    self.asked.remove(&(index, direction));
                }
                continue;
            }
            if !notices.has_room() {
                // Its turn comes with the next round.
                continue;
            }
            let generation = slot.generation();
            match self.step((index, direction), generation, heard, now) {
                Step::Wait => {}
                Step::Ask { with_timestamps } => {
                    let flow = slot.copy();
                    notices.send(segments::probe(&flow, direction, with_timestamps).as_slice());
                }
                Step::Reset => {
                    if notices.reset(slot) {
                        self.reset += 1;
                    }
                    self.asked.remove(&(index, direction));
                    return;
                }
            }
        }
    }

    /// What to do about an end that is silent since `heard`.
    fn step(&mut self, end: (u32, u32), generation: u32, heard: u64, now: u64) -> Step {
        let fresh = Asked {
            generation,
            last_ns: now,
            questions: 0,
            is_current: true,
        };
        let asked = self.asked.entry(end).or_insert(fresh);
        // The clock goes in steps: an answer may have the time of its question.
        if asked.generation != generation || asked.questions > 0 && heard >= asked.last_ns {
            *asked = fresh;
        }
        asked.is_current = true;
        if asked.questions > 0 && now.saturating_sub(asked.last_ns) < self.interval_ns {
            return Step::Wait;
        }
        asked.last_ns = now;
        asked.questions += 1;
        if asked.questions > KEEPALIVE_PROBES {
            return Step::Reset;
        }
        Step::Ask {
            with_timestamps: asked.questions.is_multiple_of(2),
        }
    }

    /// Every slot has been visited since the last call.
    pub fn finish_round(&mut self) {
        self.asked
            .retain(|_, asked| std::mem::take(&mut asked.is_current));
    }
}

/// What an end needs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Wait,
    Ask { with_timestamps: bool },
    Reset,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Alive, Step};

    const INTERVAL: u64 = 60;

    /// Rounds once a second for an end that was heard at the times given; the
    /// seconds of the questions, and that of the reset.
    fn follow(heard: &[u64]) -> (Vec<u64>, Option<u64>) {
        let mut alive = Alive::new(Duration::from_nanos(INTERVAL));
        let mut asked = Vec::new();
        for now in 0..2_000 {
            let last = heard.iter().copied().filter(|at| *at < now).max();
            let last = last.unwrap_or(0);
            if now - last > INTERVAL {
                match alive.step((7, 1), 3, last, now) {
                    Step::Wait => {}
                    Step::Ask { .. } => asked.push(now),
                    Step::Reset => return (asked, Some(now)),
                }
            }
            alive.finish_round();
        }
        (asked, None)
    }

    #[test]
    fn a_silent_end_is_asked_five_times() {
        assert_eq!(follow(&[]), (vec![61, 121, 181, 241, 301], Some(361)));
        // An answer in the very step of the clock of its question.
        let (asked, reset) = follow(&[61]);
        assert_eq!(asked, [61, 122, 182, 242, 302, 362]);
        assert_eq!(reset, Some(422));
    }

    #[test]
    fn an_end_that_answers_is_asked_for_ever() {
        let answers: Vec<u64> = (0..40).map(|n| 62 * n + 61).collect();
        let (asked, reset) = follow(&answers);
        assert!(asked.len() > 20 && reset.is_none(), "{asked:?} {reset:?}");
    }

    #[test]
    fn another_flow_in_the_slot_starts_anew() {
        let mut alive = Alive::new(Duration::from_nanos(INTERVAL));
        let ask = |with_timestamps| Step::Ask { with_timestamps };
        assert_eq!(alive.step((7, 0), 3, 0, 100), ask(false));
        assert_eq!(alive.step((7, 0), 3, 0, 160), ask(true));
        assert_eq!(alive.step((7, 0), 4, 0, 161), ask(false));
        alive.finish_round();
        assert_eq!(alive.asked.len(), 1);
        alive.finish_round();
        assert!(alive.asked.is_empty(), "the flow is gone");
    }
}
