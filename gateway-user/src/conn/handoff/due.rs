// SPDX-License-Identifier: Apache-2.0 OR MIT
//! When a connection is worth handing off.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::time::{Sleep, sleep};

use crate::{drain::DrainWatcher, model::handoff::HandoffAfter};

/// The thresholds of one connection, and how far it has come.
pub(super) struct Due {
    after: HandoffAfter,
    accepted: Instant,
    turns: Turns,
    /// Until the age is reached.
    age: Option<Pin<Box<Sleep>>>,
    /// Until the agent drains.
    drain: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl fmt::Debug for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Due")
            .field("after", &self.after)
            .field("turns", &self.turns)
            .finish_non_exhaustive()
    }
}

impl Due {
    /// Of a connection accepted then.
    pub(super) fn new(after: HandoffAfter, accepted: Instant, drain: &DrainWatcher) -> Self {
        let mut drain = drain.clone();
        Self {
            after,
            accepted,
            turns: Turns::default(),
            age: None,
            drain: Some(Box::pin(async move { drain.started().await })),
        }
    }

    /// Whether the agent drains: what it still has ends with it. Asked again once
    /// that begins.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(drain) = &mut self.drain
            && drain.as_mut().poll(cx).is_ready()
        {
            self.drain = None;
        }
        self.drain.is_none()
    }

    /// Whether one that has `moved` so many bytes from the client and to it has
    /// come far enough. Asked again when it is old enough.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, moved: [u64; 2]) -> bool {
        self.turns.see(moved);
        let age = match self.after.age {
            Some(_) => self.accepted.elapsed(),
            None => Duration::ZERO,
        };
        let bytes = moved[0].saturating_add(moved[1]);
        if self.after.is_reached(bytes, age, self.turns.round_trips) {
            return true;
        }
        let Some(least) = self.after.age else {
            return false;
        };
        let timer = self
            .age
            .get_or_insert_with(|| Box::pin(sleep(least.saturating_sub(age))));
        matches!(timer.as_mut().poll(cx), Poll::Ready(()))
    }
}

/// Who has spoken.
#[derive(Debug, Default)]
struct Turns {
    moved: [u64; 2],
    /// The client has, and was not answered yet.
    asked: bool,
    round_trips: u32,
}

impl Turns {
    fn see(&mut self, moved: [u64; 2]) {
        let [asks, answers] = [0, 1].map(|way| moved[way] > self.moved[way]);
        self.moved = moved;
        self.asked |= asks;
        if answers && self.asked {
            self.round_trips = self.round_trips.saturating_add(1);
            self.asked = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        task::{Context, Waker},
        time::{Duration, Instant},
    };

    use super::{Due, Turns};
    use crate::{drain, model::handoff::HandoffAfter};

    #[test]
    fn a_round_trip_is_a_question_and_its_answer() {
        let mut turns = Turns::default();
        for (moved, round_trips) in [
            // The backend speaks first: nobody has asked.
            ([0, 10], 0),
            ([5, 10], 0),
            ([9, 10], 0),
            ([9, 20], 1),
            // More of the same answer.
            ([9, 30], 1),
            // Both since it was looked at last.
            ([10, 31], 2),
            ([10, 31], 2),
            ([10, 32], 2),
        ] {
            turns.see(moved);
            assert_eq!(turns.round_trips, round_trips, "{moved:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_age_comes_by_itself_and_so_does_a_drain() {
        let (trigger, watcher) = drain::channel();
        let mut cx = Context::from_waker(Waker::noop());
        let after = HandoffAfter {
            age: Some(Duration::from_secs(5)),
            ..HandoffAfter::default()
        };
        let mut due = Due::new(after, Instant::now(), &watcher);
        assert!(!due.poll(&mut cx, [0, 0]));
        assert!(!due.poll_drain(&mut cx));
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert!(due.poll(&mut cx, [0, 0]));
        let mut never = Due::new(HandoffAfter::default(), Instant::now(), &watcher);
        assert!(!never.poll(&mut cx, [1 << 40, 0]));
        trigger.start();
        assert!(never.poll_drain(&mut cx) && never.poll_drain(&mut cx));
    }
}
