// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Relayed connections that reach their backend from the address of their client,
//! in the agent and once the kernel has them.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use gateway_tests::{
    admin,
    backend::echo::Echo,
    checked::{Connection, Plan, Server, Style},
    gateway::{Datapath, Gateway},
    lab::{CLIENT, Lab},
    wait,
};

use crate::{
    detach::traces,
    handoff::{NAME, handed_off},
    handoff_records::{Client, record},
    ipv6,
    scene::{self, backend, passthrough, serve_with, vip},
};

/// Nothing becomes the kernel's.
const RELAYED: &str = "handoff: {mode: off}\n";

/// [`NAME`] passed through to backend 0 from the addresses of clients.
fn from_clients(lab: &Lab) -> String {
    annotated(&passthrough("raw", 443, NAME, &[backend(lab, 0, 7000)]))
}

/// The service of `yaml`, which is to see the addresses of clients.
fn annotated(yaml: &str) -> String {
    yaml.replace(
        "kind: ServiceEntry\nmetadata: {name: raw}",
        "kind: ServiceEntry\nmetadata: {name: raw, annotations: {sluice.dev/source-address: client}}",
    )
}

fn plan(number: u64) -> Plan {
    Plan {
        seed: number + 1,
        style: Style::nth(number),
        bytes: [
            20_000 + (number as u32 * 7919) % 200_000,
            20_000 + (number as u32 * 104_729) % 200_000,
        ],
        pause: if number.is_multiple_of(3) { 20 } else { 0 },
    }
}

/// Runs `count` connections to `address`, eight at a time; all arrive whole.
fn run(lab: &Lab, server: &Server, address: SocketAddr, count: u64) {
    let before = server.good();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|first| {
                scope.spawn(move || {
                    for number in (first..count).step_by(8) {
                        Connection::open(&lab.client, address, NAME, plan(number))
                            .and_then(Connection::run)
                            .unwrap_or_else(|error| panic!("client {number}: {error:#}"));
                    }
                })
            })
            .collect();
        for client in clients {
            if client.join().is_err() {
                panic!("a client failed; servers: {:#?}", server.bad());
            }
        }
    });
    wait::until_true("every server has finished", Duration::from_secs(20), || {
        server.good() == before + count || !server.bad().is_empty()
    })
    .expect("servers finish");
    assert_eq!(server.bad(), Vec::<String>::new());
}

/// Where the connections of `server` came from, without their ports.
fn seen(server: &Server) -> Vec<IpAddr> {
    let mut seen: Vec<IpAddr> = server.clients().iter().map(SocketAddr::ip).collect();
    seen.sort();
    seen.dedup();
    seen
}

/// Connections by whose address they came from.
fn sources(gateway: &Gateway<'_>, address: &str) -> u64 {
    let status = gateway.status().expect("status");
    let count = &status["connections"]["sources"][address];
    count.as_u64().unwrap_or_else(|| panic!("no {address}"))
}

#[test]
fn a_relayed_connection_has_its_clients_address() {
    let Some(lab) = scene::lab() else { return };
    let server = Server::start(&lab, 0, 7000).expect("server");
    let files = [("raw.yaml", from_clients(&lab))];
    let gateway = serve_with(&lab, Datapath::Ebpf, RELAYED, &files);
    run(&lab, &server, vip(&lab, 443), 64);
    assert_eq!(seen(&server), [IpAddr::V4(CLIENT)]);
    assert_eq!(sources(&gateway, "client"), 64);
    assert_eq!(handed_off(&gateway), 0);
    let config = gateway.config_dir();
    let config = config.to_string_lossy();
    let asked = ["explain", &config, "--port", "443", "--sni", NAME];
    let explained = gateway.sluice(&asked).expect("run").stdout;
    let explained = String::from_utf8_lossy(&explained);
    assert!(
        explained.contains("source    the client's address"),
        "{explained}"
    );
    // A packet back that belongs to none of them.
    let traced = gateway
        .sluice(&[
            "trace",
            "--bootstrap",
            &gateway.bootstrap_file().to_string_lossy(),
            "--from",
            &backend(&lab, 0, 7000).to_string(),
            "--to",
            &format!("{CLIENT}:55555"),
        ])
        .expect("run")
        .stdout;
    let traced = String::from_utf8_lossy(&traced);
    assert!(traced.contains("marked 0x1000"), "{traced}");
}

