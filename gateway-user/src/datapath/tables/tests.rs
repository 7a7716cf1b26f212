// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Expansion of addresses, forwarding modes, and what the agent keeps.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use gateway_common::{
    addr::Addr16,
    backend::{FORWARD_DNAT, FORWARD_SNAT},
};

use super::{Desired, Protection, Reach, Surroundings, Tables, tables};
use crate::{
    datapath::serves::NotInKernel,
    model::{FlowLimits, ForwardingMode, HashPolicy, ListenAddress, Transport},
    snapshot::{BackendTarget, ListenKey, Service},
};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn key(address: &str, port: u16) -> ListenKey {
    let address = match address {
        "*" => ListenAddress::Any,
        text => ListenAddress::Ip(ip(text)),
    };
    ListenKey::tcp(address, port)
}

/// Forwarded listeners with the backend each leads to.
fn desired(services: &[(ListenKey, &str, ForwardingMode)]) -> Desired {
    let mut desired = Desired {
        generation: 3,
        ..Desired::default()
    };
    for (id, (key, backend, forwarding)) in (0..).zip(services) {
        let backend_id = id + 1;
        let target = BackendTarget {
            address: backend.parse().expect("an address"),
            forwarding: *forwarding,
        };
        desired.backends.insert(backend_id, target);
        let service = Service {
            id,
            hash_policy: HashPolicy::SourceAddress,
            forwarding: *forwarding,
            idle_timeout: Some(Duration::from_millis(300)),
            members: [(backend_id, 1)].into(),
            standby: [].into(),
            ring: [backend_id].into(),
            sources: None,
            limits: FlowLimits::default(),
            proxy_header: false,
        };
        desired.services.insert(*key, Arc::new(service));
        desired.listeners.push(*key);
    }
    desired
}

fn around(addresses: &[&str], routes: &[(&str, Reach)]) -> Surroundings {
    Surroundings {
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        routes: routes
            .iter()
            .map(|(text, reach)| (ip(text), *reach))
            .collect(),
        forwarding: ForwardingMode::Auto,
        protection: Protection::default(),
        sockets: 2,
        max_services: 100,
        max_backends: 100,
        ..Surroundings::default()
    }
}

fn out(pod: bool) -> Reach {
    Reach::Out {
        pod,
        source: ip("10.0.0.254"),
        next_hop: (7, ip("10.0.0.254")),
    }
}

fn reasons(tables: &Tables) -> BTreeMap<SocketAddr, NotInKernel> {
    tables
        .proxied
        .iter()
        .map(|p| (p.destination.address, p.reason))
        .collect()
}

#[test]
fn any_address_is_each_address_without_a_listener_of_its_own() {
    let mut desired = desired(&[(key("*", 443), "10.0.0.1:443", ForwardingMode::Auto)]);
    desired.listeners.push(key("10.97.0.2", 443));
    let around = around(&["10.97.0.1", "10.97.0.2"], &[("10.0.0.1", out(false))]);
    let tables = tables(&desired, &around);
    let destinations: Vec<String> = tables.services.keys().map(ToString::to_string).collect();
    assert_eq!(destinations, ["10.97.0.1:443"]);
    // Both are steered as well, for what reaches the stack.
    assert_eq!(tables.steer.len(), 2);
    assert!(tables.steer.values().all(|value| value.socket_count == 2));
}

#[test]
fn auto_is_dnat_through_pods_and_snat_elsewhere() {
    let cases = [
        (
            ForwardingMode::Auto,
            ForwardingMode::Auto,
            true,
            FORWARD_DNAT,
        ),
        (
            ForwardingMode::Auto,
            ForwardingMode::Auto,
            false,
            FORWARD_SNAT,
        ),
        (
            ForwardingMode::Dnat,
            ForwardingMode::Auto,
            false,
            FORWARD_DNAT,
        ),
        (
            ForwardingMode::Snat,
            ForwardingMode::Auto,
            true,
            FORWARD_SNAT,
        ),
        (
            ForwardingMode::Auto,
            ForwardingMode::Dnat,
            false,
            FORWARD_DNAT,
        ),
        (
            ForwardingMode::Snat,
            ForwardingMode::Dnat,
            true,
            FORWARD_SNAT,
        ),
    ];
    for (service, default, pod, expected) in cases {
        let desired = desired(&[(key("10.97.0.1", 80), "10.0.0.1:8080", service)]);
        let mut around = around(&[], &[("10.0.0.1", out(pod))]);
        around.forwarding = default;
        let tables = tables(&desired, &around);
        let backend = tables.backends[&1];
        assert_eq!(
            backend.forwarding, expected,
            "{service:?} {default:?} {pod}"
        );
        assert_eq!(backend.snat_addr, Addr16::from_v4([10, 0, 0, 254]));
        assert_eq!(backend.port_be, 8080u16.to_be());
    }
}

