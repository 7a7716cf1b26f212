// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A flood of SYNs from addresses that nobody has, while real clients connect.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream},
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

use etherparse::PacketBuilder;
use gateway_tests::{
    backend::echo::Echo,
    gateway::{Datapath, Gateway},
    lab::{CLIENT, Lab},
    offload, wait,
};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    ipv6,
    scene::{self, backend, serve_with, tcp, vip},
};

const PORT: u16 = 31_400;
const DEADLINE: Duration = Duration::from_secs(60);
/// Addresses of real clients, on the client's interface.
const CLIENTS: u8 = 8;
/// Connections of each.
const EACH: usize = 10;
/// SYNs of the flood, at least,
const LEAST: u32 = 10_000;
/// and at most.
const MOST: u32 = 200_000;

/// SYNs to a port of the VIP.
pub struct Flood {
    socket: Socket,
    to: SocketAddr,
}

impl Flood {
    pub fn new(lab: &Lab, port: u16) -> Self {
        Self::at(lab, vip(lab, port))
    }

    fn at(lab: &Lab, to: SocketAddr) -> Self {
        let protocol = Some(Protocol::from(libc::IPPROTO_RAW));
        let socket = lab
            .client
            .run(|| Socket::new(Domain::for_address(to), Type::RAW, protocol));
        Self {
            socket: socket.expect("a raw socket"),
            to,
        }
    }

    /// Sends the SYNs of these numbers, each from an address of its own.
    pub fn send(&self, lab: &Lab, numbers: Range<u32>) {
        let to = SocketAddr::from((self.to.ip(), 0)).into();
        lab.client.run(|| {
            for number in numbers {
                let [_, high, middle, low] = number.to_be_bytes();
                let mut packet = Vec::new();
                let builder = match self.to.ip() {
                    IpAddr::V4(to) => {
                        let from = [10, 100 + high, middle, low];
                        PacketBuilder::ipv4(from, to.octets(), 64)
                    }
                    IpAddr::V6(to) => {
                        // A network of its own for each, of those for examples.
                        let net = [middle, low].map(u16::from);
                        let from = Ipv6Addr::new(
                            0x2001,
                            0xdb8,
                            u16::from(high),
                            net[0] << 8 | net[1],
                            0,
                            0,
                            0,
                            1,
                        );
                        PacketBuilder::ipv6(from.octets(), to.octets(), 64)
                    }
                };
                builder
                    .tcp(1_024 + low as u16, self.to.port(), number, 64_240)
                    .syn()
                    .write(&mut packet, &[])
                    .expect("a packet");
                self.socket.send_to(&packet, &to).expect("send");
            }
        });
    }
}

fn report(gateway: &Gateway<'_>) -> Value {
    let mut status = gateway.status().expect("status");
    status["datapath"]["report"].take()
}

fn counted(report: &Value, table: &str, name: &str) -> u64 {
    let count = report[table][name]["packets"].as_u64();
    count.unwrap_or_else(|| panic!("{name} in {}", report[table]))
}

/// A new connection of a client; it is echoed.
fn connect(lab: &Lab, source: IpAddr, to: SocketAddr) -> TcpStream {
    let mut stream: TcpStream = lab.client.run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
        let from = SocketAddr::new(source, 0);
        socket.bind(&from.into()).expect("its address");
        let connected = socket.connect_timeout(&to.into(), DEADLINE);
        connected.unwrap_or_else(|error| panic!("{source} to {to}: {error}"));
        socket.into()
    });
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    exchange(&mut stream);
    stream
}

fn exchange(stream: &mut TcpStream) {
    stream.write_all(b"hello").expect("send");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"hello");
}

