// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A Kafka producer and a consumer over TLS, both at work all along.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::ChildStdin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use gateway_tests::{
    backend::{kafka as broker, tls_end::TlsEnd},
    client::kafka as client,
    lab::Lab,
    pki::Authority,
    process::Process,
    wait,
};

use crate::scene::backend;

/// The broker's name, and its port at the VIP and at the backend.
pub const NAME: &str = "kafka.example.com";
/// Port of the VIP and of the backend's TLS.
pub const PORT: u16 = 9093;
/// The backend it runs at.
pub const BACKEND: usize = 1;
const PATIENCE: Duration = Duration::from_secs(30);
/// Messages sent before anything else happens.
const FIRST: u64 = 8;
const PAUSE: Duration = Duration::from_millis(50);

/// The broker.
pub struct Broker {
    _process: Process,
    tls: TlsEnd,
    packages: PathBuf,
}

/// Its clients.
pub struct Clients {
    producer: Process,
    consumer: Process,
    /// Of the producer.
    pub input: Option<ChildStdin>,
}

impl Broker {
    /// Starts it.
    pub fn start(lab: &Lab, authority: &Authority) -> Result<Self> {
        let packages = broker::packages_dir()?;
        let process = broker::start(lab, BACKEND, &format!("{NAME}:{PORT}"), &packages)?;
        let leaf = authority.issue(&[NAME])?;
        let plain = backend(lab, BACKEND, broker::PORT);
        let tls = broker::serve_tls(
            lab,
            &lab.backends[BACKEND],
            backend(lab, BACKEND, PORT),
            plain,
            &leaf,
        )?;
        Ok(Self {
            _process: process,
            tls,
            packages,
        })
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.tls.accepted()
    }

    /// Starts both clients and waits for the first message.
    pub fn clients(&self, lab: &Lab, authority: &Authority) -> Result<Clients> {
        let at = format!("{NAME}:{PORT}");
        let authority = authority.certificate();
        let (producer, mut input) = client::producer(lab, &self.packages, &at, &authority)?;
        let mut consumer = client::consumer(lab, &self.packages, &at, &authority)?;
        let first: String = (0..FIRST).map(message).collect();
        input.write_all(first.as_bytes())?;
        consumer.ready("the first message", PATIENCE, |consumer| {
            consumer.log().contains(&message(0))
        })?;
        Ok(Clients {
            producer,
            consumer,
            input: Some(input),
        })
    }
}

/// Produces until `stop`; how many messages in all.
pub fn produce(mut input: ChildStdin, stop: &AtomicBool, rounds: &AtomicU64) -> Result<u64> {
    let mut number = FIRST;
    while !stop.load(Ordering::Relaxed) {
        input
            .write_all(message(number).as_bytes())
            .context("the producer has ended")?;
        number += 1;
        rounds.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    Ok(number)
}

impl Clients {
    /// After the producer's input has ended: that all `count` messages were
    /// delivered and consumed, each once and in order, and nothing else was said.
    pub fn finish(mut self, lab: &Lab, count: u64) -> Result<()> {
        let status = self.producer.wait(PATIENCE)?;
        ensure!(status.success(), "{status}: {}", self.producer.log_tail(5));
        let said = self.producer.log();
        ensure!(said.is_empty(), "the producer says {said}");
        let expected: String = (0..count).map(message).collect();
        wait::until_true("every message", PATIENCE, || {
            self.consumer.log().len() >= expected.len()
        })?;
        let (sent, consumed) = (lab.dir().join("produced"), lab.dir().join("consumed"));
        fs::write(&sent, expected)?;
        fs::write(&consumed, self.consumer.log())?;
        let sums = (client::checksum(&sent)?, client::checksum(&consumed)?);
        ensure!(
            sums.0 == sums.1,
            "other messages: the end of them is {}",
            self.consumer.log_tail(3)
        );
        Ok(())
    }
}

/// A line of some kilobytes: kcat reads its input by the kilobyte.
fn message(number: u64) -> String {
    let filler = "kafka".repeat(200 + (number as usize * 53) % 400);
    format!("{number} {filler}\n")
}
