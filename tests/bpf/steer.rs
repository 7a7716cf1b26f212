// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Steering on real sockets: what nobody has bound is answered all the same.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use aya::{
    maps::{HashMap, SockMap},
    programs::SkLookup,
};
use gateway_common::{
    addr::Addr16,
    counters::VerdictCounter,
    drop_reason::DropReason,
    names,
    port_range::RANGES_OF_STEERED,
    steer::{self, SteerKey, SteerValue},
};
use gateway_tests::skip;

use crate::lab::{Hook, Lab, ip, program};

/// For a handshake on loopback, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(10);

fn steer_lab() -> Option<Lab> {
    if !skip::is_root() {
        skip::skipped("loading kernel programs needs root");
        return None;
    }
    let mut lab = Lab::new(Hook::Tc);
    ip("addr add 198.51.100.1/32 dev lo");
    ip("addr add 198.51.100.2/32 dev lo");
    ip("-6 addr add fd97::1/128 dev lo nodad");
    let program: &mut SkLookup = program(&mut lab.ebpf, names::PROG_SK_LOOKUP);
    program
        .attach(File::open("/proc/thread-self/ns/net").unwrap())
        .unwrap();
    Some(lab)
}

fn steer(lab: &mut Lab, addr: Addr16, port: u16, base: u32, count: u32) {
    steer_range(lab, addr, (port, port), base, count);
}

fn steer_range(lab: &mut Lab, addr: Addr16, ports: (u16, u16), base: u32, count: u32) {
    let mut map: HashMap<_, SteerKey, SteerValue> = lab
        .ebpf
        .map_mut(names::MAP_STEER)
        .unwrap()
        .try_into()
        .unwrap();
    let key = SteerKey {
        addr,
        port_be: ports.0.to_be(),
        last_port_be: ports.1.to_be(),
        proto: 6,
        _pad: [0; 3],
    };
    let value = SteerValue {
        socket_base: base,
        socket_count: count,
    };
    map.insert(key, value, 0).unwrap();
}

fn listen(lab: &mut Lab, index: u32, address: &str) -> TcpListener {
    let listener = TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut sockets: SockMap<_> = lab
        .ebpf
        .map_mut(names::MAP_SOCKETS)
        .unwrap()
        .try_into()
        .unwrap();
    sockets.set(index, &listener, 0).unwrap();
    listener
}

fn connect(to: &str) -> Result<TcpStream, ErrorKind> {
    TcpStream::connect_timeout(&to.parse().unwrap(), DEADLINE).map_err(|error| error.kind())
}

/// The listener that has a connection waiting, and the connection.
fn accepted(listeners: &[TcpListener]) -> (usize, TcpStream, SocketAddr) {
    for (index, listener) in listeners.iter().enumerate() {
        if let Ok((stream, peer)) = listener.accept() {
            return (index, stream, peer);
        }
    }
    panic!("no listener has a connection");
}