#[test]
fn a_backend_without_a_route_refuses_flows() {
    let desired = desired(&[(key("10.97.0.1", 80), "10.0.0.1:80", ForwardingMode::Auto)]);
    let tables = tables(&desired, &around(&[], &[]));
    assert_eq!(tables.backends[&1].forwarding, 0);
    assert_eq!(tables.services.len(), 1);
}

#[test]
fn what_the_kernel_cannot_forward_is_steered() {
    let auto = ForwardingMode::Auto;
    let desired = desired(&[
        (key("fd97::1", 1), "10.0.0.1:1", auto),
        (key("fd97::1", 6), "[fe80::1]:1", auto),
        (key("fd97::1", 7), "[fd00::1]:1", auto),
        (key("10.97.0.1", 2), "[fd00::1]:1", auto),
        (key("10.97.0.1", 3), "127.0.0.1:1", auto),
        (key("10.97.0.1", 4), "10.0.0.254:1", auto),
        (key("10.97.0.1", 5), "10.0.0.1:1", auto),
    ]);
    let around = around(
        &[],
        &[
            ("10.0.0.1", out(false)),
            ("10.0.0.254", Reach::Local),
            ("fd00::1", out(true)),
        ],
    );
    let tables = tables(&desired, &around);
    let expected = [
        ("[fd97::1]:1", NotInKernel::OtherFamily),
        ("[fd97::1]:6", NotInKernel::LinkLocalBackend),
        ("10.97.0.1:2", NotInKernel::OtherFamily),
        ("10.97.0.1:3", NotInKernel::LoopbackBackend),
        ("10.97.0.1:4", NotInKernel::LocalBackend),
    ]
    .map(|(text, reason)| (text.parse().expect("an address"), reason));
    assert_eq!(reasons(&tables), expected.into());
    assert_eq!(tables.services.len(), 2);
    assert_eq!(tables.steer.len(), 7);
    // Backends of proxied services are not the kernel's.
    assert_eq!(tables.backends.len(), 2);
}

#[test]
fn a_service_whose_backends_expect_a_header_is_the_agents() {
    let auto = ForwardingMode::Auto;
    let mut desired = desired(&[
        (key("10.97.0.1", 1), "10.0.0.1:80", auto),
        (key("10.97.0.1", 2), "10.0.0.2:80", auto),
    ]);
    let first = desired.services.values_mut().next().expect("a service");
    *first = Arc::new(Service {
        proxy_header: true,
        ..Service::clone(first)
    });
    let tables = tables(&desired, &around(&[], &[]));
    let expected = [(
        "10.97.0.1:1".parse().expect("an address"),
        NotInKernel::ProxyHeader,
    )];
    assert_eq!(reasons(&tables), expected.into());
    assert_eq!(tables.services.len(), 1);
    // It is steered as everything is.
    assert_eq!(tables.steer.len(), 2);
    assert_eq!(tables.backends.len(), 1);
}

#[test]
fn full_tables_leave_the_rest_to_the_agent() {
    let auto = ForwardingMode::Auto;
    let desired = desired(&[
        (key("10.97.0.1", 1), "10.0.0.1:1", auto),
        (key("10.97.0.1", 2), "10.0.0.2:1", auto),
        (key("10.97.0.1", 3), "10.0.0.3:1", auto),
    ]);
    let mut around = around(&[], &[]);
    around.max_services = 2;
    let services = reasons(&tables(&desired, &around));
    assert_eq!(
        services.values().collect::<Vec<_>>(),
        [&NotInKernel::ServicesFull]
    );
    around.max_services = 9;
    around.max_backends = 2;
    let backends = reasons(&tables(&desired, &around));
    assert_eq!(
        backends.values().collect::<Vec<_>>(),
        [&NotInKernel::BackendsFull; 2]
    );
}

#[test]
fn a_timeout_below_a_second_is_not_the_default() {
    let desired = desired(&[(key("10.97.0.1", 80), "10.0.0.1:80", ForwardingMode::Auto)]);
    let tables = tables(&desired, &around(&[], &[]));
    let entry = tables.services.values().next().expect("a service");
    assert_eq!(entry.established_timeout_s, 1);
}

#[test]
fn the_nodes_timeouts_hold_where_a_service_sets_none() {
    let auto = ForwardingMode::Auto;
    let mut desired = desired(&[(key("10.97.0.1", 80), "10.0.0.1:80", auto)]);
    let mut seconds = |own: Option<u64>, transport, tcp_s, udp_s| {
        let (mut key, service) = desired.services.pop_first().expect("a service");
        key.transport = transport;
        let service = Service {
            idle_timeout: own.map(Duration::from_secs),
            ..(*service).clone()
        };
        desired.services.insert(key, service.into());
        let mut around = around(&[], &[]);
        around.tcp_idle = Duration::from_secs(tcp_s);
        around.udp_idle = Duration::from_secs(udp_s);
        let tables = tables(&desired, &around);
        let entry = tables.services.values().next().expect("a service");
        entry.established_timeout_s
    };
    assert_eq!(seconds(None, Transport::Tcp, 7_440, 300), 0, "the default");
    assert_eq!(seconds(None, Transport::Udp, 7_440, 300), 0, "the default");
    assert_eq!(seconds(None, Transport::Tcp, 900, 60), 900);
    assert_eq!(seconds(None, Transport::Udp, 900, 60), 60);
    assert_eq!(seconds(Some(5), Transport::Tcp, 900, 60), 5);
    assert_eq!(seconds(Some(7_440), Transport::Udp, 900, 60), 7_440);
}

