// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Probes: an endpoint that is down takes no new flow or connection, keeps
//! those it has, and comes back.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use gateway_tests::{
    backend::{
        echo::Echo,
        kafka::{self, packages_dir},
        mosquitto, nginx,
    },
    client::{curl, raw},
    gateway::{Datapath, Gateway},
    lab::Lab,
    pki::Authority,
    wait,
};
use serde_json::Value;

use crate::scene::{self, backend, serve_with, tcp, vip};

/// Long enough for many intervals of the tests on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);
const FAST: &str = "health: {interval: 300ms, timeout: 200ms}\n";

#[test]
fn an_endpoint_that_is_down_keeps_its_flows_and_takes_no_new_one() {
    let Some(lab) = scene::lab() else { return };
    keeps_and_avoids(&lab, Datapath::Ebpf);
}

#[test]
fn userspace_mode_heeds_probes_as_well() {
    let Some(lab) = scene::lab() else { return };
    // VIPs are claimed by the kernel side; without it the node must own them.
    let claim = format!("addr add {}/32 dev lo", lab.vip());
    lab.gateway.ip(&claim).expect("own the VIP");
    keeps_and_avoids(&lab, Datapath::Userspace);
}

fn keeps_and_avoids(lab: &Lab, datapath: Datapath) {
    let _servers = [0, 1].map(|index| echo(lab, index, 7000));
    let mut lamps = [0, 1].map(|index| Some(echo(lab, index, 7001)));
    let yaml = tcp(
        "echo",
        31_400,
        &[0, 1].map(|index| backend(lab, index, 7000)),
    ) + &rule("echo", &[("probe", "tcp"), ("port", "7001")]);
    let gateway = serve_with(lab, datapath, FAST, &[("echo.yaml", yaml)]);
    expect(&gateway, backend(lab, 0, 7001), "up", "passed");
    expect(&gateway, backend(lab, 1, 7001), "up", "passed");

    let mut held: Vec<(String, TcpStream)> = (0..16).map(|_| greeted(lab)).collect();
    assert!(held.iter().any(|(name, _)| name == "0"), "both are used");
    assert!(held.iter().any(|(name, _)| name == "1"), "both are used");

    // Only the port that is probed closes: what keeps new flows away is
    // the verdict.
    let start = Instant::now();
    lamps[0] = None;
    expect(&gateway, backend(lab, 0, 7001), "down", "refused");
    wait_impaired(&gateway, 1);
    println!(
        "{datapath:?}: down {:?} after the endpoint began to refuse (interval 300 ms)",
        start.elapsed()
    );
    for _ in 0..40 {
        assert_eq!(greeted(lab).0, "1", "{datapath:?}");
    }
    for (name, stream) in &mut held {
        assert_eq!(exchange(stream), *b"ping", "{datapath:?}: flow of {name}");
    }

    lamps[0] = Some(echo(lab, 0, 7001));
    expect(&gateway, backend(lab, 0, 7001), "up", "passed");
    wait::until_true("backend 0 is used again", DEADLINE, || {
        greeted(lab).0 == "0"
    })
    .expect("it comes back");
    for (name, stream) in &mut held {
        assert_eq!(exchange(stream), *b"ping", "{datapath:?}: flow of {name}");
    }
    let metrics = gateway.metrics().expect("metrics");
    let turns = |to| metrics.sum("sluice_health_transitions_total", &[("to", to)]);
    assert_eq!((turns("up"), turns("down")), (3.0, 1.0));
    let refused = [("protocol", "tcp"), ("outcome", "refused")];
    assert!(metrics.sum("sluice_health_probes_total", &refused) >= 2.0);
    assert_eq!(metrics.sum("sluice_health_endpoint_up", &[]), 2.0);
}

#[test]
fn a_killed_server_is_left_out_until_it_is_back() {
    let Some(lab) = scene::lab() else { return };
    let mut first = nginx::start(&lab, 0, None).expect("nginx");
    let _second = nginx::start(&lab, 1, None).expect("nginx");
    let yaml = tcp(
        "web",
        8080,
        &[0, 1].map(|index| backend(&lab, index, nginx::HTTP)),
    ) + &rule("web", &[("probe", "http"), ("http-path", "/healthz")]);
    let gateway = serve_with(&lab, Datapath::Ebpf, FAST, &[("web.yaml", yaml)]);
    let server = backend(&lab, 0, nginx::HTTP);
    expect(&gateway, server, "up", "passed");
    first.kill();
    expect(&gateway, server, "down", "refused");
    wait_impaired(&gateway, 1);
    for _ in 0..20 {
        assert_eq!(page(&lab), "backend2");
    }
    let _first = nginx::start(&lab, 0, None).expect("nginx again");
    expect(&gateway, server, "up", "passed");
    wait::until_true("it serves again", DEADLINE, || page(&lab) == "backend1")
        .expect("it comes back");
}