/// Everybody connects who is there, nobody else gets far, and all of it is
/// counted.
fn real_clients_connect(is_v6: bool, attach: &str, protection: &str, pressure: &str) {
    let Some(lab) = scene::lab() else { return };
    let (to, client, target) = if is_v6 {
        ipv6::dual_stack(&lab);
        // What the backend answers to the flood goes where that came from.
        lab.gateway
            .ip(&format!("route add 2001:db8::/32 via {}", ipv6::CLIENT))
            .expect("a route");
        (
            (ipv6::VIP, PORT).into(),
            ipv6::CLIENT.into(),
            (ipv6::BACKEND, 7000).into(),
        )
    } else {
        (vip(&lab, PORT), CLIENT.into(), backend(&lab, 0, 7000))
    };
    if attach != "tc" {
        for netns in [&lab.client].into_iter().chain(&lab.backends) {
            let set = netns.run(|| offload::like_a_wire("eth0"));
            set.expect("full checksums");
        }
    }
    let source = |n: u8| -> IpAddr {
        if is_v6 {
            Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 1, u16::from(n)).into()
        } else {
            [10, 98, 0, 10 + n].into()
        }
    };
    let sources: Vec<IpAddr> = (0..CLIENTS).map(source).collect();
    for source in &sources {
        let rest = if is_v6 {
            "64 dev eth0 nodad"
        } else {
            "24 dev eth0"
        };
        lab.client
            .ip(&format!("addr add {source}/{rest}"))
            .expect("another address");
    }
    let _echo = Echo::serve(&lab.backends[0], target, "").expect("echo");
    let yaml = if is_v6 {
        ipv6::tcp(PORT, target)
    } else {
        tcp("echo", PORT, &[target])
    };
    let bootstrap = format!("attach: {attach}\nprotection: {{{protection}}}\n");
    let gateway = serve_with(&lab, Datapath::Ebpf, &bootstrap, &[("echo.yaml", yaml)]);
    let mut kept = connect(&lab, client, to);

    let (stop, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|threads| {
        threads.spawn(|| {
            let flood = Flood::at(&lab, to);
            for first in (0..MOST).step_by(50) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                flood.send(&lab, first..first + 50);
                sent.store(first + 50, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        });
        wait::until("the flood makes pressure", DEADLINE, || {
            Ok((counted(&report(&gateway), "verdicts", "challenged") >= 200).then_some(()))
        })
        .expect("challenges");
        let wave = || {
            let clients: Vec<_> = sources
                .iter()
                .map(|source| {
                    threads.spawn(|| {
                        let streams: Vec<_> =
                            (0..EACH).map(|_| connect(&lab, *source, to)).collect();
                        streams.len()
                    })
                })
                .collect();
            let connected: usize = clients
                .into_iter()
                .map(|client| client.join().expect("all connect"))
                .sum();
            assert_eq!(connected, sources.len() * EACH);
        };
        wave();
        wait::until("the flood goes on", DEADLINE, || {
            Ok((sent.load(Ordering::Relaxed) >= LEAST).then_some(()))
        })
        .expect("a flood");
        wave();
        exchange(&mut kept);
        stop.store(true, Ordering::Relaxed);
    });

    let report = report(&gateway);
    let [challenged, verified] =
        ["challenged", "verified"].map(|it| counted(&report, "verdicts", it));
    let half_open = report["flows"]["half_open"].as_u64().expect("counted");
    let sent = u64::from(sent.load(Ordering::Relaxed));
    eprintln!(
        "{to}, {attach}, {protection}: {sent} SYNs, {challenged} challenged, {verified} verified, {half_open} half-open"
    );
    assert!(verified >= u64::from(CLIENTS), "{verified}");
    assert!(
        half_open + challenged >= sent,
        "nothing of the flood is lost"
    );
    assert_eq!(counted(&report, "drops", "flow_table_full"), 0);
    assert_eq!(counted(&report, "drops", pressure), 0, "nobody is refused");
    exchange(&mut kept);
}

#[test]
fn real_clients_connect_under_a_flood_of_half_open_flows_at_tc() {
    real_clients_connect(false, "tc", "max_half_open: 64", "half_open_full");
}

#[test]
fn real_clients_connect_under_a_flood_of_half_open_flows_at_generic_xdp() {
    real_clients_connect(false, "xdp-generic", "max_half_open: 64", "half_open_full");
}

#[test]
fn real_clients_connect_under_a_flood_of_ipv6() {
    real_clients_connect(true, "tc", "max_half_open: 64", "half_open_full");
}

#[test]
fn real_clients_connect_under_a_flood_of_new_flows() {
    real_clients_connect(false, "tc", "max_new_flow_rate: 20", "new_flow_flood");
}
