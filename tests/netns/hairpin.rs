// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Clients on the gateway's own node: a process of the node, a pod, and a
//! backend that calls its own service.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
};

use gateway_tests::netns::Netns;

use crate::{
    ipv6,
    modes::{self, DEADLINE, Service},
    scene,
};

/// A word to the service from `netns`, and its answer: who the server saw.
fn ask(netns: &Netns, lab: &gateway_tests::lab::Lab, service: Service) -> SocketAddr {
    let listener = lab.backends[0]
        .run(|| std::net::TcpListener::bind(service.listens()))
        .expect("listen");
    let server = thread::spawn(move || {
        let (mut stream, peer) = listener.accept().expect("accept");
        let mut word = [0; 4];
        stream.read_exact(&mut word).expect("a word");
        stream.write_all(&word).expect("answer");
        peer
    });
    let mut stream = netns
        .run(|| TcpStream::connect_timeout(&service.vip, DEADLINE))
        .expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    stream.write_all(b"word").expect("send");
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"word");
    server.join().expect("the server")
}

/// A process of the node never comes in by an interface: its connections are
/// steered to the agent, which proxies them.
#[test]
fn a_process_of_the_node_is_served_by_the_agent() {
    let Some(lab) = scene::lab() else { return };
    ipv6::dual_stack(&lab);
    let _decap = modes::answers_itself(&lab);
    let services = modes::services(&lab);
    let gateway = scene::serve(&lab, &[("modes.yaml", modes::yaml(&services))]);
    let served = services.iter().filter(|service| service.mode != "dsr");
    let mut count = 0;
    for service in served {
        ask(&lab.gateway, &lab, *service);
        count += 1;
    }
    scene::expect_closed(&gateway, "forward", "", count);
}

/// Another pod on this node, behind a veth with a program of its own.
#[test]
fn a_pod_of_the_node_is_forwarded_in_the_kernel() {
    let Some(lab) = scene::lab() else { return };
    ipv6::dual_stack(&lab);
    let pod = &lab.backends[1];
    for (netns, command) in [
        (&lab.gateway, "addr add fd9a::1/64 dev pod2 nodad"),
        (pod, "addr add fd9a::2/64 dev eth0 nodad"),
        (pod, "route add default via fd9a::1"),
    ] {
        netns.ip(command).expect("configure IPv6");
    }
    let _decap = modes::answers_itself(&lab);
    let services = modes::services(&lab);
    let gateway = scene::serve(&lab, &[("modes.yaml", modes::yaml(&services))]);
    for service in services {
        let seen = ask(pod, &lab, service);
        let own = ["10.99.2.2".to_owned(), "fd9a::2".to_owned()].contains(&seen.ip().to_string());
        assert_eq!(own, service.mode != "snat", "{service:?}: {seen}");
        let counted = gateway
            .service_at(&service.vip.to_string())
            .expect("counters");
        assert_eq!(counted.flows, 1, "{service:?}");
    }
    assert_eq!(
        gateway.closed("", "").expect("status"),
        0,
        "the agent saw one"
    );
}

/// Its packets must not come back to it from itself.
#[test]
fn a_backend_reaches_itself_through_its_service() {
    let Some(lab) = scene::lab() else { return };
    ipv6::dual_stack(&lab);
    let services = modes::services(&lab);
    let gateway = scene::serve(&lab, &[("modes.yaml", modes::yaml(&services))]);
    // With direct return the VIP is the backend's own address, and its calls
    // do not leave it.
    for service in services.into_iter().filter(|one| one.mode != "dsr") {
        let seen = ask(&lab.backends[0], &lab, service);
        assert_ne!(seen.ip(), service.backend.ip(), "{service:?}");
        let counted = gateway
            .service_at(&service.vip.to_string())
            .expect("counters");
        assert_eq!(counted.flows, 1, "{service:?}");
    }
}
