// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whole connections over real veth pairs: what a run of one packet cannot
//! show, as GSO super-packets, checksums left to the device, and neighbours
//! that have to be resolved.
//!
//! The namespaces belong to threads, so nothing is left when one panics.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TcAttachType, tc};
use gateway_common::{
    counters::VerdictCounter,
    flow::{PROTOCOL_UDP, SLOT_CLOSING},
    names,
    tcp_state::{TCP_CLOSING, TCP_RESET},
    udp_state::UDP_TWO_WAY,
};
use gateway_tests::offload;

use crate::{
    lab::{Hook, Lab, PODS, WIRE, at_both_hooks, ip, program, unshare},
    packet::{BACKEND, FAMILIES, VIP, at},
};

/// Bytes sent each way.
const BULK: usize = 16 << 20;
pub const DEADLINE: Duration = Duration::from_secs(20);

type Job = Box<dyn FnOnce() + Send>;

/// A host of its own: a thread in a namespace, doing one job after another.
pub struct Host {
    pub thread_id: i32,
    jobs: mpsc::Sender<Job>,
}

impl Host {
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (started, start) = mpsc::channel();
        thread::spawn(move || {
            unshare();
            ip("link set lo up");
            // SAFETY: gettid has no preconditions.
            started.send(unsafe { libc::gettid() }).unwrap();
            queue.into_iter().for_each(|job| job());
        });
        Self {
            thread_id: start.recv().unwrap(),
            jobs,
        }
    }

    /// Starts a job; the result arrives at the receiver.
    fn start<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> mpsc::Receiver<T> {
        let (done, result) = mpsc::channel();
        self.jobs
            .send(Box::new(move || {
                let _ = done.send(job());
            }))
            .unwrap();
        result
    }

    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(job).recv_timeout(DEADLINE).unwrap()
    }

    /// Takes over one end of a veth pair.
    fn plug(
        &self,
        interface: &'static str,
        addresses: [&'static str; 2],
        gateways: [&'static str; 2],
        hook: Hook,
    ) {
        ip(&format!("link set {interface} netns {}", self.thread_id));
        self.run(move || {
            let ipv6 = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
            fs::write(ipv6, "0").unwrap();
            ip(&format!("addr add {} dev {interface}", addresses[0]));
            ip(&format!("addr add {} dev {interface} nodad", addresses[1]));
            ip(&format!("link set {interface} up"));
            for gateway in gateways {
                ip(&format!("route add default via {gateway}"));
            }
            if hook == Hook::Xdp {
                // XDP sees neither partial checksums nor super-packets as what
                // they are, and a veth takes frames from it only with NAPI.
                offload::like_a_wire(interface).unwrap();
            }
        });
    }
}

/// TCP segments, of both families, that this thread's host found with a wrong
/// checksum.
fn checksum_errors() -> u64 {
    let snmp = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut tcp = snmp.lines().filter(|line| line.starts_with("Tcp:"));
    let names = tcp.next().unwrap().split(' ');
    let mut columns = names.zip(tcp.next().unwrap().split(' '));
    let (_, value) = columns.find(|(name, _)| *name == "InCsumErrors").unwrap();
    value.parse().unwrap()
}

/// A stream without a period that packets could hide behind.
fn stream(seed: u32) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    std::iter::repeat_with(next).take(BULK).collect()
}

fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// Puts a client and a backend behind the gateway and attaches the program.
pub fn hosts(lab: &mut Lab) -> (Host, Host) {
    ip("neigh flush all nud permanent");
    let (client, backend) = (Host::new(), Host::new());
    client.plug(
        "client",
        ["192.0.2.2/24", "2001:db8::2/64"],
        ["192.0.2.1", "2001:db8::1"],
        lab.hook,
    );
    backend.plug(
        "backends",
        ["10.1.0.11/24", "fd01::b/64"],
        ["10.1.0.1", "fd01::1"],
        lab.hook,
    );
    if lab.hook == Hook::Tc {
        let program: &mut SchedClassifier = program(&mut lab.ebpf, names::PROG_TC);
        for interface in [WIRE, PODS] {
            // Where there is no tcx, the program is attached to that.
            tc::qdisc_add_clsact(interface).unwrap();
            program.attach(interface, TcAttachType::Ingress).unwrap();
        }
    } else {
        // Until XDP knows the neighbours the stack forwards for it, from
        // addresses that are its own.
        for interface in [WIRE, PODS] {
            let dir = format!("/proc/sys/net/ipv4/conf/{interface}");
            fs::write(format!("{dir}/accept_local"), "1").unwrap();
        }
    }
    lab.free_slots(0..64);
    (client, backend)
}

/// Sends both streams at once over one connection and compares them.
pub fn transfer(client: &Host, backend: &Host, vip: SocketAddr, target: SocketAddr) {
    let (listening, ready) = mpsc::channel();
    let server = backend.start(move || {
        let listener = TcpListener::bind(target).unwrap();
        listening.send(()).unwrap();
        let (mut stream, peer) = listener.accept().unwrap();
        exchange(&mut stream, 2, 1);
        peer
    });
    ready.recv_timeout(DEADLINE).unwrap();
    let started = Instant::now();
    client.run(move || exchange(&mut connect(vip).unwrap(), 1, 2));
    server.recv_timeout(DEADLINE).unwrap();
    println!("{} MiB each way in {:?}", BULK >> 20, started.elapsed());
}

