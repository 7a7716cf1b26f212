// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How handed-off connections end: by a reset or a half-close of either side,
//! after the agent is gone. What one end says, the other hears.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use gateway_tests::{
    client::raw::{End, client_hello, connect, read_to_end, records},
    gateway::Gateway,
    lab::Lab,
    netns::Netns,
    wait,
};
use socket2::SockRef;

use crate::{
    handoff::{NAME, handed_off, with_handoff_to},
    ipv6,
    scene::{self, backend, vip},
};

/// Until the other end must have heard.
const DEADLINE: Duration = Duration::from_secs(20);
/// Bytes of one question and of its answer.
const ROUND: usize = 1_024;

/// Both ends of a connection that the kernel has, its agent killed.
fn orphaned(lab: &Lab) -> (TcpStream, TcpStream, Gateway<'_>) {
    let server = (&lab.backends[0], backend(lab, 0, 7000));
    orphaned_between(lab, &lab.client, server)
}

/// [`orphaned`] between a client and a server elsewhere.
pub fn orphaned_between<'lab>(
    lab: &'lab Lab,
    client: &Netns,
    server: (&Netns, SocketAddr),
) -> (TcpStream, TcpStream, Gateway<'lab>) {
    let mut gateway = with_handoff_to(lab, 4_096, server.1);
    let (mut client, mut server) = handed_over_between(lab, &gateway, client, server);
    gateway.kill();
    exchange(&mut client, &mut server, 8);
    (client, server, gateway)
}

/// Both ends of a new connection that `gateway`, which passes [`NAME`] through to
/// backend 0, has handed over.
pub fn handed_over(lab: &Lab, gateway: &Gateway<'_>) -> (TcpStream, TcpStream) {
    let server = (&lab.backends[0], backend(lab, 0, 7000));
    handed_over_between(lab, gateway, &lab.client, server)
}

fn handed_over_between(
    lab: &Lab,
    gateway: &Gateway<'_>,
    client: &Netns,
    (server, address): (&Netns, SocketAddr),
) -> (TcpStream, TcpStream) {
    let listener = server.run(|| TcpListener::bind(address)).expect("listen");
    let accepted: Receiver<TcpStream> = {
        let (sender, receiver) = channel();
        thread::spawn(move || {
            // The one connection, not those that only look whether it listens.
            for stream in listener.incoming().flatten() {
                let mut hello = [0; 16];
                if (&stream).read_exact(&mut hello).is_ok() {
                    let _ = sender.send(stream);
                    return;
                }
            }
        });
        receiver
    };
    let vip = if address.is_ipv6() {
        SocketAddr::from((ipv6::VIP, 443))
    } else {
        vip(lab, 443)
    };
    let before = handed_off(gateway);
    let mut client = connect(client, vip).expect("connect");
    client.set_read_timeout(Some(DEADLINE)).expect("set");
    let hello = records(&client_hello(Some(NAME), 300), 16_384);
    client.write_all(&hello).expect("send the hello");
    let mut server = accepted.recv_timeout(DEADLINE).expect("a connection");
    server.set_nodelay(true).expect("set");
    server.set_read_timeout(Some(DEADLINE)).expect("set");
    let mut rest = vec![0; hello.len() - 16];
    server.read_exact(&mut rest).expect("the rest of the hello");
    for round in 0..8 {
        exchange(&mut client, &mut server, round);
    }
    wait::until_true("it is handed off", DEADLINE, || {
        handed_off(gateway) == before + 1
    })
    .expect("handed off");
    (client, server)
}

/// One question and its answer.
pub fn exchange(client: &mut TcpStream, server: &mut TcpStream, round: u8) {
    let (from, to) = ([round; ROUND], [!round; ROUND]);
    let mut got = [0; ROUND];
    client.write_all(&from).expect("ask");
    server.read_exact(&mut got).expect("hear");
    assert_eq!(got, from);
    server.write_all(&to).expect("answer");
    client.read_exact(&mut got).expect("an answer");
    assert_eq!(got, to);
}

/// Closes with a reset.
fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("set");
    drop(stream);
}

#[test]
fn a_reset_of_the_client_reaches_the_backend() {
    let Some(lab) = scene::lab() else { return };
    let (client, mut server, _gateway) = orphaned(&lab);
    reset(client);
    assert_eq!(
        read_to_end(&mut server, DEADLINE).expect("read"),
        End::Reset
    );
}

/// The table has the first one for some time after its end.
#[test]
fn a_port_that_is_used_again_at_once_is_handed_off_again() {
    let Some(lab) = scene::lab() else { return };
    let only = "net.ipv4.ip_local_port_range";
    lab.client.sysctl(only, "45000 45000").expect("set");
    let gateway = with_handoff_to(&lab, 4_096, backend(&lab, 0, 7000));
    let (first, mut server) = handed_over(&lab, &gateway);
    let address = first.local_addr().expect("its end");
    reset(first);
    let end = read_to_end(&mut server, DEADLINE).expect("read");
    assert_eq!(end, End::Reset);
    let (mut second, mut server) = handed_over(&lab, &gateway);
    assert_eq!(second.local_addr().expect("its end"), address);
    exchange(&mut second, &mut server, 9);
}

#[test]
fn a_reset_of_the_backend_reaches_the_client() {
    let Some(lab) = scene::lab() else { return };
    let (mut client, server, _gateway) = orphaned(&lab);
    reset(server);
    assert_eq!(
        read_to_end(&mut client, DEADLINE).expect("read"),
        End::Reset
    );
}

#[test]
fn either_side_may_end_first_and_still_hear_the_other() {
    let Some(lab) = scene::lab() else { return };
    let long: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
    for client_first in [true, false] {
        let (client, server, mut gateway) = orphaned(&lab);
        let (mut first, mut second) = if client_first {
            (client, server)
        } else {
            (server, client)
        };
        first.write_all(b"the last word").expect("write");
        first.shutdown(Shutdown::Write).expect("end");
        let heard = read_to_end(&mut second, DEADLINE).expect("read");
        assert_eq!(heard, End::Closed(b"the last word".to_vec()));
        let writer = {
            let long = long.clone();
            thread::spawn(move || {
                second.write_all(&long).expect("write");
                second
            })
        };
        let heard = {
            let mut got = vec![0; long.len()];
            first.read_exact(&mut got).expect("all of it");
            let second = writer.join().expect("the writer");
            drop(second);
            assert!(got == long, "other bytes than were sent");
            read_to_end(&mut first, DEADLINE).expect("read")
        };
        assert_eq!(heard, End::Closed(Vec::new()));
        // Its flow has ended; the next agent finds it so.
        gateway.start().expect("start again");
        let listed = gateway.sluice(&["flows"]).expect("run");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.contains("closing"), "{listed}");
        gateway.terminate(DEADLINE).expect("end");
    }
}