#[test]
fn a_restart_sends_nothing_to_what_is_down() {
    let Some(lab) = scene::lab() else { return };
    let _server = echo(&lab, 1, 7000);
    let yaml = tcp(
        "echo",
        31_400,
        &[0, 1].map(|index| backend(&lab, index, 7000)),
    ) + &rule("echo", &[("probe", "tcp")]);
    let mut gateway = serve_with(&lab, Datapath::Ebpf, FAST, &[("echo.yaml", yaml)]);
    for round in 0..3 {
        for _ in 0..10 {
            assert_eq!(greeted(&lab).0, "1", "round {round}");
        }
        gateway.kill();
        // Without an agent the kernel goes on with the ring it has.
        for _ in 0..10 {
            assert_eq!(greeted(&lab).0, "1", "round {round}, no agent");
        }
        gateway.start().expect("start again");
    }
}

/// Name, where, annotations, verdict, last outcome (empty: any).
type Case<'a> = (
    &'a str,
    SocketAddr,
    &'a [(&'a str, &'a str)],
    &'a str,
    &'a str,
);

#[test]
fn real_servers_pass_their_probe_and_fail_that_of_another_protocol() {
    let Some(lab) = scene::lab() else { return };
    let packages = packages_dir().expect("packages");
    let authority = Authority::new(lab.dir()).expect("authority");
    let leaf = authority.issue(&["web.example.com"]).expect("issue");
    let _nginx = nginx::start(&lab, 0, Some(&leaf)).expect("nginx");
    let _mosquitto = mosquitto::start(&lab, 1, None).expect("mosquitto");
    let _kafka = kafka::start(&lab, 2, "kafka.example.com:9092", &packages).expect("kafka");
    let openssl = |version: &str, port: u16| {
        let mut command = lab.backends[2].command("openssl");
        command
            .args(["s_server", "-accept", &backend(&lab, 2, port).to_string()])
            .args(["-quiet", version, "-cert"])
            .arg(&leaf.certificate)
            .arg("-key")
            .arg(&leaf.key);
        lab.spawn(command, &format!("openssl-{port}"))
            .expect("openssl")
    };
    let _openssl = [openssl("-tls1_2", 4432), openssl("-tls1_3", 4433)];
    // Its kernel accepts, and nobody answers.
    let silent = backend(&lab, 0, 7999);
    let _silent = lab.backends[0].run(|| TcpListener::bind(silent).expect("listen"));

    let web = backend(&lab, 0, nginx::HTTP);
    let web_tls = backend(&lab, 0, nginx::HTTPS);
    let mqtt = backend(&lab, 1, mosquitto::PLAIN);
    let broker = backend(&lab, 2, kafka::PORT);
    let cases: &[Case<'_>] = &[
        ("web", web, &[("probe", "http")], "up", "passed"),
        ("tls", web_tls, &[("probe", "tls")], "up", "passed"),
        (
            "tls12",
            backend(&lab, 2, 4432),
            &[("probe", "tls")],
            "up",
            "passed",
        ),
        (
            "tls13",
            backend(&lab, 2, 4433),
            &[("probe", "tls")],
            "up",
            "passed",
        ),
        ("mqtt", mqtt, &[("probe", "mqtt")], "up", "passed"),
        ("kafka", broker, &[("probe", "kafka")], "up", "passed"),
        (
            "status",
            web,
            &[("probe", "http"), ("http-status", "204")],
            "down",
            "not_serving",
        ),
        ("not-tls", web, &[("probe", "tls")], "down", "bad_answer"),
        ("not-mqtt", web, &[("probe", "mqtt")], "down", "bad_answer"),
        ("not-http", broker, &[("probe", "http")], "down", ""),
        ("not-kafka", mqtt, &[("probe", "kafka")], "down", ""),
        (
            "silent-http",
            silent,
            &[("probe", "http")],
            "down",
            "timeout",
        ),
        ("silent-tls", silent, &[("probe", "tls")], "down", "timeout"),
        (
            "silent-mqtt",
            silent,
            &[("probe", "mqtt")],
            "down",
            "timeout",
        ),
        (
            "silent-kafka",
            silent,
            &[("probe", "kafka")],
            "down",
            "timeout",
        ),
    ];
    let mut files = Vec::new();
    for (number, (name, target, settings, ..)) in (0..).zip(cases) {
        let yaml = tcp(name, 20_000 + number, &[*target]) + &rule(name, settings);
        files.push((format!("{name}.yaml"), yaml));
    }
    let files: Vec<(&str, String)> = files
        .iter()
        .map(|(file, yaml)| (file.as_str(), yaml.clone()))
        .collect();
    let bootstrap = "health: {interval: 500ms, timeout: 400ms}\n";
    let gateway = serve_with(&lab, Datapath::Ebpf, bootstrap, &files);
    for (name, target, settings, verdict, last) in cases {
        let [(_, protocol), ..] = settings else {
            panic!("{name} has no probe");
        };
        let found = wait::until(name, DEADLINE, || {
            let status = gateway.status()?;
            let found = targets(&status)
                .find(|one| {
                    one["address"] == target.to_string()
                        && one["protocol"] == **protocol
                        && (*name != "status" || one["probe"].to_string().contains("204"))
                        && (*name != "web" || !one["probe"].to_string().contains("204"))
                })
                .cloned();
            anyhow::ensure!(found.is_some(), "not probed");
            Ok(found.filter(|one| {
                one["verdict"] == *verdict && (last.is_empty() || one["last"] == *last)
            }))
        });
        if let Err(error) = found {
            panic!("{error:#}: {}", gateway.status().expect("status")["health"]);
        }
    }
}

