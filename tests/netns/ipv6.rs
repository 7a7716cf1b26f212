// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A TCP service of IPv6, forwarded in the kernel.

use std::{
    io::Write,
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr},
    time::Duration,
};

use gateway_tests::{
    admin,
    backend::echo::Echo,
    client::raw::{self, End},
    gateway::Datapath,
    lab::Lab,
};
use serde_json::Value;

use crate::scene;

pub const VIP: Ipv6Addr = Ipv6Addr::new(0xfd97, 0, 0, 0, 0, 0, 0, 1);
pub const CLIENT: Ipv6Addr = Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 2);
pub const BACKEND: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 2);

/// Adds addresses and routes of IPv6 to the client's link and to that of the
/// first backend. Forwarding is left to the agent.
pub fn dual_stack(lab: &Lab) {
    let [backend, ..] = &lab.backends;
    for (netns, command) in [
        (
            &lab.gateway,
            "addr add fd98::1/64 dev wire nodad".to_owned(),
        ),
        (
            &lab.gateway,
            "addr add fd99::1/64 dev pod1 nodad".to_owned(),
        ),
        (&lab.gateway, format!("addr add {VIP}/128 dev lo nodad")),
        (&lab.client, format!("addr add {CLIENT}/64 dev eth0 nodad")),
        (&lab.client, "route add default via fd98::1".to_owned()),
        (backend, format!("addr add {BACKEND}/64 dev eth0 nodad")),
        (backend, "route add default via fd99::1".to_owned()),
    ] {
        netns.ip(&command).expect("configure IPv6");
    }
}

/// A forwarded port of [`VIP`] with one endpoint.
pub fn tcp(port: u16, target: SocketAddr) -> String {
    bound(&scene::tcp("echo", port, &[target]), "*")
}

/// A Gateway of `host`, and what belongs to it, at [`VIP`].
pub fn bound(yaml: &str, host: &str) -> String {
    let hosts = format!("    hosts: [\"{host}\"]\n");
    yaml.replace(&hosts, &format!("{hosts}    bind: \"{VIP}\"\n"))
}

#[test]
fn ipv6_is_forwarded_in_the_kernel() {
    for mode in ["dnat", "snat"] {
        let Some(lab) = scene::lab() else { return };
        dual_stack(&lab);
        let target = SocketAddr::from((BACKEND, 7000));
        let _echo = Echo::serve(&lab.backends[0], target, "").expect("echo");
        let yaml = tcp(31_400, target);
        let gateway = scene::serve_with(
            &lab,
            Datapath::Ebpf,
            &format!("forwarding: {mode}\n"),
            &[("echo.yaml", yaml)],
        );
        let status = gateway.status().expect("status");
        assert_eq!(
            status["datapath"]["report"]["proxied"]
                .as_array()
                .map(Vec::len),
            Some(0),
            "{status}"
        );

        let mut stream =
            raw::connect(&lab.client, SocketAddr::from((VIP, 31_400))).expect("connect");
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n * 7 / 3) as u8).collect();
        let mut sender = stream.try_clone().expect("clone");
        let sent = bytes.clone();
        let sending = std::thread::spawn(move || {
            sender.write_all(&sent).expect("write");
            sender.shutdown(Shutdown::Write).expect("close");
        });
        match raw::read_to_end(&mut stream, Duration::from_secs(10)).expect("read") {
            End::Closed(got) => assert!(got == bytes, "{} bytes came back", got.len()),
            other => panic!("the connection did not end: {other:?}"),
        }
        sending.join().expect("sending");

        let answer = admin::fetch(&lab.gateway, gateway.admin(), "/flows").expect("flows");
        let flows: Value = serde_json::from_str(&answer.body).expect("JSON");
        let flow = &flows["flows"][0];
        assert_eq!(flow["kind"], mode, "{flows}");
        let source: SocketAddr = flow["source"]
            .as_str()
            .and_then(|s| s.parse().ok())
            .expect("a source");
        let client = source.ip() == IpAddr::from(CLIENT);
        assert_eq!(client, mode == "dnat", "{flows}");
        assert_eq!(
            gateway.closed("", "").expect("status"),
            0,
            "the agent saw one"
        );
    }
}
