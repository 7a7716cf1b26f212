// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Drain: holding a [`DrainGuard`] means "I am still working"; the trigger says
//! "finish", waits until every guard is gone, and gives up at its deadline.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

/// Starts the drain and waits for it.
#[derive(Debug)]
pub struct DrainTrigger {
    draining: watch::Sender<bool>,
    guards: Arc<()>,
}

/// Learns of the drain and takes guards.
#[derive(Clone, Debug)]
pub struct DrainWatcher {
    draining: watch::Receiver<bool>,
    guards: Arc<()>,
}

/// Held by everything that must finish first.
#[derive(Clone, Debug)]
pub struct DrainGuard(#[expect(dead_code, reason = "counted by reference")] Arc<()>);

/// A trigger and its first watcher.
pub fn channel() -> (DrainTrigger, DrainWatcher) {
    let (sender, receiver) = watch::channel(false);
    let busy = Arc::new(());
    let trigger = DrainTrigger {
        draining: sender,
        guards: Arc::clone(&busy),
    };
    (
        trigger,
        DrainWatcher {
            draining: receiver,
            guards: busy,
        },
    )
}

impl DrainTrigger {
    /// Tells every watcher to finish.
    pub fn start(&self) {
        self.draining.send_replace(true);
    }

    /// Work still held. `watchers` is how many [`DrainWatcher`]s exist; they do
    /// not count as work.
    pub fn busy(&self) -> usize {
        // The trigger holds one reference, every watcher holds one.
        Arc::strong_count(&self.guards).saturating_sub(1 + self.draining.receiver_count())
    }

    /// Waits until nothing is held; false when `deadline` came first.
    pub async fn wait(&self, deadline: Duration) -> bool {
        let idle = async {
            while self.busy() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(deadline, idle).await.is_ok()
    }
}

impl DrainWatcher {
    /// Marks work that the drain waits for.
    pub fn guard(&self) -> DrainGuard {
        DrainGuard(Arc::clone(&self.guards))
    }

    /// Whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Resolves when the drain begins.
    pub async fn started(&mut self) {
        // An error means the trigger is gone: the process ends, which is a drain.
        let _ = self.draining.wait_for(|draining| *draining).await;
    }
}