#[test]
fn a_steered_port_reaches_a_socket_that_never_bound_it() {
    let Some(mut lab) = steer_lab() else { return };
    let listeners = [listen(&mut lab, 0, "127.0.0.1:0")];
    steer(&mut lab, Addr16::from_v4([198, 51, 100, 1]), 443, 0, 1);
    let mut client = connect("198.51.100.1:443").unwrap();
    let (_, mut server, _) = accepted(&listeners);
    assert_eq!(
        server.local_addr().unwrap(),
        "198.51.100.1:443".parse().unwrap()
    );
    server.set_nonblocking(false).unwrap();
    client.write_all(b"hello").unwrap();
    let mut buffer = [0; 5];
    server.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"hello");
    assert_eq!(lab.verdicts(VerdictCounter::Steered), 1);
    // Neighbouring port and address are refused as ever.
    assert_eq!(
        connect("198.51.100.1:444").unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    assert_eq!(
        connect("198.51.100.2:443").unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    assert_eq!(lab.verdicts(VerdictCounter::Dropped), 0);
}

#[test]
fn an_exact_address_goes_before_any() {
    let Some(mut lab) = steer_lab() else { return };
    let listeners = [
        listen(&mut lab, 0, "127.0.0.1:0"),
        listen(&mut lab, 1, "127.0.0.1:0"),
    ];
    steer(&mut lab, Addr16::ANY, 443, 0, 1);
    steer(&mut lab, Addr16::from_v4([198, 51, 100, 2]), 443, 1, 1);
    for (to, socket) in [("198.51.100.1:443", 0), ("198.51.100.2:443", 1)] {
        let _client = connect(to).unwrap();
        assert_eq!(accepted(&listeners).0, socket, "{to}");
    }
}

#[test]
fn connections_spread_over_the_sockets_as_the_hash_says() {
    let Some(mut lab) = steer_lab() else { return };
    let listeners: Vec<_> = (0..4)
        .map(|i| listen(&mut lab, 8 + i, "127.0.0.1:0"))
        .collect();
    steer(&mut lab, Addr16::ANY, 80, 8, 4);
    let mut used = [0; 4];
    for _ in 0..100 {
        let _client = connect("198.51.100.1:80").unwrap();
        let (index, _, peer) = accepted(&listeners);
        let expected = steer::spread(&Addr16::from(peer.ip()), peer.port().to_be(), 4);
        assert_eq!(index as u32, expected);
        used[index] += 1;
    }
    assert!(used.iter().all(|&count| count > 0), "{used:?}");
}

#[test]
fn a_port_goes_before_a_range_and_an_address_before_any() {
    let Some(mut lab) = steer_lab() else { return };
    let listeners: Vec<_> = (0..4).map(|i| listen(&mut lab, i, "127.0.0.1:0")).collect();
    let own = Addr16::from_v4([198, 51, 100, 1]);
    steer_range(&mut lab, Addr16::ANY, (30_000, 39_999), 0, 1);
    steer_range(&mut lab, own, (35_000, 36_000), 1, 1);
    steer(&mut lab, Addr16::ANY, 35_001, 2, 1);
    steer(&mut lab, own, 35_002, 3, 1);
    // Without the setting, ranges are not looked for.
    assert_eq!(
        connect("198.51.100.1:30000").unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    lab.port_ranges(RANGES_OF_STEERED, Addr16::ANY, 6, &[(30_000, 39_999)]);
    lab.port_ranges(RANGES_OF_STEERED, own, 6, &[(35_000, 36_000)]);
    for (to, socket) in [
        ("198.51.100.1:30000", 0),
        ("198.51.100.1:39999", 0),
        ("198.51.100.1:35000", 1),
        ("198.51.100.1:36000", 1),
        ("198.51.100.1:36001", 0),
        ("198.51.100.1:35001", 2),
        ("198.51.100.1:35002", 3),
        ("198.51.100.2:35000", 0),
        ("198.51.100.2:35001", 2),
    ] {
        let _client = connect(to).unwrap();
        let (index, server, _) = accepted(&listeners);
        assert_eq!(index, socket, "{to}");
        assert_eq!(server.local_addr().unwrap().to_string(), to);
    }
    for to in ["198.51.100.1:29999", "198.51.100.2:40000"] {
        assert_eq!(connect(to).unwrap_err(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn ipv6_is_steered_too() {
    let Some(mut lab) = steer_lab() else { return };
    let listeners = [listen(&mut lab, 0, "[::]:0")];
    steer(
        &mut lab,
        Addr16::from("fd97::1".parse::<IpAddr>().unwrap()),
        443,
        0,
        1,
    );
    // The kernel brings the address up behind our back: wait until a port that
    // nobody steers is refused, as on an address of ours.
    let end = Instant::now() + DEADLINE;
    let unserved = "[fd97::1]:444".parse().unwrap();
    while TcpStream::connect_timeout(&unserved, DEADLINE / 50)
        .unwrap_err()
        .kind()
        != ErrorKind::ConnectionRefused
    {
        assert!(Instant::now() < end, "fd97::1 does not come up");
    }
    let _client = connect("[fd97::1]:443").unwrap();
    let (_, server, _) = accepted(&listeners);
    assert_eq!(
        server.local_addr().unwrap(),
        "[fd97::1]:443".parse().unwrap()
    );
    // A socket of both families answers IPv4 as well.
    steer(&mut lab, Addr16::from_v4([198, 51, 100, 1]), 443, 0, 1);
    let _client = connect("198.51.100.1:443").unwrap();
    accepted(&listeners);
}

#[test]
fn without_a_socket_a_steered_port_fails_closed() {
    let Some(mut lab) = steer_lab() else { return };
    // A listener that anybody bound to the port must not answer for us.
    let _bound = TcpListener::bind("198.51.100.1:443").unwrap();
    for (base, count) in [(0, 0), (3, 1), (100_000, 1), (u32::MAX, u32::MAX)] {
        steer(&mut lab, Addr16::ANY, 443, base, count);
        let before = lab.drops(DropReason::NoSocket);
        assert_eq!(
            connect("198.51.100.1:443").unwrap_err(),
            ErrorKind::ConnectionRefused
        );
        assert!(lab.drops(DropReason::NoSocket) > before);
    }
    // A socket that was closed leaves the map by itself.
    drop(listen(&mut lab, 0, "127.0.0.1:0"));
    steer(&mut lab, Addr16::ANY, 443, 0, 1);
    assert_eq!(
        connect("198.51.100.1:443").unwrap_err(),
        ErrorKind::ConnectionRefused
    );
}
