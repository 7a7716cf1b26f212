// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The flow table from outside: which flows stay, which end, and who is told.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, ChildStdout, Stdio},
    time::Duration,
};

use gateway_tests::{
    admin,
    backend::echo::Echo,
    client::raw::{self, End},
    gateway::{Datapath, Gateway},
    lab::{CLIENT, Lab},
    netns::Netns,
    wait,
};
use serde_json::Value;

use crate::scene::{self, backend, serve, serve_with, tcp, vip};

/// Long enough for a busy machine.
const DEADLINE: Duration = Duration::from_secs(40);
const PORT: u16 = 31_400;

fn echo(lab: &Lab, index: usize) -> Echo {
    Echo::start(lab, index, 7000, &index.to_string()).expect("echo")
}

/// A new connection and the name its server greets with.
fn greeted(lab: &Lab, port: u16) -> (char, TcpStream) {
    let mut stream = raw::connect(&lab.client, vip(lab, port)).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let mut name = [0; 1];
    stream.read_exact(&mut name).expect("a greeting");
    (char::from(name[0]), stream)
}

/// Connections to each of the servers, by name.
fn held(lab: &Lab, servers: &[char]) -> Vec<(char, TcpStream)> {
    let mut held: Vec<(char, TcpStream)> = Vec::new();
    for _ in 0..200 {
        let one = greeted(lab, PORT);
        if held.iter().all(|(name, _)| *name != one.0) {
            held.push(one);
        }
        if servers
            .iter()
            .all(|name| held.iter().any(|(known, _)| known == name))
        {
            return held;
        }
    }
    panic!("200 connections to {held:?}, none to others of {servers:?}");
}

fn exchange(stream: &mut TcpStream, word: &[u8; 4]) {
    stream.write_all(word).expect("write");
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, word);
}

/// The flow table's report.
fn table(gateway: &Gateway<'_>) -> Value {
    gateway.status().expect("status")["datapath"]["report"]["flows"].clone()
}

fn drops(gateway: &Gateway<'_>, reason: &str) -> u64 {
    let status = gateway.status().expect("status");
    status["datapath"]["report"]["drops"][reason]["packets"]
        .as_u64()
        .expect("a count")
}

