// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ICMP errors of real hosts, through the gateway to those they concern.

use std::{fs, io::ErrorKind, net::UdpSocket};

use gateway_common::flow::PROTOCOL_UDP;
use gateway_tests::offload;

use crate::{
    lab::{Hook, Lab, at_both_hooks, ip},
    live::{DEADLINE, Host, hosts, transfer},
    packet::{FAMILIES, at},
};

fn serve(lab: &mut Lab, protocol: u8, vip: &str, target: &str, snat: bool) {
    if snat {
        lab.snat_backend(1, at(target));
    } else {
        lab.dnat_backend(1, at(target));
    }
    lab.service_of(protocol, at(vip), &[1], |_| {});
}

fn cases() -> impl Iterator<Item = (bool, [&'static str; 3])> {
    [false, true]
        .into_iter()
        .flat_map(|snat| FAMILIES.map(|family| (snat, family)))
}

/// Nobody listens: the backend's stack says so, about a packet it got from here.
#[test]
fn a_refused_datagram_is_refused_to_the_client() {
    for (snat, [_, vip, target]) in cases() {
        at_both_hooks(|lab| {
            let (client, _backend) = hosts(lab);
            serve(lab, PROTOCOL_UDP, vip, target, snat);
            let error = client.run(move || {
                let any = if at(vip).is_ipv4() {
                    "0.0.0.0:0"
                } else {
                    "[::]:0"
                };
                let socket = UdpSocket::bind(any).unwrap();
                socket.set_read_timeout(Some(DEADLINE)).unwrap();
                socket.connect(at(vip)).unwrap();
                socket.send(b"anybody?").unwrap();
                socket.recv(&mut [0; 16]).unwrap_err().kind()
            });
            assert_eq!(error, ErrorKind::ConnectionRefused);
            assert_eq!(lab.all_drops(), 0);
        });
    }
}

/// The client is behind a link that takes 1,400 bytes, and does not know. The
/// router tells the service's address, and so the backend, to send less; it did
/// not, and nothing longer would arrive.
#[test]
fn path_mtu_discovery_reaches_the_backend() {
    for (snat, [_, vip, target]) in cases() {
        at_both_hooks(|lab| {
            let (router, backend) = hosts(lab);
            ip("route add 198.18.9.0/24 via 192.0.2.2");
            ip("route add 2001:db8:9::/64 via 2001:db8::2");
            let client = behind(&router, lab.hook);
            serve(lab, 6, vip, target, snat);
            transfer(&client, &backend, at(vip), at(target));
            let told = backend.run(move || too_big_messages(at(vip).is_ipv6()));
            assert!(told > 0, "nobody told the backend");
            assert_eq!(lab.service_stats().flows, 1);
        });
    }
}

/// A host behind `router`, over a link that takes 1,400 bytes towards it; the
/// host does not know.
fn behind(router: &Host, hook: Hook) -> Host {
    let host = Host::new();
    let thread_id = host.thread_id;
    let enable_ipv6 = |interface: &str| {
        let file = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
        fs::write(file, "0").unwrap();
    };
    router.run(move || {
        ip("link add near type veth peer name far");
        ip(&format!("link set far netns {thread_id}"));
        enable_ipv6("near");
        ip("addr add 198.18.9.1/24 dev near");
        ip("addr add 2001:db8:9::1/64 dev near nodad");
        ip("link set near up");
        // Of the routes, not of the link: that would lose what is longer on its
        // way in.
        ip("route add 198.18.9.2/32 dev near mtu 1400");
        ip("route add 2001:db8:9::2/128 dev near mtu 1400");
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            fs::write(format!("/proc/sys/net/{key}"), "1").unwrap();
        }
    });
    host.run(move || {
        enable_ipv6("far");
        ip("addr add 198.18.9.2/24 dev far");
        ip("addr add 2001:db8:9::2/64 dev far nodad");
        ip("link set far up");
        ip("route add default via 198.18.9.1");
        ip("route add default via 2001:db8:9::1");
        if hook == Hook::Xdp {
            // What the host sends reaches XDP as the router forwards it.
            offload::like_a_wire("far").unwrap();
        }
    });
    host
}

/// "Too big" messages that this thread's host has got, as far as it counts them.
fn too_big_messages(is_v6: bool) -> u64 {
    if is_v6 {
        let counters = fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
        let mut lines = counters.lines();
        let line = lines.find(|line| line.starts_with("Icmp6InPktTooBigs"));
        return line
            .and_then(|line| line.split_whitespace().last())
            .map_or(0, |value| value.parse().unwrap());
    }
    let counters = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = counters.lines().filter(|line| line.starts_with("Icmp:"));
    let names = lines.next().unwrap().split(' ');
    let mut columns = names.zip(lines.next().unwrap().split(' '));
    let found = columns.find(|(name, _)| *name == "InDestUnreachs");
    found.map_or(0, |(_, value)| value.parse().unwrap())
}
