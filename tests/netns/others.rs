// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs of others on the gateway's interfaces: shared with, named, never
//! displaced.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
};

use gateway_tests::{
    admin,
    backend::echo::Echo,
    foreign::Foreign,
    gateway::{Datapath, Gateway},
    lab::Lab,
};
use serde_json::Value;

use crate::{
    forward::assert_echoes,
    scene::{self, backend, serve_with, tcp},
};

fn echo<'lab>(lab: &'lab Lab, bootstrap: &str) -> (Echo, Gateway<'lab>) {
    let echo = Echo::start(lab, 0, 7000, "").expect("echo");
    let yaml = tcp("echo", 31_400, &[backend(lab, 0, 7000)]);
    let gateway = serve_with(lab, Datapath::Ebpf, bootstrap, &[("echo.yaml", yaml)]);
    (echo, gateway)
}

/// What `/status` says of an interface.
fn interface(gateway: &Gateway<'_>, name: &str) -> Value {
    let status = gateway.status().expect("status");
    let all = status["datapath"]["report"]["interfaces"].as_array();
    let found = all.and_then(|all| all.iter().find(|one| one["name"] == name));
    found
        .unwrap_or_else(|| panic!("no {name}: {status}"))
        .clone()
}

/// Packets for the stack of the gateway, which answers with a reset.
fn knock(lab: &Lab) {
    let closed = SocketAddr::from(([10, 98, 0, 1], 9));
    for _ in 0..3 {
        let error = lab.client.run(|| TcpStream::connect(closed));
        let error = error.expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn tcx_programs_of_others_before_and_after_ours_see_packets() {
    let Some(lab) = scene::lab() else { return };
    let first = Foreign::tc("their_first").expect("load");
    let _first = first.link_tcx(&lab.gateway, "wire", true).expect("attach");
    let (_echo, mut gateway) = echo(&lab, "");
    let last = Foreign::tc("their_last").expect("load");
    let _last = last.link_tcx(&lab.gateway, "wire", false).expect("attach");

    assert_echoes(&lab, 1 << 20);
    let (seen, passed_on) = (first.count().expect("count"), last.count().expect("count"));
    assert!(seen > 20, "{seen} packets of the stream");
    knock(&lab);
    assert!(first.count().expect("count") > seen);
    assert!(last.count().expect("count") > passed_on);
    // The stream itself is ours: what we forward goes no further.
    assert!(passed_on < seen, "{passed_on} of {seen}");

    // The next agent takes its own link over and finds both.
    gateway.kill();
    gateway.start().expect("start");
    assert_echoes(&lab, 1 << 20);
    let wire = interface(&gateway, "wire");
    let expected = [
        format!(
            "tcx program their_first (id {}) sees packets before ours",
            first.id().expect("id")
        ),
        format!(
            "tcx program their_last (id {}) sees what ours passes on",
            last.id().expect("id")
        ),
    ];
    assert_eq!(wire["others"], Value::from(expected.to_vec()), "{wire}");
    let log = gateway.process().expect("it runs").log();
    for line in &expected {
        assert!(log.contains(&format!("not alone: {line}")), "{log}");
    }
    let metrics = gateway.metrics().expect("metrics");
    let others = metrics.sum("sluice_interface_other_programs", &[("interface", "wire")]);
    assert_eq!(others, 2.0);
}

#[test]
fn a_filter_of_clsact_sees_what_we_pass_on() {
    let Some(lab) = scene::lab() else { return };
    let filter = Foreign::tc("their_filter").expect("load");
    let pin = lab.bpffs().join("their_filter");
    filter.pin(&pin).expect("pin");
    let tc = |args: &str| {
        let mut command = lab.gateway.command("tc");
        command.args(args.split_whitespace());
        gateway_tests::netns::run(&mut command).expect("tc");
    };
    tc("qdisc add dev wire clsact");
    tc(&format!(
        "filter add dev wire ingress bpf da pinned {}",
        pin.display()
    ));
    let (_echo, gateway) = echo(&lab, "");
    assert_echoes(&lab, 1 << 20);
    let before = filter.count().expect("count");
    knock(&lab);
    assert!(filter.count().expect("count") > before);
    let others = interface(&gateway, "wire")["others"].to_string();
    assert!(others.contains("tc filter their_filter"), "{others}");
    assert!(
        others.contains(&format!("(id {})", filter.id().expect("id"))),
        "{others}"
    );
}

#[test]
fn auto_leaves_xdp_to_who_has_it() {
    let Some(lab) = scene::lab() else { return };
    let other = Foreign::xdp("their_xdp").expect("load");
    let pin = lab.bpffs().join("their_xdp");
    other.pin(&pin).expect("pin");
    let attach = format!("link set dev wire xdpgeneric pinned {}", pin.display());
    lab.gateway.ip(&attach).expect("attach by netlink");
    let (_echo, gateway) = echo(&lab, "attach: auto\n");
    assert_echoes(&lab, 1 << 20);
    assert!(other.count().expect("count") > 20, "it sees the stream");
    let wire = interface(&gateway, "wire");
    assert_eq!(wire["mode"], "tcx", "{wire}");
    let line = format!(
        "XDP program their_xdp (id {}) sees packets first",
        other.id().expect("id")
    );
    assert_eq!(wire["others"], Value::from(vec![line]), "{wire}");
    let links = lab.gateway.ip("link show wire").expect("links");
    assert!(links.contains("xdpgeneric"), "it is still there: {links}");
}

#[test]
fn a_mode_that_is_asked_for_is_refused_where_others_have_xdp() {
    let Some(lab) = scene::lab() else { return };
    let other = Foreign::xdp("their_xdp").expect("load");
    let _link = other.link_xdp(&lab.gateway, "wire").expect("attach");
    for mode in ["xdp-native", "xdp-generic"] {
        let bootstrap = format!("attach: {mode}\n");
        let mut gateway = Gateway::new(&lab, Datapath::Ebpf, &bootstrap).expect("prepare");
        let yaml = tcp("echo", 31_400, &[backend(&lab, 0, 7000)]);
        gateway.write("echo.yaml", &yaml).expect("write");
        let error = format!("{:#}", gateway.start().expect_err("refused"));
        let name = format!("XDP program their_xdp (id {})", other.id().expect("id"));
        assert!(error.contains("attach xdp_ingress to wire"), "{error}");
        assert!(error.contains(&name), "{error}");
        assert!(error.contains("attach: tc"), "{error}");
        gateway.detach().expect("detach");
    }
    let links = lab.gateway.ip("link show wire").expect("links");
    let id = format!("prog/xdp id {}", other.id().expect("id"));
    assert!(links.contains(&id), "it is still there: {links}");
}

#[test]
fn an_interface_tells_its_mode_its_driver_and_its_drops() {
    let Some(lab) = scene::lab() else { return };
    let (_echo, gateway) = echo(&lab, "");
    // A destination without an endpoint: its packets are dropped on arrival.
    let nobody = tcp("nobody", 31_401, &[]);
    gateway.reload("nobody.yaml", &nobody).expect("reload");
    let to = scene::vip(&lab, 31_401);
    lab.client.run(|| {
        let wait = std::time::Duration::from_millis(300);
        let error = TcpStream::connect_timeout(&to, wait).expect_err("nobody is there");
        println!("{error}");
    });
    let wire = interface(&gateway, "wire");
    assert_eq!(wire["driver"], "veth", "{wire}");
    assert!(wire["reason"].to_string().contains("virtual"), "{wire}");
    let drops = wire["drops"]["no_backend"].as_u64().unwrap_or(0);
    assert!(drops > 0, "{wire}");
    let pod = interface(&gateway, "pod1");
    assert_eq!(pod["drops"], Value::Object(serde_json::Map::new()), "{pod}");

    let text = gateway.sluice(&["status", "--admin", &gateway.admin().to_string()]);
    let text = String::from_utf8_lossy(&text.expect("status").stdout).into_owned();
    let line = text.lines().find(|line| line.contains("interface wire"));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    for word in ["wire", "tcx", "driver veth", &format!("drops {drops}")] {
        assert!(line.contains(word), "{line}");
    }
    let metrics = admin::Metrics::parse(
        &admin::fetch(&lab.gateway, gateway.admin(), "/metrics")
            .expect("metrics")
            .body,
    );
    let labels = [("interface", "wire"), ("reason", "no_backend")];
    assert!(metrics.sum("sluice_interface_drops_total", &labels) >= drops as f64);
    let labels = [("interface", "wire"), ("mode", "tcx"), ("driver", "veth")];
    let program = metrics.sum("sluice_interface_program_id", &labels);
    assert_eq!(Some(program as u64), wire["program_id"].as_u64());
}
