// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is known of handed-off connections when the agent that handed them off
//! is gone: their names, their start, their bytes, and one record of each end.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use gateway_tests::{
    backend::echo::Echo,
    client::raw::{client_hello, connect, records},
    gateway::{Datapath, Gateway},
    lab::Lab,
    wait,
};
use serde_json::Value;
use socket2::SockRef;

use crate::scene::{self, backend, passthrough, serve_with, vip};

const DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of a question, and of its answer.
const ROUND: usize = 8 * 1024;

/// A connection whose far end sends back what it gets.
pub struct Client {
    stream: TcpStream,
    /// Its end.
    pub address: SocketAddr,
    before: Instant,
    /// Bytes so far, each way.
    pub payload: u64,
}

impl Client {
    /// Says hello for `name`, and reads it back: the connection is relayed then.
    pub fn open(lab: &Lab, name: &str) -> Self {
        Self::open_at(lab, 443, name)
    }

    /// The same at another port.
    pub fn open_at(lab: &Lab, port: u16, name: &str) -> Self {
        let before = Instant::now();
        let stream = connect(&lab.client, vip(lab, port)).expect("connect");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let address = stream.local_addr().expect("its end");
        let mut client = Self {
            stream,
            address,
            before,
            payload: 0,
        };
        client.echo(&records(&client_hello(Some(name), 300), 16_384));
        client
    }

    fn echo(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("write");
        let mut got = vec![0; bytes.len()];
        self.stream.read_exact(&mut got).expect("read");
        assert_eq!(got, bytes);
        self.payload += bytes.len() as u64;
    }

    /// Sends so many questions and reads their answers.
    pub fn rounds(&mut self, count: usize) {
        for round in 0..count {
            let bytes: Vec<u8> = (0..ROUND).map(|at| (at * 31 + round) as u8).collect();
            self.echo(&bytes);
        }
    }

    /// Ends on both sides.
    pub fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("end");
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("its end");
        assert_eq!(rest, Vec::<u8>::new());
    }

    fn reset(self) {
        SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .expect("set");
    }
}

/// The access records of a client's connection: all agents of a lab have one log.
pub fn of(gateway: &mut Gateway<'_>, client: SocketAddr) -> Vec<String> {
    let log = gateway.process().expect("it runs").log();
    let peer = format!(" peer={client} ");
    let is_own = |line: &&str| line.contains("kind=\"connection\"") && line.contains(&peer);
    log.lines().filter(is_own).map(str::to_owned).collect()
}

/// The record of a client's connection, once there is one.
pub fn record(gateway: &mut Gateway<'_>, client: SocketAddr) -> String {
    wait::until("a record of the end", DEADLINE, || {
        Ok(of(gateway, client).pop())
    })
    .expect("recorded")
}

/// A number of a record.
pub fn number(record: &str, name: &str) -> f64 {
    let after = record
        .split_once(&format!(" {name}="))
        .unwrap_or_else(|| panic!("no {name} in {record}"))
        .1;
    let word = after.split(' ').next().expect("a word");
    word.parse()
        .unwrap_or_else(|_| panic!("{name} in {record}"))
}

/// What `sluice flows` lists with these options.
pub fn flows(gateway: &Gateway<'_>, options: &[&str]) -> Vec<Value> {
    let args = [&["flows", "--output", "json"], options].concat();
    let output = gateway.sluice(&args).expect("run");
    assert!(output.status.success(), "{output:?}");
    let list: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    list["flows"].as_array().expect("a list").clone()
}

/// Whether a count of bytes is that of `payload`, with the headers of some
/// packets.
pub fn is_about(bytes: f64, payload: u64) -> bool {
    let payload = payload as f64;
    payload <= bytes && bytes <= payload * 1.3 + 4_000.0
}

