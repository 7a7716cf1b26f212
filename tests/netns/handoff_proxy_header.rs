// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Connections that the agent begins with a PROXY header, and that the kernel
//! takes over: the header is no byte of theirs, and they outlive the agent.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use gateway_tests::{
    backend::{
        announced::{self, Announced},
        nginx,
    },
    checked::{Plan, Server, Style},
    gateway::{Datapath, Gateway},
    lab::{CLIENT, Lab},
    pki::Authority,
    wait,
};

use crate::{
    handoff::{self, NAME},
    handoff_records::{Client, flows, is_about, number, of, record},
    proxy_header::{annotated, sends, v1, v2},
    scene::{self, backend, passthrough, serve_with, tcp, vip},
};

const DEADLINE: Duration = Duration::from_secs(10);
const BOOTSTRAP: &str = "handoff: {mode: auto, after_bytes: 4096}\n";

/// Waits until the kernel has so many connections of a mode.
fn handed_off(gateway: &Gateway<'_>, mode: &str, count: u64) {
    wait::until_true("handed off", DEADLINE, || {
        gateway.closed(mode, "handed_off").ok() == Some(count)
    })
    .expect("handed off");
}

#[test]
fn connections_behind_a_header_are_handed_off_and_outlive_the_agent() {
    let Some(lab) = scene::lab() else { return };
    let servers = [0, 1, 2].map(|index| Announced::start(&lab, index, 7001, "").expect("server"));
    let target = |index| [backend(&lab, index, 7001)];
    let files = [
        (
            "one.yaml",
            passthrough("one", 443, "one.test", &target(0)) + &sends("one", "V1"),
        ),
        (
            "two.yaml",
            annotated(
                &passthrough("two", 443, "two.test", &target(1)),
                "two",
                "v2",
            ),
        ),
        // Every byte of the port goes one way.
        (
            "port.yaml",
            tcp("port", 31_400, &target(2)) + &sends("port", "V2"),
        ),
    ];
    let mut gateway = serve_with(&lab, Datapath::Ebpf, BOOTSTRAP, &files);
    let status = gateway.status().expect("status").to_string();
    assert!(status.contains("proxy-header"), "{status}");

    let mut clients: Vec<(usize, Client)> = (0..3)
        .flat_map(|_| {
            [
                (0, Client::open(&lab, "one.test")),
                (1, Client::open(&lab, "two.test")),
                (2, Client::open_at(&lab, 31_400, "port.test")),
            ]
        })
        .collect();
    for (_, client) in &mut clients {
        client.rounds(3);
    }
    handed_off(&gateway, "passthrough", 6);
    handed_off(&gateway, "forward", 3);
    // The header is before all else, alone, and says it to the bit.
    for (server, client) in &clients {
        let header = servers[*server].of(client.address).expect("its header");
        let expected = match server {
            0 => v1(client.address, vip(&lab, 443)),
            1 => v2(client.address, vip(&lab, 443), Some("two.test")),
            _ => v2(client.address, vip(&lab, 31_400), None),
        };
        assert_eq!(header.bytes, expected, "{header:?}");
    }
    let listed = |gateway: &Gateway<'_>, of: &[&str]| {
        flows(
            gateway,
            &[&["--kind", "handoff", "--state", "active"], of].concat(),
        )
    };
    assert_eq!(listed(&gateway, &["--sni", "one.test"]).len(), 3);
    assert_eq!(listed(&gateway, &["--sni", "two.test"]).len(), 3);
    assert_eq!(listed(&gateway, &[]).len(), 9);
    for (_, client) in &mut clients {
        client.rounds(4);
    }

    gateway.kill();
    for (_, client) in &mut clients {
        client.rounds(4);
    }
    gateway.start().expect("the next agent");
    let all = listed(&gateway, &[]);
    for (server, client) in &mut clients {
        let own = client.address.to_string();
        let flow = all.iter().find(|flow| flow["client"] == own.as_str());
        let flow = flow.expect("it is listed");
        for way in ["bytes_in", "bytes_out"] {
            let bytes = flow[way].as_f64().expect("bytes");
            assert!(
                is_about(bytes, client.payload),
                "{}: {flow}",
                client.payload
            );
        }
        client.rounds(1);
        client.finish();
        let line = record(&mut gateway, client.address);
        let mode = if *server == 2 {
            "forward"
        } else {
            "passthrough"
        };
        for part in [
            "path=\"handoff\"",
            "reason=\"done\"",
            &format!("mode=\"{mode}\""),
        ] {
            assert!(line.contains(part), "no {part} in {line}");
        }
        assert_eq!(of(&mut gateway, client.address).len(), 1);
    }
    // And not one header more.
    for server in &servers {
        assert_eq!(server.headers().len(), 3, "{:?}", server.headers());
    }
}

#[test]
fn bytes_of_the_header_are_not_the_clients() {
    let Some(lab) = scene::lab() else { return };
    let server = Announced::start(&lab, 0, 7001, "").expect("server");
    let yaml = passthrough("one", 443, "one.test", &[backend(&lab, 0, 7001)]) + &sends("one", "V2");
    // One byte more than the client sends and gets: a header counted would reach it.
    let bootstrap = "handoff: {mode: auto, after_bytes: 16995, after_age: null}\n";
    let mut gateway = serve_with(&lab, Datapath::Ebpf, bootstrap, &[("one.yaml", yaml)]);
    let mut client = Client::open(&lab, "one.test");
    client.rounds(1);
    assert_eq!(2 * client.payload, 16_994);
    client.finish();
    let line = record(&mut gateway, client.address);
    assert!(line.contains("path=\"copy\""), "{line}");
    for way in ["bytes_in", "bytes_out"] {
        assert_eq!(number(&line, way), client.payload as f64, "{line}");
    }
    let begun = gateway.metrics().expect("metrics");
    assert_eq!(begun.sum("sluice_handoff_begun_total", &[]), 0.0);
    assert_eq!(server.headers().len(), 1);
}

