// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The schedule: request `k` is due `k / rate` seconds after the start, on
//! connection `k` modulo their number. One whose connection still waits for an
//! answer is sent later, but its latency counts from when it was due.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    num::NonZeroU64,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::{
    event::{Timespec, epoll},
    io::Errno,
    thread::set_current_timer_slack,
};

use crate::connection::{Connection, Opener, Progress};

/// What to send.
pub struct Load {
    /// Where the connections go.
    pub address: SocketAddr,
    /// Host header and server name.
    pub host: String,
    /// Path of every request.
    pub path: String,
    /// Requests a second.
    pub rate: f64,
    /// How long requests are sent.
    pub length: Duration,
    /// How many connections take turns.
    pub connections: usize,
    /// Authority to trust, with TLS.
    pub authority: Option<PathBuf>,
}

/// What came of it.
pub struct Outcome {
    /// Answers with a good status.
    pub answered: u64,
    /// Other answers, broken connections with a request on them, and requests
    /// that were due but never answered.
    pub errors: u64,
    /// From the start to the last answer, at least as long as requests were
    /// sent.
    pub took: Duration,
    /// Of all requests, from when each was due to its answer, ascending. One
    /// that was never answered has the time that was waited for it.
    latencies: Vec<Duration>,
}

impl Outcome {
    /// The latency that this share of the requests did not exceed; zero when
    /// there was none.
    pub fn percentile(&self, share: f64) -> Duration {
        let rank = (share * self.latencies.len() as f64).ceil() as usize;
        let index = rank.saturating_sub(1);
        self.latencies.get(index).copied().unwrap_or_default()
    }
}

impl Load {
    /// Opens the connections, then sends and waits for the answers.
    ///
    /// # Errors
    ///
    /// When a connection cannot be opened, at first or after it broke.
    pub fn run(&self) -> Result<Outcome> {
        ensure!(self.rate > 0.0, "the rate must be above 0");
        ensure!(self.connections > 0, "at least one connection is needed");
        // Sleeping is otherwise up to 50 us late, which would count.
        set_current_timer_slack(NonZeroU64::new(1)).context("set the timer slack")?;
        let opener = Opener::new(self.address, &self.host, self.authority.as_deref())?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut lanes = (0..self.connections)
            .map(|index| Lane::open(&opener, &epoll, index))
            .collect::<Result<Vec<_>>>()?;
        let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", self.path, self.host);
        let total = (self.rate * self.length.as_secs_f64()).ceil() as u64;
        let due = |number: u64| Duration::from_secs_f64(number as f64 / self.rate);
        let end = self.length + GRACE;
        let mut run = Run {
            begin: Instant::now(),
            request: request.into_bytes(),
            opener,
            epoll,
            outcome: Outcome {
                answered: 0,
                errors: 0,
                took: self.length,
                latencies: Vec::with_capacity(usize::try_from(total)?),
            },
        };
        let mut issued = 0;
        let mut events = Vec::with_capacity(self.connections);
        while (run.outcome.latencies.len() as u64) < total {
            let now = run.begin.elapsed();
            if now >= end {
                break;
            }
            while issued < total && due(issued) <= now {
                let index = (issued % self.connections as u64) as usize;
                lanes[index].due.push_back(due(issued));
                issued += 1;
                run.advance(&mut lanes[index], index)?;
            }
            let next = if issued < total { due(issued) } else { end };
            run.wait(next, &mut events)?;
            for event in events.drain(..) {
                let index = event.data.u64() as usize;
                run.read(&mut lanes[index], index)?;
            }
        }
        let Run {
            begin, mut outcome, ..
        } = run;
        let now = begin.elapsed();
        let waiting = lanes.into_iter().flat_map(|lane| {
            let Lane { sent, due, .. } = lane;
            sent.into_iter().chain(due)
        });
        let unanswered: Vec<Duration> = waiting.chain((issued..total).map(due)).collect();
        outcome.errors += unanswered.len() as u64;
        let waited = unanswered.iter().map(|due| now.saturating_sub(*due));
        outcome.latencies.extend(waited);
        outcome.latencies.sort_unstable();
        Ok(outcome)
    }
}

/// A connection and the requests that are its turn.
struct Lane {
    connection: Connection,
    /// When the request that waits for its answer was due.
    sent: Option<Duration>,
    /// When the requests that wait for it were.
    due: VecDeque<Duration>,
}

impl Lane {
    fn open(opener: &Opener, epoll: &impl std::os::fd::AsFd, index: usize) -> Result<Self> {
        let connection = opener.open()?;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(epoll, &connection, data, epoll::EventFlags::IN)?;
        Ok(Self {
            connection,
            sent: None,
            due: VecDeque::new(),
        })
    }
}

struct Run {
    begin: Instant,
    request: Vec<u8>,
    opener: Opener,
    epoll: std::os::fd::OwnedFd,
    outcome: Outcome,
}

impl Run {
    /// Waits for an answer, until `next` at most.
    fn wait(&self, next: Duration, events: &mut Vec<epoll::Event>) -> Result<()> {
        let timeout = next.saturating_sub(self.begin.elapsed());
        let timeout = Timespec::try_from(timeout).context("time to the next request")?;
        let buffer = rustix::buffer::spare_capacity(events);
        match epoll::wait(&self.epoll, buffer, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("wait for answers"),
        }
    }

    /// Sends the next request that is due, unless one is under way.
    fn advance(&mut self, lane: &mut Lane, index: usize) -> Result<()> {
        while lane.sent.is_none() {
            let Some(due) = lane.due.pop_front() else {
                break;
            };
            lane.sent = Some(due);
            if lane.connection.send(&self.request).is_err() {
                self.reopen(lane, index)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, lane: &mut Lane, index: usize) -> Result<()> {
        match lane.connection.receive()? {
            Progress::Pending => return Ok(()),
            Progress::Closed => self.reopen(lane, index)?,
            Progress::Answered { good } => self.finish(lane, good),
        }
        self.advance(lane, index)
    }

    /// Takes down what came of the request under way.
    fn finish(&mut self, lane: &mut Lane, good: bool) {
        let Some(due) = lane.sent.take() else { return };
        let now = self.begin.elapsed();
        self.outcome.latencies.push(now.saturating_sub(due));
        if good {
            self.outcome.answered += 1;
            self.outcome.took = self.outcome.took.max(now);
        } else {
            self.outcome.errors += 1;
        }
    }

    /// Replaces a broken connection. A request on it has failed.
    fn reopen(&mut self, lane: &mut Lane, index: usize) -> Result<()> {
        self.finish(lane, false);
        let due = std::mem::take(&mut lane.due);
        let fresh = Lane::open(&self.opener, &self.epoll, index)?;
        *lane = Lane { due, ..fresh };
        Ok(())
    }
}

/// How long answers are waited for after the last request was due.
const GRACE: Duration = Duration::from_secs(3);