/// The last line of `sluice flows`.
fn summary(gateway: &Gateway<'_>, args: &[&str]) -> String {
    let output = gateway.sluice(&[&["flows"], args].concat()).expect("run");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn ports_run_out_cleanly_and_come_back() {
    const PORTS: usize = 24;
    let Some(lab) = scene::lab() else { return };
    let _server = echo(&lab, 0);
    let gateway = serve_with(
        &lab,
        Datapath::Ebpf,
        "forwarding: snat\nsnat_ports: 61000-61023\n",
        &[("echo.yaml", tcp("echo", PORT, &[backend(&lab, 0, 7000)]))],
    );
    let mut streams: Vec<TcpStream> = (0..PORTS).map(|_| greeted(&lab, PORT).1).collect();
    let attempts = 5;
    for _ in 0..attempts {
        let refused = lab
            .client
            .run(|| TcpStream::connect_timeout(&vip(&lab, PORT), Duration::from_millis(300)));
        refused.expect_err("every port is taken");
    }
    let counted = gateway.service(PORT).expect("counters");
    assert_eq!(counted.flows, PORTS as u64);
    // A SYN may have been sent twice on a busy machine.
    assert!(counted.refused >= attempts, "{counted:?}");
    assert_eq!(drops(&gateway, "snat_ports_exhausted"), counted.refused);
    for stream in &mut streams {
        exchange(stream, b"held");
    }
    // A port is free as soon as its connection has ended.
    for _ in 0..8 {
        let mut ended = streams.swap_remove(0);
        ended.shutdown(std::net::Shutdown::Write).expect("close");
        assert_eq!(ended.read(&mut [0]).expect("the server closes"), 0);
        streams.push(greeted(&lab, PORT).1);
    }
    for stream in &mut streams {
        exchange(stream, b"both");
    }
    assert_eq!(
        gateway.service(PORT).expect("counters").flows,
        PORTS as u64 + 8
    );
}

#[test]
fn an_endpoint_that_is_gone_resets_both_sides_and_one_at_work_keeps_its_flows() {
    let Some(lab) = scene::lab() else { return };
    let _working = echo(&lab, 0);
    let _next = echo(&lab, 2);
    // Of this one both ends of the connection are at hand.
    let server = lab.backends[1].run(|| TcpListener::bind(backend(&lab, 1, 7000)).expect("listen"));
    let accepting = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().expect("accept");
        stream.write_all(b"1").expect("greet");
        stream
    });
    let targets = |indices: &[usize]| {
        let targets: Vec<SocketAddr> = indices
            .iter()
            .map(|index| backend(&lab, *index, 7000))
            .collect();
        tcp("echo", PORT, &targets)
    };
    let gateway = serve_with(
        &lab,
        Datapath::Ebpf,
        "timeouts: {removed_endpoint: 500ms}\n",
        &[("one.yaml", targets(&[1]))],
    );
    let (_, mut lost) = greeted(&lab, PORT);
    let mut far_end = accepting.join().expect("accepted");
    lost.write_all(b"ping").expect("write");
    far_end.read_exact(&mut [0; 4]).expect("read");
    far_end.write_all(b"pong").expect("write");
    lost.read_exact(&mut [0; 4]).expect("read");
    gateway.reload("one.yaml", &targets(&[0])).expect("reload");
    let (name, mut kept) = greeted(&lab, PORT);
    assert_eq!(name, '0');

    // Its host hears, and has no way to answer: as good as gone.
    for interface in ["all", "eth0"] {
        let key = format!("net.ipv4.conf.{interface}.rp_filter");
        lab.backends[1].sysctl(&key, "0").expect("hear everybody");
    }
    lab.backends[1]
        .ip(&format!("route add blackhole {CLIENT}/32"))
        .expect("cut off");
    gateway.reload("one.yaml", &targets(&[2])).expect("reload");
    assert_eq!(
        greeted(&lab, PORT).0,
        '2',
        "new connections have a new endpoint"
    );
    let end = raw::read_to_end(&mut lost, DEADLINE).expect("the client's end");
    assert_eq!(end, End::Reset, "the client is told");
    far_end.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let error = far_end.read(&mut [0]).expect_err("the server's end");
    assert_eq!(
        error.kind(),
        ErrorKind::ConnectionReset,
        "the server is told"
    );

    // Longer than the one that was lost has lived: it is asked, and answers.
    wait::until("the other one to be asked", DEADLINE, || {
        let flow = flow_of(&lab, &gateway, kept.local_addr()?);
        // After its SYN and its greeting the server has said nothing.
        let packets = flow["packets_out"].as_u64().unwrap_or(0);
        anyhow::ensure!(packets > 2, "{flow}");
        Ok(Some(()))
    })
    .expect("asked");
    exchange(&mut kept, b"kept");
    let metrics = gateway.metrics().expect("metrics");
    let reset = [("reason", "endpoint_gone")];
    assert_eq!(metrics.sum("sluice_flows_reset_total", &reset), 1.0);
    assert_eq!(metrics.sum("sluice_flows_endpoint_removed", &[]), 1.0);
    let status = gateway.sluice(&["status"]).expect("run");
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(
        status.contains("removed   endpoints: 1 flows go on, 1 were reset, 0 let go"),
        "{status}"
    );
}

/// The flow of a client as `/flows` lists it.
fn flow_of(lab: &Lab, gateway: &Gateway<'_>, client: SocketAddr) -> Value {
    let path = format!("/flows?client={client}");
    let answer = admin::fetch(&lab.gateway, gateway.admin(), &path).expect("flows");
    let list: Value = serde_json::from_str(&answer.body).expect("JSON");
    list["flows"][0].clone()
}