#[test]
fn connections_of_every_kind_arrive_whole_behind_a_header() {
    let Some(lab) = scene::lab() else { return };
    let ends: Arc<Mutex<Vec<[SocketAddr; 2]>>> = Arc::default();
    let server = |index: usize, version: u8| {
        let ends = Arc::clone(&ends);
        Server::serve_after(
            &lab.backends[index],
            backend(&lab, index, 7000),
            move |stream| {
                let header = announced::read(stream)?;
                anyhow::ensure!(header.version == version, "{header:?}");
                ends.lock()
                    .expect("no thread panics with it")
                    .extend(header.ends);
                Ok(())
            },
        )
        .expect("server")
    };
    let servers = [server(0, 1), server(1, 2)];
    let route = |name: &str, port: u16, index: usize, version: &str| {
        passthrough(name, port, NAME, &[backend(&lab, index, 7000)]) + &sends(name, version)
    };
    let files = [
        ("one.yaml", route("one", 443, 0, "V1")),
        ("two.yaml", route("two", 8443, 1, "V2")),
    ];
    let gateway = serve_with(&lab, Datapath::Ebpf, BOOTSTRAP, &files);
    let count = 200;
    for (server, port) in servers.iter().zip([443, 8443]) {
        let to = (server, vip(&lab, port));
        let taken = handoff::run_to(&lab, &gateway, to, (count, 16), |number| Plan {
            seed: number + 1,
            style: Style::nth(number),
            bytes: [
                20_000 + (number as u32 * 7919) % 200_000,
                20_000 + (number as u32 * 104_729) % 200_000,
            ],
            pause: if number.is_multiple_of(3) { 20 } else { 0 },
        });
        println!("port {port}: {taken} of {count} handed off");
        assert!(taken > count / 10, "{taken} of {count} handed off");
        let mut ends = ends.lock().expect("no thread panics with it");
        assert_eq!(ends.len() as u64, count);
        for [client, destination] in ends.drain(..) {
            assert_eq!((client.ip(), destination), (CLIENT.into(), vip(&lab, port)));
        }
    }
}

/// A TLS client that stays connected.
struct Tls {
    child: Child,
    asks: ChildStdin,
    hears: BufReader<ChildStdout>,
}

impl Tls {
    fn connect(lab: &Lab, authority: &Authority, name: &str) -> Self {
        let mut command: Command = lab.client.command("openssl");
        let mut child = command
            .args([
                "s_client",
                "-quiet",
                "-verify_return_error",
                "-servername",
                name,
            ])
            .args(["-verify_hostname", "nginx.test", "-CAfile"])
            .arg(authority.certificate())
            .args(["-connect", &vip(lab, 443).to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl");
        let asks = child.stdin.take().expect("piped");
        let hears = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, asks, hears }
    }

    /// The value of a field of the page.
    fn get(&mut self, field: &str) -> String {
        self.asks
            .write_all(b"GET / HTTP/1.1\r\nHost: nginx.test\r\n\r\n")
            .expect("ask");
        let mut found = None;
        loop {
            let mut line = String::new();
            let len = self.hears.read_line(&mut line).expect("read");
            assert!(len > 0, "the connection has ended");
            if let Some((key, value)) = line.trim_end().split_once('=') {
                if key == field {
                    found = Some(value.to_owned());
                }
                // The last one of a page.
                if key == "reached" {
                    return found.unwrap_or_else(|| panic!("no {field} in the page"));
                }
            }
        }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn nginx_knows_the_client_of_a_handed_off_connection() {
    let Some(lab) = scene::lab() else { return };
    let authority = Authority::new(lab.dir()).expect("authority");
    let leaf = authority.issue(&["nginx.test"]).expect("issue");
    let at = |port| backend(&lab, 0, port);
    let _nginx = nginx::serve_behind_header(
        &lab,
        &lab.backends[0],
        "headed",
        at(nginx::HTTP),
        (at(nginx::HTTPS), &leaf),
    )
    .expect("nginx");
    let route = |name: &str, version| {
        passthrough(name, 443, &format!("{name}.test"), &[at(nginx::HTTPS)]) + &sends(name, version)
    };
    let files = [
        ("one.yaml", route("one", "V1")),
        ("two.yaml", route("two", "V2")),
    ];
    let mut gateway = serve_with(&lab, Datapath::Ebpf, BOOTSTRAP, &files);
    let names = ["one.test", "two.test"];
    let mut clients = names.map(|name| Tls::connect(&lab, &authority, name));
    for client in &mut clients {
        for _ in 0..16 {
            // The gateway's own end of the link.
            assert_eq!(client.get("peer"), "10.99.1.1");
        }
    }
    handed_off(&gateway, "passthrough", 2);
    let known = |gateway: &Gateway<'_>| -> Vec<String> {
        names
            .map(|name| {
                let found = flows(gateway, &["--sni", name, "--kind", "handoff"]);
                assert_eq!(found.len(), 1, "{name}");
                found[0]["client"].as_str().expect("an address").to_owned()
            })
            .to_vec()
    };
    let addresses = known(&gateway);
    gateway.kill();
    for (client, address) in clients.iter_mut().zip(&addresses) {
        assert_eq!(client.get("client"), *address);
        assert_eq!(client.get("reached"), vip(&lab, 443).to_string());
    }
    gateway.start().expect("the next agent");
    assert_eq!(known(&gateway), addresses);
    for (client, address) in clients.iter_mut().zip(&addresses) {
        assert_eq!(client.get("client"), *address);
    }
}
