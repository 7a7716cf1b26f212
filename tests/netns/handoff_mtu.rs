// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ways that become narrower under a handed-off connection, with nobody but the
//! kernel to say so. A router behind the gateway quotes what the gateway has made
//! of a segment; its sender recognises it, sends shorter ones, and goes on.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
};

use gateway_tests::{capture::Capture, lab::Lab, netns::Netns};

use crate::{handoff_ends::orphaned_between, path_mtu::learned, scene};

const MTU: u32 = 1_300;
/// Bytes in each direction.
const BYTES: usize = 4 << 20;

/// A client and a server one hop further away: behind the lab's client is its
/// third backend, behind its first backend the second.
fn with_routers(lab: &Lab) -> (&Netns, (&Netns, SocketAddr)) {
    let [first, second, third] = &lab.backends;
    let hop = |router: &Netns, end: &Netns, prefix: &str| {
        router
            .ip(&format!(
                "link add far type veth peer name near netns {}",
                end.name()
            ))
            .expect("a link");
        for (netns, command) in [
            (router, format!("addr add {prefix}.1/24 dev far")),
            (router, "link set far up".to_owned()),
            (end, format!("addr add {prefix}.2/24 dev near")),
            (end, "link set near up".to_owned()),
            (end, format!("route replace default via {prefix}.1")),
        ] {
            netns.ip(&command).expect("configure");
        }
        router.sysctl("net.ipv4.ip_forward", "1").expect("forward");
    };
    hop(&lab.client, third, "10.98.50");
    hop(first, second, "10.99.50");
    for route in ["10.98.50.0/24 via 10.98.0.2", "10.99.50.0/24 via 10.99.1.2"] {
        lab.gateway
            .ip(&format!("route add {route}"))
            .expect("a route");
    }
    let server = SocketAddr::from((Ipv4Addr::new(10, 99, 50, 2), 7000));
    (third, (second, server))
}

/// Sends [`BYTES`] from one end to the other and compares them.
fn transfer(from: &TcpStream, to: &TcpStream) {
    let bytes: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
    let mut got = vec![0; BYTES];
    thread::scope(|scope| {
        let (mut from, mut to) = (from, to);
        let writer = scope.spawn({
            let bytes = &bytes;
            move || from.write_all(bytes)
        });
        to.read_exact(&mut got).expect("every byte");
        writer.join().expect("the writer").expect("write");
    });
    assert!(got == bytes, "other bytes than were sent");
}

#[test]
fn a_way_that_becomes_narrower_beyond_the_gateway_is_found_out() {
    let Some(lab) = scene::lab() else { return };
    let (client_netns, server) = with_routers(&lab);
    let (client, server_end, _gateway) = orphaned_between(&lab, client_netns, server);
    let _capture = Capture::start(&lab.gateway, "handoff_mtu-router").expect("capture");
    for router in [&lab.client, &lab.backends[0]] {
        router
            .ip(&format!("link set far mtu {MTU}"))
            .expect("a narrow link");
    }
    transfer(&client, &server_end);
    assert_eq!(learned(client_netns, lab.vip().into()), Some(MTU));
    transfer(&server_end, &client);
    let seen = server_end.peer_addr().expect("an address").ip();
    assert_eq!(learned(server.0, seen), Some(MTU));
}

#[test]
fn a_link_of_the_gateway_that_becomes_narrower_is_found_out() {
    let Some(lab) = scene::lab() else { return };
    let (client_netns, server) = with_routers(&lab);
    let (client, server_end, _gateway) = orphaned_between(&lab, client_netns, server);
    let _capture = Capture::start(&lab.gateway, "handoff_mtu-link").expect("capture");
    for link in ["wire", "pod1"] {
        lab.gateway
            .ip(&format!("link set {link} mtu {MTU}"))
            .expect("a narrow link");
    }
    transfer(&client, &server_end);
    assert_eq!(learned(client_netns, lab.vip().into()), Some(MTU));
    transfer(&server_end, &client);
    let seen = server_end.peer_addr().expect("an address").ip();
    assert_eq!(learned(server.0, seen), Some(MTU));
}
