// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Services of every forwarding mode and both families, side by side: what the
//! tests of whole connections share.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread::{self, JoinHandle},
    time::Duration,
};

use gateway_tests::{
    decap::Decap,
    lab::{CLIENT, Lab},
    netns::Netns,
    wait,
};

use crate::{ipv6, scene};

/// Nothing takes longer on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);
const MODES: [&str; 3] = ["dnat", "snat", "dsr"];

/// One service: TCP and UDP of one port, with one backend.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// How it is forwarded.
    pub mode: &'static str,
    /// Where clients connect to.
    pub vip: SocketAddr,
    /// The backend's own address.
    pub backend: SocketAddr,
}

impl Service {
    /// Where its server listens: with direct return at the VIP, which is the
    /// backend's as well.
    pub fn listens(&self) -> SocketAddr {
        if self.mode == "dsr" {
            self.vip
        } else {
            self.backend
        }
    }

    /// The bytes that wrapping adds.
    pub fn overhead(&self) -> u32 {
        match (self.mode, self.vip) {
            ("dsr", SocketAddr::V4(_)) => 20,
            ("dsr", SocketAddr::V6(_)) => 40,
            _ => 0,
        }
    }
}

/// Every mode in both families, all at the first backend.
pub fn services(lab: &Lab) -> Vec<Service> {
    let addresses: [(IpAddr, IpAddr); 2] = [
        (lab.vip().into(), lab.backend_address(0).into()),
        (ipv6::VIP.into(), ipv6::BACKEND.into()),
    ];
    let of = |(vip, backend): (IpAddr, IpAddr)| {
        (5_001..).zip(MODES).map(move |(port, mode)| Service {
            mode,
            vip: SocketAddr::new(vip, port),
            backend: SocketAddr::new(backend, port),
        })
    };
    addresses.into_iter().flat_map(of).collect()
}

