// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sessions of MQTT over TLS in this process, each of which publishes and hears
//! itself. None connects twice: whatever is not as it should be ends the test.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::BytesMut;
use gateway_tests::{client::raw, lab::Lab};
use mqttbytes::{
    Error, QoS,
    v4::{self, Connect, ConnectReturnCode, Packet, PubAck, Publish, Subscribe},
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use crate::scene::vip;

/// Port of the VIP.
pub const PORT: u16 = 8883;
/// Nothing takes longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Sessions that are opened at once.
const OPENERS: usize = 64;
/// Time between two messages of a session.
const PAUSE: Duration = Duration::from_secs(4);
/// Longer than any packet here.
const LONGEST: usize = 8_192;

/// One session.
pub struct Session {
    tls: StreamOwned<ClientConnection, TcpStream>,
    received: BytesMut,
    topic: String,
}

/// Opens `count` of them with the server name `name`.
///
/// # Errors
///
/// The first of a session that cannot be opened.
pub fn open(lab: &Lab, name: &str, authority: &Path, count: usize) -> Result<Vec<Session>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&fs::read(authority)?)?)?;
    let config = Arc::new(
        ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth(),
    );
    let name = ServerName::try_from(name.to_owned())?;
    let next = AtomicUsize::new(0);
    let opened = Mutex::new(Vec::with_capacity(count));
    thread::scope(|scope| {
        let openers: Vec<_> = (0..OPENERS)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return Ok(());
                        }
                        let tls = ClientConnection::new(config.clone(), name.clone())?;
                        let session = Session::open(lab, tls, number)
                            .with_context(|| format!("session {number}"))?;
                        opened.lock().expect("no opener panics").push(session);
                    }
                })
            })
            .collect();
        openers
            .into_iter()
            .try_for_each(|opener| opener.join().expect("no opener panics"))
    })?;
    Ok(opened.into_inner().expect("no opener panics"))
}

/// Publishes on every session, again and again, until `stop`; how often in all.
///
/// # Errors
///
/// The first of any session.
pub fn publish(sessions: Vec<Session>, stop: &AtomicBool, rounds: &AtomicU64) -> Result<u64> {
    thread::scope(|scope| {
        let threads: Vec<_> = sessions
            .into_iter()
            .enumerate()
            .map(|(number, session)| {
                // All over the pause, not at once.
                let first = PAUSE / 1_000 * (number % 1_000) as u32;
                thread::Builder::new()
                    .stack_size(512 * 1024)
                    .spawn_scoped(scope, move || session.run(first, stop, rounds))
                    .context("start a thread")
            })
            .collect::<Result<_>>()?;
        while !stop.load(Ordering::Relaxed) {
            thread::park_timeout(Duration::from_millis(100));
        }
        for thread in &threads {
            thread.thread().unpark();
        }
        let mut sum = 0;
        for thread in threads {
            sum += thread.join().expect("no session panics")?;
        }
        Ok(sum)
    })
}

impl Session {
    fn open(lab: &Lab, tls: ClientConnection, number: usize) -> Result<Self> {
        let socket = raw::connect(&lab.client, vip(lab, PORT))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let topic = format!("session/{number}");
        let mut session = Self {
            tls: StreamOwned::new(tls, socket),
            received: BytesMut::new(),
            topic: topic.clone(),
        };
        let mut connect = Connect::new(format!("session-{number}"));
        connect.keep_alive = 60;
        session.send(|buffer| connect.write(buffer))?;
        match session.receive().context("connect")? {
            Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => {}
            other => bail!("connect: {other:?}"),
        }
        let mut subscribe = Subscribe::new(&topic, QoS::AtLeastOnce);
        subscribe.pkid = 1;
        session.send(|buffer| subscribe.write(buffer))?;
        match session.receive().context("subscribe")? {
            Packet::SubAck(ack) if ack.pkid == 1 => {}
            other => bail!("subscribe: {other:?}"),
        }
        Ok(session)
    }

    /// How many messages went through.
    fn run(mut self, first: Duration, stop: &AtomicBool, rounds: &AtomicU64) -> Result<u64> {
        let mut sent = 0;
        thread::park_timeout(first);
        while !stop.load(Ordering::Relaxed) {
            self.round(sent)
                .with_context(|| format!("message {sent} of {}", self.topic))?;
            rounds.fetch_add(1, Ordering::Relaxed);
            sent += 1;
            thread::park_timeout(PAUSE);
        }
        // Once more at the end, so that every session is known to live.
        self.round(sent)
            .with_context(|| format!("the last message of {}", self.topic))?;
        Ok(sent + 1)
    }

    /// One message, its acknowledgement, and the message as it comes back.
    fn round(&mut self, number: u64) -> Result<()> {
        let filler = "0123456789abcdef".repeat((number as usize * 37) % 150);
        let payload = format!("{} {number} {filler}", self.topic);
        let mut publish = Publish::new(&self.topic, QoS::AtLeastOnce, payload.as_bytes());
        publish.pkid = 1 + (number % 1_000) as u16;
        let pkid = publish.pkid;
        self.send(|buffer| publish.write(buffer))?;
        let (mut acknowledged, mut heard) = (false, false);
        while !acknowledged || !heard {
            match self.receive()? {
                Packet::PubAck(ack) if ack.pkid == pkid && !acknowledged => acknowledged = true,
                Packet::Publish(back) if !heard => {
                    ensure!(
                        back.topic == self.topic && back.payload == payload && !back.dup,
                        "heard {back:?}"
                    );
                    heard = true;
                    self.send(|buffer| PubAck::new(back.pkid).write(buffer))?;
                }
                other => bail!("unexpected: {other:?}"),
            }
        }
        Ok(())
    }

    fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> std::result::Result<usize, Error>,
    ) -> Result<()> {
        let mut buffer = BytesMut::new();
        write(&mut buffer).map_err(|error| anyhow!("{error:?}"))?;
        self.tls.write_all(&buffer).context("send")?;
        self.tls.flush().context("send")
    }

    fn receive(&mut self) -> Result<Packet> {
        loop {
            match v4::read(&mut self.received, LONGEST) {
                Ok(packet) => return Ok(packet),
                Err(Error::InsufficientBytes(_)) => {}
                Err(error) => bail!("no MQTT: {error:?}"),
            }
            let mut buffer = [0; 4_096];
            let size = self.tls.read(&mut buffer).context("receive")?;
            ensure!(size > 0, "the broker has closed");
            self.received.extend_from_slice(&buffer[..size]);
        }
    }
}