#[test]
fn a_wire_at_xdp_leaves_the_pods_replies_to_tc() {
    let Some(lab) = scene::lab() else { return };
    let server = Server::start(&lab, 0, 7000).expect("server");
    let files = [("raw.yaml", from_clients(&lab))];
    let gateway = serve_with(&lab, Datapath::Ebpf, "attach: xdp-generic\n", &files);
    run(&lab, &server, vip(&lab, 443), 16);
    assert_eq!(seen(&server), [IpAddr::V4(CLIENT)]);
    assert_eq!(sources(&gateway, "client"), 16);
}

#[test]
fn short_connections_are_handed_off_with_it() {
    let Some(lab) = scene::lab() else { return };
    let server = Server::start(&lab, 0, 7000).expect("server");
    let bootstrap = "handoff: {mode: auto, after_bytes: 4096}\n";
    let files = [("raw.yaml", from_clients(&lab))];
    let gateway = serve_with(&lab, Datapath::Ebpf, bootstrap, &files);
    run(&lab, &server, vip(&lab, 443), 200);
    assert_eq!(seen(&server), [IpAddr::V4(CLIENT)]);
    assert_eq!(sources(&gateway, "client"), 200);
    let taken = handed_off(&gateway);
    println!("{taken} of 200 handed off");
    assert!(taken > 20, "{taken} of 200 handed off");
}

#[test]
fn a_handed_off_connection_keeps_it_over_agents() {
    let Some(lab) = scene::lab() else { return };
    let _echo = Echo::start(&lab, 0, 7000, "").expect("echo");
    let bootstrap = "handoff: {mode: auto, after_bytes: 4096}\n";
    let files = [("raw.yaml", from_clients(&lab))];
    let mut gateway = serve_with(&lab, Datapath::Ebpf, bootstrap, &files);
    // Two of one client.
    let mut clients = [Client::open(&lab, NAME), Client::open(&lab, NAME)];
    for client in &mut clients {
        client.rounds(2);
    }
    wait::until_true("both are handed off", Duration::from_secs(10), || {
        handed_off(&gateway) == 2
    })
    .expect("handed off");
    let listed = |gateway: &Gateway<'_>| {
        let flows = gateway.sluice(&["flows", "--kind", "handoff", "--output", "json"]);
        String::from_utf8_lossy(&flows.expect("run").stdout).into_owned()
    };
    let own = format!("{CLIENT}:5");
    assert!(listed(&gateway).contains(&own), "{}", listed(&gateway));
    gateway.kill();
    for client in &mut clients {
        client.rounds(4);
    }
    gateway.start().expect("start again");
    for client in &mut clients {
        client.rounds(4);
    }
    // A third one beside them.
    let mut third = Client::open(&lab, NAME);
    third.rounds(2);
    assert_eq!(sources(&gateway, "client"), 1);
    for client in clients.iter_mut().chain([&mut third]) {
        client.finish();
        let record = record(&mut gateway, client.address);
        assert!(record.contains(" source=\"client\""), "{record}");
        assert!(record.contains(" reason=\"done\""), "{record}");
    }
}

