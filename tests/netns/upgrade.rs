// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A crash, a newer version and an older one while traffic runs: no packet is
//! lost to any of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{Shutdown, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::programs::loaded_programs;
use gateway_tests::{
    attached::{self, Tcx},
    backend::echo::Echo,
    client::raw,
    gateway::{self, Datapath, Gateway},
    lab::Lab,
    netns::Netns,
    offload, revision, wait,
};

use crate::scene::{self, backend, serve_with, tcp, vip};

const DEADLINE: Duration = Duration::from_secs(20);
/// Datagrams on their way at once: far less than any queue holds.
const WINDOW: usize = 32;

/// Says a word to an echo server and hears it.
pub fn converse(stream: &mut TcpStream, word: &str) {
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    stream.write_all(word.as_bytes()).expect("say");
    let mut heard = vec![0; word.len()];
    stream.read_exact(&mut heard).expect("hear");
    assert_eq!(heard, word.as_bytes());
}

/// What the load has got through so far, and when it is to end.
#[derive(Debug, Default)]
struct Progress {
    done: AtomicBool,
    bytes: AtomicU64,
    datagrams: AtomicU64,
    connections: AtomicU64,
}

impl Progress {
    /// Waits until every kind of traffic has moved on.
    fn moves(&self, when: &str) {
        let all = [&self.bytes, &self.datagrams, &self.connections];
        let steps = [32 << 20, 2_000, 20];
        let before = all.map(|count| count.load(Ordering::Relaxed));
        wait::until_true(&format!("traffic {when}: {self:?}"), DEADLINE, || {
            (0..3).all(|i| all[i].load(Ordering::Relaxed) >= before[i] + steps[i])
        })
        .expect("traffic");
    }

    fn runs(&self) -> bool {
        !self.done.load(Ordering::Relaxed)
    }
}

/// Ends the load when dropped.
struct Finish<'a>(&'a Progress);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Relaxed);
    }
}

/// The byte at a place of the stream; its period is no length of a packet.
fn byte(place: u64) -> u8 {
    (place % 251) as u8
}

/// Bounds what a connection has on its way in either direction, so that no
/// queue of a veth device (256 frames towards XDP) is ever full: a packet that
/// is lost, is lost by the gateway.
fn bound(stream: &TcpStream) {
    let size: libc::c_int = 48 << 10;
    for option in [libc::SO_SNDBUF, libc::SO_RCVBUF] {
        // SAFETY: the socket is open, and the option is an int that lives across
        // the call.
        let status = unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const size).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
    }
}

/// One connection as fast as it goes, each byte compared when it comes back.
fn stream(lab: &Lab, progress: &Progress) -> u64 {
    let mut writer = raw::connect(&lab.client, vip(lab, 31_400)).expect("connect");
    bound(&writer);
    let mut reader = writer.try_clone().expect("clone");
    reader.set_read_timeout(Some(DEADLINE)).expect("a limit");
    thread::scope(|scope| {
        let sent = scope.spawn(move || {
            let mut sent = 0_u64;
            // A whole number of periods: every block is the same.
            let block: Vec<u8> = (0..251 * 256).map(byte).collect();
            while progress.runs() {
                writer.write_all(&block).expect("the connection stays");
                sent += block.len() as u64;
            }
            writer.shutdown(Shutdown::Write).expect("half-close");
            sent
        });
        let mut got = 0_u64;
        let mut buffer = vec![0; 256 * 1024];
        let expected: Vec<u8> = (0..251 + buffer.len() as u64).map(byte).collect();
        loop {
            let count = reader.read(&mut buffer).expect("the connection stays");
            if count == 0 {
                break;
            }
            let from = (got % 251) as usize;
            assert!(
                buffer[..count] == expected[from..from + count],
                "other bytes from {got} on"
            );
            got += count as u64;
            progress.bytes.store(got, Ordering::Relaxed);
        }
        assert_eq!(got, sent.join().expect("the writer"));
        got
    })
}