#[test]
fn a_datagram_finds_another_endpoint_when_its_own_is_gone() {
    let Some(lab) = scene::lab() else { return };
    let servers = [0, 1].map(|index| {
        let at = backend(&lab, index, 5353);
        lab.backends[index]
            .run(|| UdpSocket::bind(at))
            .expect("bind")
    });
    let yaml = |index: usize| {
        let resources = scene::tcp("dns", 53, &[backend(&lab, index, 5353)]);
        resources.replace("protocol: TCP", "protocol: UDP")
    };
    let gateway = serve_with(
        &lab,
        Datapath::Ebpf,
        "timeouts: {removed_endpoint: 500ms}\n",
        &[("dns.yaml", yaml(0))],
    );
    let client = lab
        .client
        .run(|| UdpSocket::bind("0.0.0.0:0"))
        .expect("bind");
    client.connect(vip(&lab, 53)).expect("connect");
    let mut buffer = [0; 16];
    let mut ask = |server: &UdpSocket| {
        client.send(b"?").expect("send");
        server
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("a timeout");
        let (_, from) = server.recv_from(&mut buffer).ok()?;
        server.send_to(b"!", from).expect("answer");
        client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        client.recv(&mut buffer).ok()
    };
    wait::until_true("the first to answer", DEADLINE, || {
        ask(&servers[0]).is_some()
    })
    .expect("an answer");
    gateway.reload("dns.yaml", &yaml(1)).expect("reload");
    // As long as it answers it keeps the session,
    for _ in 0..20 {
        ask(&servers[0]).expect("the session goes on");
        std::thread::sleep(Duration::from_millis(100));
    }
    // and soon after it no longer does, the other one has it.
    wait::until_true("the second to answer", DEADLINE, || {
        ask(&servers[1]).is_some()
    })
    .expect("an answer");
    assert_eq!(table(&gateway)["released_endpoint_gone"], 1);
}

#[test]
fn an_endpoint_that_ends_keeps_its_flows_and_takes_no_new_one() {
    let Some(lab) = scene::lab() else { return };
    let _servers = [0, 1].map(|index| echo(&lab, index));
    let yaml = |conditions: &str| {
        let [first, second] = [0, 1].map(|index| backend(&lab, index, 7000).ip());
        format!(
            "{}{}---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  ports: [{{port: 80}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  labels: {{kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{{port: 7000}}]
endpoints:
- {{addresses: [{first}], conditions: {conditions}}}
- {{addresses: [{second}], conditions: {{ready: true}}}}
",
            scene::gateway("web", PORT, "TCP", "*", ""),
            scene::virtual_service(
                "web",
                "*",
                "  tcp:\n  - route:\n    - destination: {host: web, port: {number: 80}}\n"
            ),
        )
    };
    let gateway = serve_with(
        &lab,
        Datapath::Ebpf,
        "timeouts: {removed_endpoint: 500ms}\n",
        &[("web.yaml", yaml("{ready: true}"))],
    );
    let mut held = held(&lab, &['0', '1']);
    for conditions in [
        "{ready: false, serving: true, terminating: true}",
        "{ready: false, serving: false, terminating: true}",
        "{ready: false}",
    ] {
        gateway
            .reload("web.yaml", &yaml(conditions))
            .expect("reload");
        for _ in 0..20 {
            assert_eq!(greeted(&lab, PORT).0, '1', "{conditions}");
        }
        for (_, stream) in &mut held {
            exchange(stream, b"held");
        }
    }
    // It is not gone: nobody asks, nobody resets.
    let table = table(&gateway);
    assert_eq!(
        (&table["endpoint_removed"], &table["reset_endpoint_gone"]),
        (&0.into(), &0.into())
    );
    gateway
        .reload("web.yaml", &yaml("{ready: true}"))
        .expect("reload");
    wait::until_true("it is used again", DEADLINE, || {
        greeted(&lab, PORT).0 == '0'
    })
    .expect("it comes back");
}

