// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `trace` says is what the kernel then does.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
};

use super::{
    lab::{CLIENT, eventually, ip},
    run,
    scene::{Forwarded, Scene, address, forwarded, says, udp},
};
use crate::{
    datapath::{AttachMode, DatapathError, Destination, FlowReport, TraceQuery, detach, trace},
    model::{ForwardingMode, HashPolicy, Transport},
};

fn backends_of_generated_tuples(attach: AttachMode) {
    const TUPLES: u32 = 120;
    let Some(mut scene) = Scene::new(attach) else {
        return;
    };
    let v4 = ["10.2.0.2:53", "10.2.0.3:53", "10.2.0.4:53"];
    let v6 = ["[fd02::2]:53", "[fd02::3]:53", "[fd02::4]:53"];
    let (dnat, snat) = (ForwardingMode::Dnat, ForwardingMode::Snat);
    let by_source = |service| Forwarded {
        policy: HashPolicy::SourceAddress,
        ..service
    };
    scene.apply(&[
        forwarded("10.97.0.1:80", &v4, dnat),
        by_source(forwarded("10.97.0.1:81", &v4, snat)),
        by_source(forwarded("[fd97::1]:80", &v6, dnat)),
        forwarded("[fd97::1]:81", &v6, snat),
    ]);
    let mut dice = fastrand::Rng::with_seed(0x5eed);
    for (vip, is_snat) in [
        ("10.97.0.1:80", false),
        ("10.97.0.1:81", true),
        ("[fd97::1]:80", false),
        ("[fd97::1]:81", true),
    ] {
        let mut taken = BTreeSet::new();
        for number in 0..TUPLES {
            let port = dice.u16(1_024..60_000);
            let to = Destination::new(
                address(vip),
                [Transport::Tcp, Transport::Udp][dice.usize(..2)],
            );
            let ip = if to.address.is_ipv4() {
                IpAddr::from([10, 1, 64 + dice.u8(..64), dice.u8(..)])
            } else {
                let [a, b] = [dice.u16(..), dice.u16(1..)];
                IpAddr::from([0xfd01, 1, 0, 0, 0, 0, a, b])
            };
            let from = SocketAddr::new(ip, port);
            let said = scene.trace(from, to);
            assert!(said.delivered, "{said:?}");
            scene.packets.send((from, to)).expect("a client");
            let flow = scene.flow(from, to);
            assert_eq!(said.backend, Some(flow.backend), "{number}: {said:?}");
            assert_eq!(said.source, Some(flow.source), "{number}: {said:?}");
            assert_eq!(flow.kind, if is_snat { "snat" } else { "dnat" });
            taken.insert(flow.backend);
        }
        assert_eq!(taken.len(), 3, "all backends are used: {taken:?}");
    }
    // What has a flow goes on to its backend, whatever the ring says now.
    scene.apply(&[forwarded("10.97.0.1:80", &v4[..1], dnat)]);
    let flows: Vec<FlowReport> = scene.datapath.flows().collect();
    for flow in flows.iter().filter(|flow| flow.protocol == "udp") {
        let to = Destination::new(flow.destination, Transport::Udp);
        let said = scene.trace(flow.client, to);
        assert!(says(&said, "flow", "goes on to"), "{said:?}");
        assert_eq!(said.backend, Some(flow.backend), "{said:?}");
        let answer = Destination::new(flow.source, Transport::Udp);
        let said = scene.trace(flow.backend, answer);
        let back = format!("an answer, back to {}", flow.client);
        assert!(says(&said, "flow", &back), "{said:?}");
    }
    scene.end();
}

#[test]
fn backends_of_generated_tuples_are_foretold_at_tc() {
    backends_of_generated_tuples(AttachMode::Tc);
}

#[test]
fn backends_of_generated_tuples_are_foretold_at_xdp() {
    backends_of_generated_tuples(AttachMode::XdpGeneric);
}