/// Numbered datagrams, a few at a time, each of which must come back: nobody
/// sends them again.
fn datagrams(lab: &Lab, progress: &Progress) -> u64 {
    let at = backend(lab, 1, 7001);
    let server = lab.backends[1].run(|| UdpSocket::bind(at)).expect("bind");
    server.set_read_timeout(Some(DEADLINE)).expect("a limit");
    let echo = thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, peer)) = server.recv_from(&mut buffer) {
            if length == 0 {
                return;
            }
            server.send_to(&buffer[..length], peer).expect("answer");
        }
    });
    let to = vip(lab, 31_401);
    let client = lab.client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket.connect(to).expect("connect");
        socket
    });
    client.set_read_timeout(Some(DEADLINE)).expect("a limit");
    let mut sent = 0_u64;
    // A sender that moves to another processor overtakes itself on a veth pair:
    // what counts is that each comes back.
    let mut under_way = BTreeSet::new();
    while progress.runs() || !under_way.is_empty() {
        while progress.runs() && under_way.len() < WINDOW {
            client.send(&sent.to_be_bytes()).expect("send");
            under_way.insert(sent);
            sent += 1;
        }
        let mut answer = [0; 8];
        if let Err(error) = client.recv(&mut answer) {
            panic!("{under_way:?} of {sent} did not come back: {error}");
        }
        let number = u64::from_be_bytes(answer);
        assert!(under_way.remove(&number), "{number} came back twice");
        progress.datagrams.fetch_add(1, Ordering::Relaxed);
    }
    client.send(&[]).expect("the end");
    echo.join().expect("the server");
    sent
}

/// One connection after another.
fn connections(lab: &Lab, progress: &Progress) -> u64 {
    let mut made = 0;
    while progress.runs() {
        let mut stream = raw::connect(&lab.client, vip(lab, 31_400)).expect("connect");
        converse(&mut stream, "hello");
        stream.shutdown(Shutdown::Write).expect("close");
        stream.read_to_end(&mut Vec::new()).expect("the end");
        made += 1;
        progress.connections.store(made, Ordering::Relaxed);
    }
    made
}

/// A forwarded UDP port.
fn udp(name: &str, port: u16, to: std::net::SocketAddr) -> String {
    format!(
        "{}{}---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{name}.internal]
  resolution: STATIC
  ports:
  - {{number: {port}, name: udp, protocol: UDP, targetPort: {}}}
  endpoints:
  - {{address: {}}}
",
        scene::gateway(name, port, "UDP", "*", ""),
        scene::virtual_service(
            name,
            "*",
            &format!("  tcp:\n  - route:\n    - destination: {{host: {name}.internal}}\n")
        ),
        to.port(),
        to.ip(),
    )
}

/// The programs of the gateway's interfaces with their links.
fn programs(lab: &Lab) -> BTreeMap<&'static str, Tcx> {
    ["wire", "pod1", "pod2", "pod3"]
        .into_iter()
        .filter_map(|name| {
            let found = attached::tcx(&lab.gateway, name).expect("ask the kernel");
            assert!(found.len() < 2, "{name}: {found:?}");
            Some((name, *found.first()?))
        })
        .collect()
}

/// The hash of a program's instructions.
fn tag(id: u32) -> u64 {
    let program = loaded_programs()
        .filter_map(Result::ok)
        .find(|p| p.id() == id);
    program.expect("the program is loaded").tag()
}

/// A number of /proc/net/snmp.
fn snmp(netns: &Netns, column: &str) -> u64 {
    let text = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"));
    let text = text.expect("counters");
    let mut tcp = text.lines().filter(|line| line.starts_with("Tcp:"));
    let names = tcp.next().expect("names").split(' ');
    let mut columns = names.zip(tcp.next().expect("numbers").split(' '));
    let (_, value) = columns
        .find(|(name, _)| *name == column)
        .expect("the column");
    value.parse().expect("a number")
}

/// Packets that the devices of a namespace dropped for want of room.
fn dropped(netns: &Netns) -> u64 {
    let text = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"));
    let text = text.expect("counters");
    // Receive and transmit have eight columns each; "drop" is the fourth.
    let drops = text.lines().skip(2).flat_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        [columns[4], columns[12]].map(|column| column.parse().unwrap_or(0))
    });
    drops.sum()
}