#[test]
fn ipv6_keeps_its_own_and_has_none_towards_ipv4() {
    let Some(lab) = scene::lab() else { return };
    ipv6::dual_stack(&lab);
    let target = SocketAddr::from((ipv6::BACKEND, 7000));
    let server = Server::serve(&lab.backends[0], target).expect("server");
    let mut yaml = annotated(&passthrough("raw", 443, NAME, &[target]))
        .replace(
            &format!("    hosts: [\"{NAME}\"]\n"),
            &format!("    hosts: [\"{NAME}\"]\n    bind: \"{}\"\n", ipv6::VIP),
        )
        .replace(
            &format!("address: {}", ipv6::BACKEND),
            &format!("address: \"{}\"", ipv6::BACKEND),
        );
    let bootstrap = "handoff: {mode: auto, after_bytes: 4096}\n";
    let files = [("raw.yaml", yaml.clone())];
    let gateway = serve_with(&lab, Datapath::Ebpf, bootstrap, &files);
    let vip = SocketAddr::from((ipv6::VIP, 443));
    run(&lab, &server, vip, 64);
    assert_eq!(seen(&server), [IpAddr::V6(ipv6::CLIENT)]);
    assert_eq!(sources(&gateway, "client"), 64);
    assert!(handed_off(&gateway) > 6, "{} of 64", handed_off(&gateway));
    // The same clients, to a backend of IPv4.
    let other = Server::start(&lab, 0, 7000).expect("server");
    let old = format!("address: \"{}\"", ipv6::BACKEND);
    yaml = yaml.replace(&old, &format!("address: {}", lab.backend_address(0)));
    gateway.reload("raw.yaml", &yaml).expect("reload");
    run(&lab, &other, vip, 8);
    assert_eq!(sources(&gateway, "node_family"), 8);
    assert_eq!(seen(&other), [IpAddr::V4([10, 99, 1, 1].into())]);
}

#[test]
fn connections_of_others_through_the_node_go_on() {
    let Some(lab) = scene::lab() else { return };
    let server = Server::start(&lab, 0, 7000).expect("server");
    let _gateway = serve_with(
        &lab,
        Datapath::Ebpf,
        "",
        &[("raw.yaml", from_clients(&lab))],
    );
    run(&lab, &server, vip(&lab, 443), 8);
    // From the same backend to the same client, and to a port that the agent might
    // have taken for its own.
    let at_client = SocketAddr::from((CLIENT, 55_555));
    let strange = Server::serve(&lab.client, at_client).expect("server");
    for number in 0..8 {
        Connection::open(&lab.backends[0], at_client, NAME, plan(number))
            .and_then(Connection::run)
            .expect("the node forwards it");
    }
    // And the other way round, past the gateway's listeners.
    for number in 0..8 {
        Connection::open(&lab.client, backend(&lab, 0, 7000), NAME, plan(number))
            .and_then(Connection::run)
            .expect("the node forwards it");
    }
    wait::until_true("the servers have finished", Duration::from_secs(20), || {
        strange.good() == 8 && server.good() == 16
    })
    .expect("servers finish");
    run(&lab, &server, vip(&lab, 443), 8);
}

#[test]
fn what_cannot_keep_it_comes_from_the_node_and_says_so() {
    let Some(lab) = scene::lab() else { return };
    // A backend on the node itself answers past the programs.
    let address = SocketAddr::from(([10, 99, 1, 1], 7000));
    let server = Server::serve(&lab.gateway, address).expect("server");
    let yaml = annotated(&passthrough("raw", 443, NAME, &[address]));
    let mut gateway = serve_with(&lab, Datapath::Ebpf, "", &[("raw.yaml", yaml)]);
    run(&lab, &server, vip(&lab, 443), 8);
    assert_eq!(sources(&gateway, "node_no_return"), 8);
    let log = gateway.process().expect("it runs").log();
    assert!(log.contains("10.99.1.1 (this node itself)"), "{log}");
    assert!(log.contains(" source=\"node_no_return\""), "{log}");
}