fn exchange(connection: &mut TcpStream, send: u32, expect: u32) {
    let mut writer = connection.try_clone().unwrap();
    let writing = thread::spawn(move || {
        writer.write_all(&stream(send)).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::with_capacity(BULK);
    connection.read_to_end(&mut received).unwrap();
    writing.join().unwrap();
    assert!(received == stream(expect), "{} bytes", received.len());
}

/// Waits until the last segments of the flow in slot 0 have come by.
fn wait_for_state(lab: &mut Lab, tcp_state: u32) {
    let end = Instant::now() + DEADLINE;
    while lab.slot(0).tcp_state != tcp_state || lab.slot(0).state != SLOT_CLOSING {
        assert!(Instant::now() < end, "slot 0 is {:?}", lab.slot(0));
        thread::yield_now();
    }
}

#[test]
fn bulk_in_both_directions_is_exact() {
    for (snat, [_, vip, target]) in [false, true]
        .into_iter()
        .flat_map(|snat| FAMILIES.map(|family| (snat, family)))
    {
        at_both_hooks(|lab| {
            let (client, backend) = hosts(lab);
            if snat {
                lab.snat_backend(1, at(target));
            } else {
                lab.dnat_backend(1, at(target));
            }
            lab.service(at(vip), &[1]);
            transfer(&client, &backend, at(vip), at(target));
            wait_for_state(lab, TCP_CLOSING);
            assert_eq!(client.run(checksum_errors), 0);
            assert_eq!(backend.run(checksum_errors), 0);
            assert_eq!(lab.all_drops(), 0);
            assert_eq!(lab.service_stats().flows, 1);
            let slot = lab.slot(0);
            assert!(
                slot.dir.iter().all(|dir| dir.bytes > BULK as u64),
                "{slot:?}"
            );
            if lab.hook == Hook::Tc {
                let packets = lab.verdicts(VerdictCounter::Forwarded);
                let segments = 2 * BULK as u64 / 1448;
                assert!(packets < segments, "{packets} packets: no super-packets");
            }
        });
    }
}

#[test]
fn a_refused_connection_is_refused_to_the_client() {
    at_both_hooks(|lab| {
        let (client, _backend) = hosts(lab);
        lab.dnat_backend(1, at(BACKEND));
        lab.service(at(VIP), &[1]);
        let error = client.run(|| connect(at(VIP)).unwrap_err().kind());
        assert_eq!(error, ErrorKind::ConnectionRefused);
        wait_for_state(lab, TCP_RESET);
    });
}

/// Datagrams there and back, one at a time, of every length around the limits,
/// and some in fragments.
#[test]
fn datagrams_are_echoed() {
    for (snat, [_, vip, target]) in [false, true]
        .into_iter()
        .flat_map(|snat| FAMILIES.map(|family| (snat, family)))
    {
        at_both_hooks(|lab| {
            let (client, backend) = hosts(lab);
            if snat {
                lab.snat_backend(1, at(target));
            } else {
                lab.dnat_backend(1, at(target));
            }
            lab.service_of(PROTOCOL_UDP, at(vip), &[1], |_| {});
            let lengths: Vec<usize> = (0..10)
                .chain(500..510)
                .chain(1440..=1480)
                .chain([3000, 8000])
                .collect();
            let bytes: u64 = lengths.iter().map(|len| *len as u64).sum();
            let (bound, ready) = mpsc::channel();
            let expected = lengths.len();
            let server = backend.start(move || {
                let socket = UdpSocket::bind(at(target)).unwrap();
                socket.set_read_timeout(Some(DEADLINE)).unwrap();
                bound.send(()).unwrap();
                let mut buffer = [0; 9000];
                for _ in 0..expected {
                    let (len, peer) = socket.recv_from(&mut buffer).unwrap();
                    socket.send_to(&buffer[..len], peer).unwrap();
                }
            });
            ready.recv_timeout(DEADLINE).unwrap();
            client.run(move || {
                let any = if at(vip).is_ipv4() {
                    "0.0.0.0:0"
                } else {
                    "[::]:0"
                };
                let socket = UdpSocket::bind(any).unwrap();
                socket.set_read_timeout(Some(DEADLINE)).unwrap();
                // Connected: an answer from another address is not taken.
                socket.connect(at(vip)).unwrap();
                let bytes = stream(3);
                let mut buffer = [0; 9000];
                for len in lengths {
                    socket.send(&bytes[..len]).unwrap();
                    let got = socket.recv(&mut buffer).unwrap();
                    assert!(buffer[..got] == bytes[..len], "{got} bytes of {len}");
                }
            });
            server.recv_timeout(DEADLINE).unwrap();
            let slot = lab.slot(0);
            assert_eq!(slot.tcp_state, UDP_TWO_WAY);
            assert!(slot.dir.iter().all(|dir| dir.bytes > bytes), "{slot:?}");
            assert_eq!(lab.service_stats().flows, 1);
            assert_eq!(lab.all_drops(), 0);
        });
    }
}