#[test]
fn what_is_missing_is_said_and_happens() {
    for attach in [AttachMode::Tc, AttachMode::XdpGeneric] {
        let Some(mut scene) = Scene::new(attach) else {
            return;
        };
        let auto = ForwardingMode::Auto;
        // Another network of the backend's host, known by its router.
        ip("route add 10.3.0.0/24 via 10.2.0.2 dev pod0");
        scene.apply(&[
            forwarded("10.97.0.1:1", &[], auto),
            forwarded("10.97.0.1:2", &["10.9.9.9:53"], auto),
            forwarded("10.97.0.1:3", &["10.3.0.1:53"], auto),
            forwarded("10.97.0.1:4", &["10.2.0.77:53"], auto),
            forwarded("10.97.0.1:5", &["10.2.0.2:53"], auto),
            forwarded("[fd97::1]:5", &["[fd02::2]:53"], auto),
        ]);
        let client = |port: u16| format!("{CLIENT}:{port}");

        let said = scene.verdict(&client(4_001), "10.97.0.1:1");
        assert_eq!((said.verdict, said.reason), ("dropped", Some("no_backend")));
        let said = scene.verdict(&client(4_002), "10.97.0.1:2");
        assert_eq!((said.verdict, said.reason), ("dropped", Some("no_route")));
        assert!(says(&said, "backend", "add a route"), "{said:?}");
        let said = scene.verdict(&client(4_003), "10.97.0.1:9");
        assert_eq!((said.verdict, said.delivered), ("passed", false));

        // Nobody has asked for the neighbour yet; nobody will answer.
        let said = scene.verdict(&client(4_004), "10.97.0.1:4");
        assert!(
            said.delivered && says(&said, "neighbour", "not resolved"),
            "{said:?}"
        );
        assert!(says(&said, "mtu", "1500"), "{said:?}");
        let verdict = if attach == AttachMode::Tc {
            "forwarded"
        } else {
            "neighbour_miss"
        };
        assert_eq!(said.verdict, verdict);
        eventually("the neighbour does not answer", || {
            let said = scene.trace(address(&client(4_005)), udp("10.97.0.1:4"));
            !said.delivered && says(&said, "neighbour", "failed")
        });

        // A flow first, so that the router is known.
        let said = scene.verdict(&client(4_006), "10.97.0.1:3");
        assert!(
            said.delivered && says(&said, "route", "router 10.2.0.2"),
            "{said:?}"
        );
        ip("route del 10.3.0.0/24");
        let said = scene.verdict(&client(4_007), "10.97.0.1:3");
        assert_eq!((said.verdict, said.delivered), ("local_delivery", false));
        assert!(says(&said, "route", "none to 10.3.0.1"), "{said:?}");
        ip("route add blackhole 10.3.0.0/24");
        let said = scene.verdict(&client(4_008), "10.97.0.1:3");
        assert_eq!((said.verdict, said.reason), ("dropped", Some("no_route")));
        assert!(says(&said, "route", "blackhole"), "{said:?}");

        ip("link set pod0 mtu 1400");
        let said = scene.verdict(&client(4_009), "10.97.0.1:5");
        assert!(
            said.delivered && says(&said, "mtu", "1400 on the way out"),
            "{said:?}"
        );
        for family in ["ipv4", "ipv6"] {
            let forwarding = format!("/proc/sys/net/{family}/conf/wire0/forwarding");
            fs::write(forwarding, "0").expect("to be set");
        }
        for (from, to) in [
            (client(4_010), "10.97.0.1:5"),
            ("[fd01::2]:4010".to_owned(), "[fd97::1]:5"),
        ] {
            let said = scene.verdict(&from, to);
            assert_eq!((said.verdict, said.reason), ("dropped", Some("no_route")));
            assert!(says(&said, "route", "sysctl off on wire0"), "{said:?}");
        }
        scene.end();
    }
}

#[test]
fn endpoints_that_are_down_and_a_full_table_are_foretold() {
    let Some(mut scene) = Scene::new(AttachMode::Tc) else {
        return;
    };
    let auto = ForwardingMode::Auto;
    let both = ["10.2.0.2:53", "10.2.0.3:53"];
    scene.apply(&[forwarded("10.97.0.1:5", &both, auto)]);
    let from = |port: u32| format!("10.1.64.9:{port}");
    let mut before = BTreeSet::new();
    for port in 5_000..5_030 {
        let said = scene.verdict(&from(port), "10.97.0.1:5");
        before.extend(said.backend);
    }
    assert_eq!(before.len(), 2);
    // One of two is down: the ring is without it.
    scene.apply(&[forwarded("10.97.0.1:5", &both[1..], auto)]);
    for port in 6_000..6_030 {
        let said = scene.verdict(&from(port), "10.97.0.1:5");
        assert_eq!(said.backend, Some(address(both[1])));
        let flow = scene.flow(address(&from(port)), udp("10.97.0.1:5"));
        assert_eq!(flow.backend, address(both[1]));
    }
    // The other too: nothing is left.
    scene.apply(&[forwarded("10.97.0.1:5", &[], auto)]);
    let said = scene.verdict(&from(7_000), "10.97.0.1:5");
    assert_eq!(said.reason, Some("no_backend"));

    scene.apply(&[forwarded("10.97.0.1:5", &both, auto)]);
    while let Some(slot) = scene.datapath.maps.pop_free_slot().expect("to take") {
        let slot = scene.datapath.maps.slots.slot(slot).expect("the slot");
        assert!(slot.change_state(0, 1), "claimed");
    }
    let said = scene.verdict(&from(7_001), "10.97.0.1:5");
    assert_eq!(said.reason, Some("flow_table_full"));
    assert!(says(&said, "limits", "raise limits.max_flows"), "{said:?}");
    scene.end();
}

