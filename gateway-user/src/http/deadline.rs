// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A deadline that moves often and fires rarely.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// Moving it later costs nothing: the timer is looked at again only when it
/// fires, not with every message.
#[derive(Debug, Default)]
pub struct Deadline {
    due: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// Due `after` from now, in place of what was set before.
    pub fn set(&mut self, after: Duration) {
        let due = Instant::now() + after;
        self.due = Some(due);
        if let Some(timer) = &mut self.timer
            && timer.deadline() > due
        {
            timer.as_mut().reset(due);
        }
    }

    /// Never due.
    pub fn clear(&mut self) {
        self.due = None;
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.due.is_some()
    }

    /// Ready when it is due.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(due) = self.due else {
                return Poll::Pending;
            };
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if timer.is_elapsed() && timer.deadline() < due {
                timer.as_mut().reset(due);
            }
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= due {
                self.due = None;
                return Poll::Ready(());
            }
        }
    }
}