/// Their configuration.
pub fn yaml(services: &[Service]) -> String {
    services
        .iter()
        .map(|service| {
            let Service { mode, vip, backend } = service;
            let family = if vip.is_ipv4() { 4 } else { 6 };
            let name = format!("{mode}{family}");
            let (port, vip, backend) = (vip.port(), vip.ip(), backend.ip());
            let route = scene::virtual_service(
                &name,
                "*",
                &format!(
                    "  tcp:\n  - route:\n    - destination: {{host: {name}.internal, port: {{number: {port}}}}}\n"
                ),
            )
            .replace(
                &format!("{{name: {name}}}"),
                &format!("{{name: {name}, annotations: {{sluice.dev/forwarding: {mode}}}}}"),
            );
            let bind = format!("    bind: \"{vip}\"\n");
            format!(
                "{}{bind}  - port: {{number: {port}, name: udp, protocol: UDP}}\n    hosts: [\"*\"]\n{bind}{route}---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{name}.internal]
  resolution: STATIC
  ports:
  - {{number: {port}, name: tcp, protocol: TCP}}
  - {{number: {port}, name: udp, protocol: UDP}}
  endpoints:
  - {{address: \"{backend}\"}}
",
                scene::gateway(&name, port, "TCP", "*", "")
            )
        })
        .collect()
}

/// Makes the first backend one that can answer clients itself: the VIPs are
/// its own, what is wrapped is unwrapped, and its link takes the header more. It
/// sends no more than other links take.
pub fn answers_itself(lab: &Lab) -> Decap {
    let [backend, ..] = &lab.backends;
    for (netns, command) in [
        (&lab.gateway, "link set pod1 mtu 1600".to_owned()),
        (backend, "link set eth0 mtu 1600".to_owned()),
        (
            backend,
            "route replace default via 10.99.1.1 mtu 1500".to_owned(),
        ),
        (
            backend,
            "-6 route replace default via fd99::1 mtu 1500".to_owned(),
        ),
        (backend, format!("addr add {}/32 dev lo", lab.vip())),
        (backend, format!("addr add {}/128 dev lo nodad", ipv6::VIP)),
    ] {
        netns.ip(&command).expect("set the backend up");
    }
    Decap::attach(backend, "eth0").expect("unwrap")
}

/// The client's address of a family.
pub fn client(of: SocketAddr) -> IpAddr {
    match of {
        SocketAddr::V4(_) => CLIENT.into(),
        SocketAddr::V6(_) => ipv6::CLIENT.into(),
    }
}

/// Bytes without a pattern that repeats at any power of two: those of a stream
/// are told apart by where they stand.
pub struct Pattern(Vec<u8>);

impl Pattern {
    /// A prime.
    const PERIOD: usize = 1_048_573;
    /// Most bytes at once.
    pub const MOST: usize = 256 * 1024;

    pub fn new() -> Self {
        let mut random = random_bytes(0x9e37_79b9_7f4a_7c15);
        let mut bytes: Vec<u8> = (0..Self::PERIOD).map(|_| random()).collect();
        bytes.extend_from_within(..Self::MOST);
        Self(bytes)
    }

    /// `len` bytes of the stream from `position` on.
    pub fn at(&self, position: u64, len: usize) -> &[u8] {
        let start = (position % Self::PERIOD as u64) as usize;
        &self.0[start..start + len]
    }

    /// Writes `len` bytes.
    pub fn write(&self, stream: &mut TcpStream, len: u64) {
        let mut position = 0;
        while position < len {
            let most = (len - position).min(Self::MOST as u64) as usize;
            let count = stream.write(self.at(position, most)).expect("write");
            assert!(count > 0, "closed at byte {position}");
            position += count as u64;
        }
    }

    /// Reads `len` bytes and compares each.
    pub fn read(&self, stream: &mut TcpStream, len: u64) {
        let mut buffer = vec![0; Self::MOST];
        let mut position = 0;
        while position < len {
            let most = (len - position).min(Self::MOST as u64) as usize;
            let count = stream.read(&mut buffer[..most]).expect("read");
            assert!(count > 0, "closed at byte {position}");
            assert!(
                buffer[..count] == *self.at(position, count),
                "wrong bytes from {position} on"
            );
            position += count as u64;
        }
    }
}

/// Marsaglia's xorshift64, a byte at a time.
fn random_bytes(mut state: u64) -> impl FnMut() -> u8 {
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    }
}

/// Takes `up` bytes over one connection, then sends `down`; who connected.
pub fn tcp_server(lab: &Lab, service: Service, up: u64, down: u64) -> JoinHandle<IpAddr> {
    let listener = lab.backends[0]
        .run(|| TcpListener::bind(service.listens()))
        .expect("listen");
    thread::spawn(move || {
        let pattern = Pattern::new();
        let (mut stream, peer) = listener.accept().expect("accept");
        stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
        stream.set_write_timeout(Some(DEADLINE)).expect("a limit");
        pattern.read(&mut stream, up);
        pattern.write(&mut stream, down);
        peer.ip()
    })
}

/// A client's connection to the service.
pub fn connect(lab: &Lab, service: Service) -> TcpStream {
    let stream = lab
        .client
        .run(|| TcpStream::connect_timeout(&service.vip, DEADLINE))
        .expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    stream.set_write_timeout(Some(DEADLINE)).expect("a limit");
    stream
}

/// Sends `up` bytes and takes `down` bytes, each compared; who the server saw.
pub fn exchange(lab: &Lab, service: Service, up: u64, down: u64) -> IpAddr {
    let server = tcp_server(lab, service, up, down);
    let pattern = Pattern::new();
    let mut stream = connect(lab, service);
    pattern.write(&mut stream, up);
    pattern.read(&mut stream, down);
    server.join().expect("the server")
}

/// Datagrams that may be on their way at once.
const WINDOW: u64 = 16;
/// How long an answer to them may take before they are sent again.
const PATIENCE: Duration = Duration::from_secs(2);
/// Rounds without an answer, in a row, that are no accident on a busy machine.
const MOST_ROUNDS: u32 = 5;

/// A datagram of `len` bytes: its number, and what stands there for it.
fn datagram(pattern: &Pattern, number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend(pattern.at(number * 4_099, len - 8));
    bytes
}

/// Takes datagrams until all `count` of them have come, in order, each byte as it
/// should be; answers the last one of each [`WINDOW`] with its first bytes.
fn serve_datagrams(socket: &UdpSocket, count: u64, len: usize, answer: usize) {
    let pattern = Pattern::new();
    let mut buffer = vec![0; len + 1];
    let mut next = 0;
    while next < count {
        let (got, peer) = socket.recv_from(&mut buffer).expect("a datagram");
        let head = buffer[..8].try_into().expect("eight bytes");
        let number = u64::from_be_bytes(head);
        assert!(
            buffer[..got] == datagram(&pattern, number, len),
            "datagram {number} of {got} bytes"
        );
        // Those behind a lost one come again.
        if number > next {
            continue;
        }
        next = next.max(number + 1);
        if ends_window(number, count) {
            socket.send_to(&buffer[..answer], peer).expect("answer");
        }
    }
}

fn ends_window(number: u64, count: u64) -> bool {
    (number + 1).is_multiple_of(WINDOW) || number + 1 == count
}

/// Sends `count` datagrams of `len` bytes, each with its number, and takes an
/// answer of `answer` bytes for every [`WINDOW`] of them; each byte of each is
/// compared, in order.
pub fn datagrams(lab: &Lab, service: Service, count: u64, len: usize, answer: usize) {
    assert!(answer <= len);
    let bind = |netns: &Netns, at: SocketAddr, limit| {
        // A process that another test is just starting has what was closed here
        // until it runs its program.
        let bound = wait::until("the address", DEADLINE, || {
            match netns.run(|| UdpSocket::bind(at)) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(None),
                bound => Ok(Some(bound?)),
            }
        });
        let socket = bound.expect("bind");
        socket.set_read_timeout(Some(limit)).expect("a limit");
        socket
    };
    let server = bind(&lab.backends[0], service.listens(), DEADLINE);
    let serving = thread::spawn(move || serve_datagrams(&server, count, len, answer));
    let own = SocketAddr::new(client(service.vip), 0);
    let socket = bind(&lab.client, own, PATIENCE);
    socket.connect(service.vip).expect("connect");
    let pattern = Pattern::new();
    let mut buffer = vec![0; len + 1];
    for first in (0..count).step_by(WINDOW as usize) {
        let window = first..count.min(first + WINDOW);
        let last = window.end - 1;
        let mut rounds = 0;
        loop {
            for number in window.clone() {
                // One that is too long for what has just been learned of the way.
                let _ = socket.send(&datagram(&pattern, number, len));
            }
            match socket.recv(&mut buffer) {
                Ok(got) => {
                    let head = buffer[..8].try_into().expect("eight bytes");
                    let number = u64::from_be_bytes(head);
                    assert!(
                        buffer[..got] == datagram(&pattern, number, len)[..answer],
                        "answer to datagram {number}, {service:?}"
                    );
                    // One that came late answers a window before.
                    if number == last {
                        break;
                    }
                }
                Err(error) => {
                    rounds += 1;
                    assert!(
                        rounds < MOST_ROUNDS,
                        "{len} bytes, datagrams {window:?}, {service:?}: {error}"
                    );
                }
            }
        }
    }
    serving.join().expect("the server");
}