#[test]
fn a_backend_that_is_down_stays_in_the_table_while_its_service_does() {
    let auto = ForwardingMode::Auto;
    let mut desired = desired(&[(key("10.97.0.1", 80), "10.0.0.1:80", auto)]);
    let down = BackendTarget {
        address: "10.0.0.2:80".parse().expect("an address"),
        forwarding: auto,
    };
    desired.backends.insert(7, down);
    desired.backends.insert(500, down);
    let service = desired.services.values_mut().next().expect("a service");
    // One of them has no place in the table, which keeps no other out.
    Arc::make_mut(service).standby = [7, 500].into();
    let around = around(&[], &[("10.0.0.1", out(true)), ("10.0.0.2", out(true))]);
    let tables = tables(&desired, &around);
    assert!(tables.proxied.is_empty(), "{:?}", tables.proxied);
    assert_eq!(tables.backends.keys().collect::<Vec<_>>(), [&1, &7]);
    assert_eq!(tables.backends[&7].forwarding, FORWARD_DNAT);
    let entry = tables.services.values().next().expect("a service");
    assert_eq!(*entry.ring, [1]);
}

fn range(address: &str, port: u16, last_port: u16) -> ListenKey {
    ListenKey {
        last_port,
        ..key(address, port)
    }
}

#[test]
fn a_range_is_one_entry_at_each_address() {
    let auto = ForwardingMode::Auto;
    let desired = desired(&[(range("*", 30_000, 39_999), "10.0.0.1:0", auto)]);
    let around = around(&["10.97.0.1", "10.97.0.2"], &[("10.0.0.1", out(true))]);
    let tables = tables(&desired, &around);
    let destinations: Vec<String> = tables.services.keys().map(ToString::to_string).collect();
    assert_eq!(
        destinations,
        ["10.97.0.1:30000-39999", "10.97.0.2:30000-39999"]
    );
    assert_eq!((tables.steer.len(), tables.backends.len()), (1, 1));
    assert_eq!(tables.backends[&1].port_be, 0);
}

/// A packet to a port that the kernel does not forward must not be taken for
/// one to the range around it.
#[test]
fn a_range_leaves_out_what_the_agent_serves_within_it() {
    let auto = ForwardingMode::Auto;
    let mut desired = desired(&[
        (range("*", 100, 200), "10.0.0.1:0", auto),
        // Forwarded: found before the range, no need to cut.
        (key("*", 150), "10.0.0.1:150", auto),
        // Proxied: its backend is this node.
        (key("*", 160), "10.0.0.254:160", auto),
    ]);
    // Served by the agent, at any address and at one.
    desired.listeners.push(key("*", 110));
    desired.listeners.push(key("10.97.0.1", 120));
    desired.listeners.push(range("10.97.0.2", 190, 210));
    let around = around(
        &["10.97.0.1", "10.97.0.2"],
        &[("10.0.0.1", out(true)), ("10.0.0.254", Reach::Local)],
    );
    let tables = tables(&desired, &around);
    let destinations: Vec<String> = tables.services.keys().map(ToString::to_string).collect();
    assert_eq!(
        destinations,
        [
            "10.97.0.1:100-109",
            "10.97.0.1:111-119",
            "10.97.0.1:121-159",
            "10.97.0.1:150",
            "10.97.0.1:161-200",
            "10.97.0.2:100-109",
            "10.97.0.2:111-159",
            "10.97.0.2:150",
            "10.97.0.2:161-189",
        ]
    );
}

#[test]
fn ranges_that_find_no_room_are_left_to_the_agent() {
    let auto = ForwardingMode::Auto;
    let mut desired = desired(&[(range("*", 1_000, 2_000), "10.0.0.1:0", auto)]);
    // 34 pieces, of which 32 fit.
    desired
        .listeners
        .extend((0..33).map(|i| key("*", 1_010 + 10 * i)));
    let around = around(&["10.97.0.1"], &[("10.0.0.1", out(true))]);
    let tables = tables(&desired, &around);
    assert_eq!(tables.services.len(), 32);
    let reasons = reasons(&tables);
    assert_eq!(
        reasons.values().collect::<Vec<_>>(),
        [&NotInKernel::RangesFull; 2]
    );
}
