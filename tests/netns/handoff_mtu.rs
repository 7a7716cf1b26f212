// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ways that become narrower under a handed-off connection, with nobody but the
//! kernel to say so. A router behind the gateway quotes what the gateway has made
//! of a segment; its sender recognises it, sends shorter ones, and goes on.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use gateway_common::next_hop::NEXT_HOP_NS;
use gateway_tests::{capture::Capture, lab::Lab, netns::Netns};

use crate::{handoff_ends::orphaned_between, ipv6, path_mtu::learned, scene};

const MTU: u32 = 1_300;
/// Bytes in each direction.
const BYTES: usize = 4 << 20;

/// What the two outer links of one family have.
struct Family {
    /// The networks of the client's and the server's link, without their last
    /// part, and how long they are.
    prefixes: [&'static str; 2],
    len: u8,
    /// The lab's own hops there.
    hops: [&'static str; 2],
    forwarding: &'static str,
    vip: IpAddr,
    server: IpAddr,
}

fn v4(lab: &Lab) -> Family {
    Family {
        prefixes: ["10.98.50.", "10.99.50."],
        len: 24,
        hops: ["10.98.0.2", "10.99.1.2"],
        forwarding: "net.ipv4.ip_forward",
        vip: lab.vip().into(),
        server: Ipv4Addr::new(10, 99, 50, 2).into(),
    }
}

fn v6(lab: &Lab) -> Family {
    ipv6::dual_stack(lab);
    Family {
        prefixes: ["fd98:50::", "fd99:50::"],
        len: 64,
        hops: ["fd98::2", "fd99::2"],
        forwarding: "net.ipv6.conf.all.forwarding",
        vip: ipv6::VIP.into(),
        server: Ipv6Addr::new(0xfd99, 0x50, 0, 0, 0, 0, 0, 2).into(),
    }
}

/// A client and a server one hop further away: behind the lab's client is its
/// third backend, behind its first backend the second.
fn with_routers<'lab>(lab: &'lab Lab, family: &Family) -> (&'lab Netns, (&'lab Netns, SocketAddr)) {
    let [first, second, third] = &lab.backends;
    let len = family.len;
    let ends = [(&lab.client, third), (first, second)];
    for ((router, end), (prefix, hop)) in ends
        .into_iter()
        .zip(family.prefixes.iter().zip(family.hops))
    {
        router
            .ip(&format!(
                "link add far type veth peer name near netns {}",
                end.name()
            ))
            .expect("a link");
        let nodad = if len == 64 { "nodad" } else { "" };
        for (netns, command) in [
            (router, format!("addr add {prefix}1/{len} dev far {nodad}")),
            (router, "link set far up".to_owned()),
            (end, format!("addr add {prefix}2/{len} dev near {nodad}")),
            (end, "link set near up".to_owned()),
            (end, format!("route replace default via {prefix}1")),
            (&lab.gateway, format!("route add {prefix}0/{len} via {hop}")),
        ] {
            netns.ip(command.trim_end()).expect("configure");
        }
        router.sysctl(family.forwarding, "1").expect("forward");
    }
    (third, (second, (family.server, 7000).into()))
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

/// Narrows `links`, and checks that either end learns of it by what it sends.
fn learn(lab: &Lab, family: &Family, links: [(&Netns, &str); 2], name: &str) {
    let (client_netns, server) = with_routers(lab, family);
    let (client, server_end, _gateway) = orphaned_between(lab, client_netns, server);
    let _capture = Capture::start(&lab.gateway, name).expect("capture");
    for (netns, link) in links {
        netns
            .ip(&format!("link set {link} mtu {MTU}"))
            .expect("a narrow link");
    }
    // The programs ask the kernel for the way again by then.
    thread::sleep(2 * Duration::from_nanos(NEXT_HOP_NS));
    transfer(&client, &server_end);
    assert_eq!(learned(client_netns, family.vip), Some(MTU));
    transfer(&server_end, &client);
    let seen = server_end.peer_addr().expect("an address").ip();
    assert_eq!(learned(server.0, seen), Some(MTU));
}

#[test]
fn a_way_that_becomes_narrower_beyond_the_gateway_is_found_out() {
    for family in [v4, v6] {
        let Some(lab) = scene::lab() else { return };
        let links = [(&lab.client, "far"), (&lab.backends[0], "far")];
        learn(&lab, &family(&lab), links, "handoff_mtu-router");
    }
}

#[test]
fn a_link_of_the_gateway_that_becomes_narrower_is_found_out() {
    for family in [v4, v6] {
        let Some(lab) = scene::lab() else { return };
        let links = [(&lab.gateway, "wire"), (&lab.gateway, "pod1")];
        learn(&lab, &family(&lab), links, "handoff_mtu-link");
    }
}
