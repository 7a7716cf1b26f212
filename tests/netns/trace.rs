// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `sluice trace` as an operator runs it, with the agent and without. That what
//! it says comes true is tested where packets can be sent one by one, in
//! `gateway-user/src/datapath/kernel/tests/trace.rs`.

use std::{net::TcpStream, process::Output, time::Duration};

use gateway_tests::{
    backend::echo::Echo,
    client::raw,
    gateway::{Gateway, binary},
    lab::{CLIENT, Lab},
};
use serde_json::{Value, json};

use crate::scene::{self, backend, passthrough, serve, tcp, vip};

#[test]
fn the_way_of_a_packet_is_told_with_and_without_an_agent() {
    let Some(lab) = scene::lab() else { return };
    let _servers = [0, 1].map(|index| Echo::start(&lab, index, 7000, "").expect("echo"));
    let targets = [0, 1].map(|index| backend(&lab, index, 7000));
    let yaml = tcp("echo", 31_400, &targets) + &tcp("empty", 31_401, &[]);
    let tls = passthrough("raw", 443, "a.example.com", &targets[..1]);
    let mut gateway = serve(&lab, &[("echo.yaml", yaml), ("raw.yaml", tls)]);

    let text = told(&lab, &gateway, 31_400, &[], 0);
    for expected in [
        "  interface: wire: tcx, program id ",
        "  flow: none",
        "  service: 10.97.0.1:31400: id ",
        "  backend: 10.99.",
        "  limits: 0 of ",
        "  translation: dnat: the backend sees the client, 10.98.0.2:4000\n",
        "  route: 10.99.",
        "  neighbour: 10.99.",
        "  mtu: 1500\n",
        "  replies: in by pod",
        "  agent: 10.97.0.1:31400 is a listener of kind forward (",
        "echo.yaml:",
        "  verdict: forwarded, 10.98.0.2:4000 reaches 10.99.",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let text = told(&lab, &gateway, 31_401, &[], 1);
    assert!(text.contains("! verdict: dropped as no_backend"), "{text}");
    let text = told(&lab, &gateway, 443, &[], 0);
    assert!(
        text.contains("kind tls") && text.contains("raw.yaml:"),
        "{text}"
    );
    assert!(text.ends_with("  verdict: steered\n"), "{text}");
    let text = told(&lab, &gateway, 9, &[], 1);
    assert!(
        text.contains("! agent: 10.97.0.1:9 is no listener"),
        "{text}"
    );
    let text = told(&lab, &gateway, 31_400, &["--proto", "udp"], 1);
    assert!(
        text.contains("10.97.0.1:31400/udp: not forwarded"),
        "{text}"
    );
    let usage = gateway.sluice(&["trace", "--from", "10.98.0.2", "--to", "x"]);
    assert_eq!(usage.expect("run").status.code(), Some(2));

    // A connection that is open goes on to its backend.
    let stream = raw::connect(&lab.client, vip(&lab, 31_400)).expect("connect");
    let from = stream.local_addr().expect("an address").to_string();
    let to = gateway.listener(31_400);
    let output = run(
        &gateway,
        &["--from", &from, "--to", &to, "--output", "json"],
    );
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let listed = gateway.sluice(&["flows", "--client", &from]).expect("run");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let backend = report["backend"].as_str().expect("a backend");
    assert!(listed.contains(backend), "{report} {listed}");
    assert_eq!(report["steps"][1]["step"], "flow");
    let goes_on = format!("established: goes on to {backend}");
    let said = report["steps"][1]["text"].as_str().expect("text");
    assert!(said.ends_with(&goes_on), "{report}");

    // The pins outlive the agent, and so does what they say.
    gateway.kill();
    let text = told(&lab, &gateway, 31_400, &[], 0);
    assert!(text.contains("  verdict: forwarded"), "{text}");
    assert!(!text.contains("agent:"), "{text}");
    let text = told(&lab, &gateway, 443, &[], 1);
    assert!(
        text.contains("refused as no_socket; start the agent"),
        "{text}"
    );
    gateway.detach().expect("detach");
    let output = run(&gateway, &["--from", &from, "--to", &to]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("no agent of this version has run here"),
        "{error}"
    );
}

#[test]
fn a_watcher_sees_new_flows_and_drops() {
    let Some(lab) = scene::lab() else { return };
    let _server = Echo::start(&lab, 0, 7000, "").expect("echo");
    let target = backend(&lab, 0, 7000);
    let yaml = tcp("echo", 31_400, &[target]) + &tcp("empty", 31_401, &[]);
    let mut gateway = serve(&lab, &[("echo.yaml", yaml)]);
    // The programs tell also while no agent runs.
    gateway.kill();
    let to = lab.vip().to_string();
    let from = CLIENT.to_string();
    for (port, more, expected) in [
        (
            31_400,
            &[][..],
            json!(["forwarded", null, target.to_string()]),
        ),
        (
            31_401,
            &["--drops-only"],
            json!(["dropped", "no_backend", null]),
        ),
    ] {
        let watch = ["--watch", "--limit", "1", "--output", "json"];
        let ends = ["--from", from.as_str(), "--to", to.as_str()];
        let arguments = [&watch[..], &ends, more].concat();
        let output = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let bootstrap = gateway.bootstrap_file();
                lab.gateway
                    .command("timeout")
                    .arg("20")
                    .arg(binary().expect("an agent"))
                    .args(["trace", "--bootstrap", &bootstrap.to_string_lossy()])
                    .args(&arguments)
                    .output()
                    .expect("run")
            });
            // It ends with the first packet it sees, or by itself.
            while !watcher.is_finished() {
                let _ = lab.client.run(|| {
                    TcpStream::connect_timeout(&vip(&lab, port), Duration::from_millis(50))
                });
            }
            watcher.join().expect("its output")
        });
        assert!(output.status.success(), "{output:?}");
        let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(told["to"], vip(&lab, port).to_string(), "{told}");
        assert_eq!(told["interface"], "wire", "{told}");
        let seen = json!([told["verdict"], told["reason"], told["backend"]]);
        assert_eq!(seen, expected, "{told}");
    }
    let output = run(&gateway, &["--drops-only", "--from", "10.98.0.2:1"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

/// What is said of a client's packet to a port of the VIP, with this exit
/// status.
fn told(lab: &Lab, gateway: &Gateway<'_>, port: u16, more: &[&str], status: i32) -> String {
    let from = format!("{CLIENT}:4000");
    let to = vip(lab, port).to_string();
    let output = run(gateway, &[&["--from", &from, "--to", &to], more].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(status), "{text}{output:?}");
    text
}

fn run(gateway: &Gateway<'_>, arguments: &[&str]) -> Output {
    let bootstrap = gateway.bootstrap_file();
    let bootstrap = bootstrap.to_string_lossy();
    let command = ["trace", "--bootstrap", &bootstrap];
    gateway
        .sluice(&[&command, arguments].concat())
        .expect("run")
}