#[test]
fn names_start_and_bytes_of_a_connection_and_one_record_outlive_three_agents() {
    let Some(lab) = scene::lab() else { return };
    let _echo = Echo::start(&lab, 0, 7000, "").expect("echo");
    let yaml = passthrough("raw", 443, "*.example.com", &[backend(&lab, 0, 7000)]);
    let bootstrap = "handoff: {mode: auto, after_bytes: 4096}\n";
    let mut gateway = serve_with(&lab, Datapath::Ebpf, bootstrap, &[("raw.yaml", yaml)]);

    let mut clients: Vec<Client> = (0..4)
        .map(|number| Client::open(&lab, &format!("n{number}.example.com")))
        .collect();
    let accepted = Instant::now();
    // So that its start is not the time at which the kernel took it over.
    std::thread::sleep(Duration::from_secs(3));
    for client in &mut clients {
        client.rounds(2);
    }
    wait::until_true("all are handed off", DEADLINE, || {
        gateway.closed("passthrough", "handed_off").ok() == Some(4)
    })
    .expect("handed off");
    let metrics = gateway.metrics().expect("metrics");
    let holds = |labels: &[(&str, &str)]| metrics.sum("sluice_handoff_hold_seconds_bucket", labels);
    assert_eq!(metrics.sum("sluice_handoff_hold_seconds_count", &[]), 4.0);
    assert_eq!(holds(&[("le", "+Inf")]), 4.0);
    assert!(holds(&[("le", "0.01")]) <= 4.0);
    let text = gateway.sluice(&["status"]).expect("run");
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("half held for up to"), "{text}");
    // The first agent has seen this much; the kernel the rest.
    for client in &mut clients {
        client.rounds(4);
        assert_eq!(of(&mut gateway, client.address), Vec::<String>::new());
    }
    gateway.kill();

    // One ends while there is no agent.
    let mut first = clients.remove(0);
    first.rounds(1);
    first.finish();
    let ended = first.before.elapsed();
    std::thread::sleep(Duration::from_secs(1));
    gateway.start().expect("the second agent");
    let line = record(&mut gateway, first.address);
    for part in [
        "mode=\"passthrough\"",
        "sni=\"n0.example.com\"",
        "rule=\"",
        "raw.yaml:",
        "cluster=\"raw.internal:7000\"",
        &format!("upstream={}", backend(&lab, 0, 7000)),
        "reason=\"done\"",
        "path=\"handoff\"",
    ] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    for way in ["bytes_in", "bytes_out"] {
        assert!(
            is_about(number(&line, way), first.payload),
            "{} bytes each way: {line}",
            first.payload
        );
    }
    // Its end, not when somebody noticed.
    let took = number(&line, "duration_ms");
    assert!(
        (3_000.0..=ended.as_secs_f64() * 1e3 + 10.0).contains(&took),
        "{ended:?}: {line}"
    );

    // The others are found by their names, in the hands of the second agent.
    for (number, client) in (1..).zip(&clients) {
        let name = format!("n{number}.example.com");
        let lower = accepted.elapsed().as_secs();
        let found = flows(&gateway, &["--sni", &name, "--kind", "handoff"]);
        let upper = client.before.elapsed().as_secs();
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        let flow = &found[0];
        assert_eq!(flow["sni"], name.as_str());
        assert_eq!(flow["client"], client.address.to_string());
        assert_eq!(flow["cluster"], "raw.internal:7000");
        assert!(
            flow["rule"]
                .as_str()
                .is_some_and(|rule| rule.contains("raw.yaml:")),
            "{flow}"
        );
        let age = flow["age_s"].as_u64().expect("seconds");
        // The kernel's clock goes in steps.
        assert!(
            (lower.saturating_sub(1)..=upper).contains(&age),
            "{lower} to {upper}: {flow}"
        );
        for way in ["bytes_in", "bytes_out"] {
            let bytes = flow[way].as_f64().expect("bytes");
            assert!(
                is_about(bytes, client.payload),
                "{}: {flow}",
                client.payload
            );
        }
    }
    assert_eq!(
        flows(&gateway, &["--sni", "*.example.com", "--state", "active"]).len(),
        3
    );
    assert!(flows(&gateway, &["--sni", "example.com"]).is_empty());
    assert!(flows(&gateway, &["--kind", "dnat"]).is_empty());
    let text = gateway
        .sluice(&["flows", "--sni", "n2.example.com"])
        .expect("run");
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("n2.example.com") && text.contains("raw.yaml:"),
        "{text}"
    );

    let mut second = clients.remove(0);
    second.rounds(1);
    second.finish();
    assert!(record(&mut gateway, second.address).contains("reason=\"done\""));
    gateway.kill();

    gateway.start().expect("the third agent");
    let third = clients.remove(0);
    let (address, payload) = (third.address, third.payload);
    third.reset();
    let line = record(&mut gateway, address);
    assert!(line.contains("reason=\"client_reset\""), "{line}");
    assert!(line.contains("sni=\"n2.example.com\""), "{line}");

    wait::until("bytes by name", DEADLINE, || {
        let metrics = gateway.metrics()?;
        let ended = metrics.sum("sluice_handoff_ended_total", &[("reason", "client_reset")]);
        let open = metrics.sum("sluice_handoff_flows", &[]);
        let bytes = |direction| {
            let labels = [("sni", "n2.example.com"), ("direction", direction)];
            metrics.sum("sluice_handoff_bytes_total", &labels)
        };
        let found = (ended, open, bytes("in"), bytes("out"));
        anyhow::ensure!(
            (ended, open) == (1.0, 1.0) && is_about(found.2, payload) && is_about(found.3, payload),
            "{found:?}, {payload} bytes each way"
        );
        Ok(Some(()))
    })
    .expect("counted");
    // Ended ones have their names while they linger.
    let status = gateway.status().expect("status");
    let labels = &status["datapath"]["report"]["flows"]["handoff"]["labels"];
    assert_eq!(labels, 4, "{status}");

    let mut fourth = clients.remove(0);
    fourth.rounds(1);
    fourth.finish();
    record(&mut gateway, fourth.address);
    // Whoever comes by later does not write it once more.
    gateway.kill();
    gateway.start().expect("the fourth agent");
    let swept = |gateway: &Gateway<'_>| {
        gateway
            .status()
            .is_ok_and(|status| status["datapath"]["report"]["flows"]["last_sweep"]["closing"] == 4)
    };
    wait::until_true("it has seen them all", DEADLINE, || swept(&gateway)).expect("a sweep");
    for client in [first.address, second.address, address, fourth.address] {
        let lines = of(&mut gateway, client);
        assert_eq!(lines.len(), 1, "{lines:#?}");
    }
}