#[test]
fn with_too_few_up_all_are_used_and_without_panic_none() {
    let Some(lab) = scene::lab() else { return };
    // Nothing listens where probes go, the service itself works.
    let _server = echo(&lab, 0, 7000);
    let yaml = |percent| {
        tcp("echo", 31_400, &[backend(&lab, 0, 7000)])
            + &rule(
                "echo",
                &[
                    ("probe", "tcp"),
                    ("port", "7001"),
                    ("panic-percent", percent),
                ],
            )
    };
    let gateway = serve_with(&lab, Datapath::Ebpf, FAST, &[("echo.yaml", yaml("25"))]);
    expect(&gateway, backend(&lab, 0, 7001), "down", "refused");
    assert_eq!(greeted(&lab).0, "0", "too few are up: it is used");
    let metrics = gateway.metrics().expect("metrics");
    assert_eq!(metrics.sum("sluice_health_panic", &[]), 1.0);
    let text = command(&gateway, &["status"]);
    assert!(text.contains("1 endpoints probed, 0 up, 1 down"), "{text}");
    assert!(text.contains("so few are up that all are used"), "{text}");

    gateway.reload("echo.yaml", &yaml("0")).expect("reload");
    wait::until_true("connections are refused", DEADLINE, || {
        let address = vip(&lab, 31_400);
        lab.client
            .run(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)))
            .is_err()
    })
    .expect("no endpoint is used");
    let metrics = gateway.metrics().expect("metrics");
    assert_eq!(metrics.sum("sluice_health_panic", &[]), 0.0);
}

fn echo(lab: &Lab, index: usize, port: u16) -> Echo {
    Echo::start(lab, index, port, &index.to_string()).expect("echo")
}

/// A DestinationRule for `NAME.internal` with `sluice.dev/health-*` annotations.
fn rule(name: &str, settings: &[(&str, &str)]) -> String {
    let annotations: Vec<String> = settings
        .iter()
        .map(|(key, value)| format!("sluice.dev/health-{key}: \"{value}\""))
        .collect();
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, annotations: {{{}}}}}\nspec: {{host: {name}.internal}}\n",
        annotations.join(", ")
    )
}

fn targets(status: &Value) -> impl Iterator<Item = &Value> {
    status["health"]["targets"].as_array().into_iter().flatten()
}

/// Waits for a verdict on what listens at `address`, and the last outcome.
pub fn expect(gateway: &Gateway<'_>, address: SocketAddr, verdict: &str, last: &str) {
    let found = wait::until(&format!("{address} is {verdict}"), DEADLINE, || {
        let status = gateway.status()?;
        let found = targets(&status).any(|one| {
            one["address"] == address.to_string()
                && one["verdict"] == verdict
                && one["last"] == last
        });
        anyhow::ensure!(found, "{}", status["health"]["targets"]);
        Ok(Some(()))
    });
    found.expect("a verdict");
}

/// Waits until the snapshot in force has so many clusters with an endpoint
/// that is down.
fn wait_impaired(gateway: &Gateway<'_>, count: usize) {
    wait::until_true("the snapshot follows", DEADLINE, || {
        let status = gateway.status().expect("status");
        status["impaired"].as_array().map(Vec::len) == Some(count)
    })
    .expect("impaired clusters");
}

/// A new connection and the name its server greets with.
fn greeted(lab: &Lab) -> (String, TcpStream) {
    let mut stream = raw::connect(&lab.client, vip(lab, 31_400)).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let mut name = [0; 1];
    stream.read_exact(&mut name).expect("a greeting");
    (String::from_utf8_lossy(&name).into_owned(), stream)
}

fn exchange(stream: &mut TcpStream) -> [u8; 4] {
    stream.write_all(b"ping").expect("write");
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("read");
    answer
}

/// Which server answers a request; empty when none does.
fn page(lab: &Lab) -> String {
    let request = curl::Request {
        scheme: "http",
        host: "web.example.com",
        address: lab.vip(),
        port: 8080,
        path: "/",
        authority: None,
        options: &[],
    };
    curl::get(&lab.client, &request)
        .ok()
        .and_then(|answer| answer.field("id").map(str::to_owned))
        .unwrap_or_default()
}

fn command(gateway: &Gateway<'_>, args: &[&str]) -> String {
    let output = gateway.sluice(args).expect("run");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