#[test]
fn idle_flows_end_by_their_timeout_and_only_those() {
    let Some(lab) = scene::lab() else { return };
    let _server = echo(&lab, 0);
    let targets = [backend(&lab, 0, 7000)];
    let patient = tcp("patient", 31_401, &targets)
        + "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: patient}\nspec:\n  host: patient.internal\n  trafficPolicy:\n    connectionPool: {tcp: {idleTimeout: 1h}}\n";
    let gateway = serve_with(
        &lab,
        Datapath::Ebpf,
        "timeouts: {tcp_flow: 3s}\n",
        &[
            ("echo.yaml", tcp("echo", PORT, &targets)),
            ("patient.yaml", patient),
        ],
    );
    let (_, mut patient) = greeted(&lab, 31_401);
    let (_, mut busy) = greeted(&lab, PORT);
    let idle: Vec<TcpStream> = (0..3).map(|_| greeted(&lab, PORT).1).collect();
    assert!(summary(&gateway, &[]).starts_with("5 of 5 flows match"));
    wait::until("the idle ones to end", DEADLINE, || {
        exchange(&mut busy, b"busy");
        std::thread::sleep(Duration::from_millis(100));
        Ok(summary(&gateway, &[])
            .starts_with("2 of 2 flows match")
            .then_some(()))
    })
    .expect("they end");
    exchange(&mut busy, b"busy");
    exchange(&mut patient, b"wait");
    drop(idle);
}

/// Far more than any default of the machine: every one is tracked, none is
/// mixed up with another, and none needs the agent.
#[test]
fn a_hundred_thousand_flows_at_once_each_carry_their_own_bytes() {
    // A process may open 20,000 files on common systems.
    const CROWDS: u32 = 10;
    const EACH: u32 = 10_000;
    let Some(lab) = scene::lab() else { return };
    lab.client
        .sysctl("net.ipv4.ip_local_port_range", "1025 65000")
        .expect("more ports");
    let mut servers = Vec::new();
    let mut yaml = String::new();
    for index in 0..CROWDS {
        let port = PORT + index as u16;
        let pod = (index % 3) as usize;
        let at = backend(&lab, pod, 7000 + index as u16);
        servers.push(Crowd::start(&lab.backends[pod], "serve", at, EACH));
        yaml += &tcp(&format!("crowd{index}"), port, &[at]);
    }
    for server in &mut servers {
        server.expect("listening");
    }
    let mut gateway = serve(&lab, &[("crowds.yaml", yaml)]);
    let ports = (0..CROWDS).map(|index| PORT + index as u16);
    let mut clients: Vec<Crowd> = ports
        .map(|port| Crowd::start(&lab.client, "connect", vip(&lab, port), EACH))
        .collect();
    for client in &mut clients {
        client.expect("connected");
    }
    for server in &mut servers {
        server.expect("accepted");
    }
    let flows = CROWDS * EACH;
    let all = format!("{flows} of {flows} flows match, 3 listed; established {flows};");
    let seen = summary(&gateway, &["--limit", "3"]);
    assert!(seen.starts_with(&all), "{seen}");
    // From here on without the agent.
    gateway.kill();
    for crowd in servers.iter_mut().chain(&mut clients) {
        crowd.go_on();
    }
    for client in &mut clients {
        client.expect("exchanged");
    }
    for server in &mut servers {
        server.expect("answered");
    }
    gateway.start().expect("start again");
    let seen = summary(&gateway, &["--limit", "3"]);
    assert!(seen.starts_with(&all), "{seen}");
    assert_eq!(drops(&gateway, "flow_table_full"), 0);
}

/// A process with one end of many connections (`tests/crowd`), ended with the
/// value.
struct Crowd {
    process: Child,
    words: std::io::Lines<BufReader<ChildStdout>>,
}

impl Crowd {
    fn start(netns: &Netns, role: &str, at: SocketAddr, count: u32) -> Self {
        let mut process = netns
            .command(env!("CARGO_BIN_EXE_crowd"))
            .args([role, &at.to_string(), &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start a crowd");
        let words = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        Self { process, words }
    }

    /// Waits for its next word, which is this one unless it has failed.
    fn expect(&mut self, word: &str) {
        let said = self.words.next().and_then(Result::ok);
        assert_eq!(said.as_deref(), Some(word), "its error is above");
    }

    fn go_on(&mut self) {
        let stdin = self.process.stdin.as_mut().expect("a pipe");
        stdin.write_all(b"\n").expect("tell");
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // It has nothing to lose, and may wait for a peer that is gone.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