#[test]
fn without_programs_it_comes_from_the_node() {
    let Some(lab) = scene::lab() else { return };
    lab.gateway
        .ip(&format!("addr add {}/32 dev lo", lab.vip()))
        .expect("the VIP");
    let server = Server::start(&lab, 0, 7000).expect("server");
    let files = [("raw.yaml", from_clients(&lab))];
    let mut gateway = serve_with(&lab, Datapath::Userspace, "", &files);
    run(&lab, &server, vip(&lab, 443), 8);
    assert_eq!(sources(&gateway, "node_no_programs"), 8);
    let log = gateway.process().expect("it runs").log();
    assert!(log.contains("that needs the kernel programs"), "{log}");
}

#[test]
fn the_way_of_replies_is_made_once_and_taken_back() {
    let Some(lab) = scene::lab() else { return };
    let before = traces(&lab);
    let server = Server::start(&lab, 0, 7000).expect("server");
    let mut gateway = serve_with(
        &lab,
        Datapath::Ebpf,
        "",
        &[("raw.yaml", from_clients(&lab))],
    );
    let during = traces(&lab);
    assert!(during.contains("fwmark 0x1000 lookup 15151"), "{during}");
    assert!(
        during.contains("local default dev lo table 15151"),
        "{during}"
    );
    // Another agent finds it; so does one with other numbers, which replaces it.
    gateway.kill();
    gateway.start().expect("start again");
    assert_eq!(traces(&lab), during);
    // Somebody flushes what is not theirs.
    lab.gateway
        .ip("rule del pref 151")
        .expect("remove the rule");
    wait::until_true("the rule is back", Duration::from_secs(10), || {
        traces(&lab) == during
    })
    .expect("it is");
    run(&lab, &server, vip(&lab, 443), 8);
    assert_eq!(seen(&server), [IpAddr::V4(CLIENT)]);
    gateway.kill();
    gateway.detach().expect("detach");
    assert_eq!(traces(&lab), before);
}

#[test]
fn numbers_of_others_are_left_alone() {
    let Some(lab) = scene::lab() else { return };
    lab.gateway
        .ip("rule add pref 99 fwmark 0x1000/0xf000 lookup 7")
        .expect("a rule of somebody's");
    let server = Server::start(&lab, 0, 7000).expect("server");
    let files = [("raw.yaml", from_clients(&lab))];
    let mut gateway = serve_with(&lab, Datapath::Ebpf, "", &files);
    run(&lab, &server, vip(&lab, 443), 8);
    assert_eq!(sources(&gateway, "node_no_return"), 8);
    let log = gateway.process().expect("it runs").log();
    let said = "the routing rule 99 has mark 4096: set client_address.mark";
    assert!(log.contains(said), "{log}");
    drop(gateway);
    let bootstrap = "client_address: {mark: 0x20000, table: 77}\n";
    let gateway = serve_with(&lab, Datapath::Ebpf, bootstrap, &files);
    run(&lab, &server, vip(&lab, 443), 8);
    assert_eq!(sources(&gateway, "client"), 8);
}

#[test]
fn a_connection_that_drains_keeps_it_beside_the_next_agent() {
    let Some(lab) = scene::lab() else { return };
    let _echo = Echo::start(&lab, 0, 7000, "").expect("echo");
    let files = [("raw.yaml", from_clients(&lab))];
    let mut gateway = serve_with(&lab, Datapath::Ebpf, RELAYED, &files);
    let mut client = Client::open(&lab, NAME);
    let mut old = gateway.part().expect("it runs");
    old.signal(libc::SIGTERM).expect("signal");
    wait::until_true("it drains", Duration::from_secs(10), || {
        admin::fetch(&lab.gateway, gateway.admin(), "/readyz")
            .is_ok_and(|answer| answer.status == 503)
    })
    .expect("the drain shows");
    gateway.start().expect("the next agent beside it");
    client.rounds(4);
    let mut new = Client::open(&lab, NAME);
    new.rounds(4);
    for client in [&mut client, &mut new] {
        client.finish();
        let record = record(&mut gateway, client.address);
        assert!(record.contains(" source=\"client\""), "{record}");
        assert!(record.contains(" path=\"copy\""), "{record}");
    }
}