#[test]
fn steered_ports_need_the_agent_and_interfaces_a_program() {
    let Some(mut scene) = Scene::new(AttachMode::Tc) else {
        return;
    };
    let auto = ForwardingMode::Auto;
    scene.apply(&[forwarded("10.97.0.1:5", &["10.2.0.2:53"], auto)]);
    let https = Destination::from(address("10.97.0.1:443"));
    let client = address(&format!("{CLIENT}:4000"));
    let said = scene.trace(client, https);
    assert_eq!(said.reason, Some("no_socket"), "no socket yet: {said:?}");

    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let sockets = [listener.as_fd()];
    scene.datapath.set_sockets(&sockets).expect("to be set");
    let said = scene.trace(client, https);
    assert_eq!(
        (said.verdict, said.delivered),
        ("steered", true),
        "{said:?}"
    );
    let process = format!("process {}", std::process::id());
    assert!(says(&said, "steer", &process), "{said:?}");
    let connect = || TcpStream::connect(address("10.97.0.1:443")).is_ok();
    assert!(scene.lab.inside("c", connect).join().expect("an answer"));
    let own = scene.trace(address("10.97.0.1:4000"), https);
    assert_eq!(own.verdict, "steered", "the node's own: {own:?}");

    let said = scene.trace(client, udp("192.0.2.1:53"));
    assert!(says(&said, "stack", "not ours"), "{said:?}");
    ip("link add other type veth peer name end");
    ip("link set end up");
    ip("link set other up");
    let query = TraceQuery {
        from: client,
        to: udp("10.97.0.1:5"),
        interface: Some("other".to_owned()),
    };
    let said = trace(&scene.config, &query).expect("to be traced");
    assert!(says(&said, "interface", "other: no program"), "{said:?}");
    assert!(!said.delivered);
    let nowhere = TraceQuery {
        from: address("203.0.113.1:1"),
        interface: None,
        ..query
    };
    let error = trace(&scene.config, &nowhere).expect_err("no way back");
    assert!(error.to_string().contains("--interface"), "{error}");

    // The agent ends: forwarding is as it was, steering is not.
    let Scene {
        datapath,
        config,
        packets,
        lab,
    } = scene;
    drop((datapath, listener));
    let ask = |to| {
        let query = TraceQuery {
            from: client,
            to,
            interface: None,
        };
        trace(&config, &query).expect("to be traced")
    };
    let said = ask(udp("10.97.0.1:5"));
    assert!(said.delivered && said.backend.is_some(), "{said:?}");
    let said = ask(https);
    assert_eq!(said.reason, Some("no_socket"), "{said:?}");
    drop(packets);
    run(detach(&config)).expect("to detach");
    let query = TraceQuery {
        from: client,
        to: https,
        interface: None,
    };
    let error = trace(&config, &query).expect_err("nothing is left");
    assert!(
        matches!(error, DatapathError::NothingPinned { .. }),
        "{error}"
    );
    drop(lab);
}

#[test]
fn a_port_of_a_range_is_found_by_it() {
    let Some(mut scene) = Scene::new(AttachMode::Tc) else {
        return;
    };
    let mut range = forwarded("10.97.0.1:30000", &["10.2.0.2:0"], ForwardingMode::Dnat);
    range.key.last_port = 39_999;
    scene.apply(&[range]);
    let from = address("10.1.0.2:40000");
    let within = scene.trace(from, address("10.97.0.1:34567").into());
    assert!(says(&within, "backend", "10.2.0.2:34567"), "{within:?}");
    let beyond = scene.trace(from, address("10.97.0.1:40000").into());
    assert!(says(&beyond, "service", "not forwarded"), "{beyond:?}");
}