/// The agent is killed and started, replaced by a newer version, and by the
/// older one again, each time both ways of ending it.
fn replaced_under_load(attach: &str) {
    let Some(lab) = scene::lab() else { return };
    if attach != "tc" {
        for netns in [&lab.client].into_iter().chain(&lab.backends) {
            netns
                .run(|| offload::like_a_wire("eth0"))
                .expect("offloads");
        }
    }
    let _echo = Echo::start(&lab, 0, 7000, "").expect("echo");
    let mut gateway = serve_with(
        &lab,
        Datapath::Ebpf,
        &format!("attach: {attach}\n"),
        &[
            ("tcp.yaml", tcp("tcp", 31_400, &[backend(&lab, 0, 7000)])),
            ("udp.yaml", udp("udp", 31_401, backend(&lab, 1, 7001))),
        ],
    );
    let older = gateway::binary().expect("the agent");
    let newer = lab.dir().join("sluice-newer");
    revision::revise(&older, &newer).expect("make a newer version");
    let mut before = programs(&lab);
    assert_eq!(before.len(), if attach == "tc" { 4 } else { 3 });
    let tag_of_older = tag(before["pod1"].program);

    let progress = Progress::default();
    let start = Instant::now();
    let (bytes, sent, made) = thread::scope(|scope| {
        let stream = scope.spawn(|| stream(&lab, &progress));
        let datagrams = scope.spawn(|| datagrams(&lab, &progress));
        let connections = scope.spawn(|| connections(&lab, &progress));
        // Also when something below panics: the scope waits for its threads.
        let finish = Finish(&progress);
        progress.moves("before");
        for (binary, crash) in [
            (&older, true),
            (&newer, true),
            (&older, false),
            (&newer, false),
        ] {
            if crash {
                gateway.kill();
            } else {
                gateway.terminate(DEADLINE).expect("terminate");
            }
            progress.moves("without an agent");
            assert_eq!(programs(&lab), before, "nothing changes");
            gateway.replace_binary(binary.clone());
            gateway.start().expect("start");
            progress.moves("with the next agent");
            let now = programs(&lab);
            for (name, old) in &before {
                assert_ne!(now[name].program, old.program, "{name}: another program");
                assert_eq!(now[name].link, old.link, "{name}: by the same link");
            }
            let is_older = tag(now["pod1"].program) == tag_of_older;
            assert_eq!(is_older, binary == &older, "the version that was started");
            before = now;
        }
        drop(finish);
        (
            stream.join().expect("the stream"),
            datagrams.join().expect("the datagrams"),
            connections.join().expect("the connections"),
        )
    });
    let netns = [&lab.client, &lab.backends[0]];
    let dropped = [
        &lab.client,
        &lab.gateway,
        &lab.backends[0],
        &lab.backends[1],
    ]
    .map(dropped);
    println!(
        "{attach}: {} MiB each way at {:.1} Gbit/s, {sent} datagrams, {made} connections; \
         segments sent again: {:?}, dropped by devices: {dropped:?}",
        bytes >> 20,
        bytes as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9,
        netns.map(|netns| snmp(netns, "RetransSegs")),
    );
    assert_eq!(netns.map(|netns| snmp(netns, "EstabResets")), [0, 0]);
    nothing_was_dropped(&gateway);
}

fn nothing_was_dropped(gateway: &Gateway<'_>) {
    let status = gateway.status().expect("status");
    let report = &status["datapath"]["report"];
    for count in report["drops"].as_object().expect("drops").values() {
        assert_eq!(count["packets"], 0, "{}", report["drops"]);
    }
    assert_eq!(report["verdicts"]["dropped"]["packets"], 0);
    assert_eq!(
        report["verdicts"]["no_flow"]["packets"], 0,
        "a packet without its flow"
    );
}

#[test]
fn versions_change_under_load_at_tc() {
    replaced_under_load("tc");
}

#[test]
fn versions_change_under_load_at_native_xdp() {
    replaced_under_load("xdp-native");
}
