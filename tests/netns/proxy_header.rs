// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Backends that are told by a PROXY header who the client is.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::{
    health,
    scene::{self, backend, serve, serve_with, tcp, vip},
};
use gateway_tests::{
    backend::{announced::Announced, nginx},
    client::{
        curl::{self, Request},
        openssl, raw,
    },
    gateway::{Datapath, Gateway},
    lab::{CLIENT, Lab},
    pki::Authority,
    wait,
};

const DEADLINE: Duration = Duration::from_secs(10);

/// A DestinationRule for `NAME.internal` that asks for a header.
pub fn sends(name: &str, version: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\nspec:\n  host: {name}.internal\n  trafficPolicy: {{proxyProtocol: {{version: {version}}}}}\n"
    )
}

/// `yaml` with the annotation that asks for a header on its ServiceEntry.
pub fn annotated(yaml: &str, name: &str, version: &str) -> String {
    let plain = format!("kind: ServiceEntry\nmetadata: {{name: {name}}}");
    assert!(yaml.contains(&plain), "{yaml}");
    let with = format!(
        "kind: ServiceEntry\nmetadata: {{name: {name}, annotations: {{sluice.dev/send-proxy-protocol: {version}}}}}"
    );
    yaml.replace(&plain, &with)
}

/// The line of version 1.
pub fn v1(client: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    format!(
        "PROXY TCP4 {} {} {} {}\r\n",
        client.ip(),
        destination.ip(),
        client.port(),
        destination.port()
    )
    .into_bytes()
}

/// The bytes of version 2 for IPv4, with PP2_TYPE_AUTHORITY.
pub fn v2(client: SocketAddr, destination: SocketAddr, authority: Option<&str>) -> Vec<u8> {
    let mut rest = Vec::new();
    for end in [client, destination] {
        let IpAddr::V4(ip) = end.ip() else {
            panic!("{end} is not IPv4")
        };
        rest.extend(ip.octets());
    }
    rest.extend(client.port().to_be_bytes());
    rest.extend(destination.port().to_be_bytes());
    if let Some(name) = authority {
        rest.push(2);
        rest.extend((name.len() as u16).to_be_bytes());
        rest.extend(name.as_bytes());
    }
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    bytes.extend((rest.len() as u16).to_be_bytes());
    bytes.extend(rest);
    bytes
}

/// Probes every endpoint of `NAME.internal`.
fn probed(yaml: &str, name: &str, probe: &str) -> String {
    let plain = format!("kind: DestinationRule\nmetadata: {{name: {name}}}");
    assert!(yaml.contains(&plain), "{yaml}");
    let with = format!(
        "kind: DestinationRule\nmetadata: {{name: {name}, annotations: {{sluice.dev/health-probe: {probe}, sluice.dev/health-interval: 300ms}}}}"
    );
    yaml.replace(&plain, &with)
}

/// A connection to a port of the VIP that says `asked` and hears it back after
/// `greeting`.
fn speaks(lab: &Lab, port: u16, greeting: &[u8]) -> SocketAddr {
    let mut stream = raw::connect(&lab.client, vip(lab, port)).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    let mut got = vec![0; greeting.len()];
    // Before the client has said anything.
    stream.read_exact(&mut got).expect("the greeting");
    assert_eq!(got, greeting);
    stream.write_all(b"ping").expect("ask");
    let mut got = [0; 4];
    stream.read_exact(&mut got).expect("the answer");
    assert_eq!(&got, b"ping");
    stream.local_addr().expect("its end")
}

fn explained(gateway: &Gateway<'_>, port: u16, host: &str) -> String {
    let config = gateway.config_dir();
    let bootstrap = gateway.bootstrap_file();
    let output = gateway
        .sluice(&[
            "explain",
            "--bootstrap",
            &bootstrap.to_string_lossy(),
            &config.to_string_lossy(),
            "--port",
            &port.to_string(),
            "--host",
            host,
        ])
        .expect("explain");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_forwarded_port_is_relayed_as_long_as_its_backends_expect_a_header() {
    let Some(lab) = scene::lab() else { return };
    let server = Announced::start(&lab, 0, 7000, "220 hello\r\n").expect("server");
    let plain = tcp("port", 31_400, &[backend(&lab, 0, 7000)]);
    let gateway = serve(&lab, &[("port.yaml", plain.clone() + &sends("port", "V1"))]);
    let client = speaks(&lab, 31_400, b"220 hello\r\n");
    let header = server.of(client).expect("its header");
    assert_eq!(header.bytes, v1(client, vip(&lab, 31_400)));
    assert_eq!(gateway.service(31_400).expect("counters").flows, 0);
    let text = explained(&gateway, 31_400, "");
    for part in [
        "forward (by the agent: a backend expects a PROXY header",
        "header    PROXY protocol v1",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let text = gateway.sluice(&["status"]).expect("status");
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("proxy-header"), "{text}");

    // The kernel's again, and back.
    gateway.reload("port.yaml", &plain).expect("reload");
    let relayed = |wanted: bool| {
        wait::until_true("the kernel has heard of it", DEADLINE, || {
            let status = gateway.status();
            status.is_ok_and(|status| status.to_string().contains("proxy-header") == wanted)
        })
        .expect("applied");
    };
    relayed(false);
    assert!(explained(&gateway, 31_400, "").contains("(in the kernel)"));
    let mut stream = raw::connect(&lab.client, vip(&lab, 31_400)).expect("connect");
    stream.write_all(b"no header, certainly").expect("write");
    wait::until_true("it arrives as it is", DEADLINE, || {
        server.headers().iter().any(Result::is_err)
    })
    .expect("seen");
    assert_eq!(gateway.service(31_400).expect("counters").flows, 1);
    let with = annotated(&plain, "port", "v2");
    gateway.reload("port.yaml", &with).expect("reload");
    relayed(true);
    let client = speaks(&lab, 31_400, b"220 hello\r\n");
    let header = server.of(client).expect("its header");
    assert_eq!(header.bytes, v2(client, vip(&lab, 31_400), None));
    let status = gateway.status().expect("status");
    assert_eq!(status["connections"]["opened"], 2, "by the agent");
}

#[test]
fn userspace_mode_sends_headers_as_well() {
    let Some(lab) = scene::lab() else { return };
    let claim = format!("addr add {}/32 dev lo", lab.vip());
    lab.gateway.ip(&claim).expect("own the VIP");
    let server = Announced::start(&lab, 0, 7000, "").expect("server");
    let yaml = tcp("port", 31_400, &[backend(&lab, 0, 7000)]) + &sends("port", "V2");
    let files = [("port.yaml", yaml)];
    let _gateway = serve_with(&lab, Datapath::Userspace, "", &files);
    let client = speaks(&lab, 31_400, b"");
    let header = server.of(client).expect("its header");
    assert_eq!(header.bytes, v2(client, vip(&lab, 31_400), None));
}

#[test]
fn tls_that_ends_here_is_named() {
    let Some(lab) = scene::lab() else { return };
    let server = Announced::start(&lab, 0, 7000, "").expect("server");
    let authority = Authority::new(lab.dir()).expect("authority");
    let leaf = authority.issue(&["term.test"]).expect("issue");
    let secret = leaf.secret("own", "default").expect("secret");
    let tls = "    tls: {mode: SIMPLE, credentialName: own}\n";
    let rule = "  tcp:\n  - route:\n    - destination: {host: term.internal}\n";
    let yaml = scene::gateway("term", 443, "TLS", "term.test", tls)
        + &scene::virtual_service("term", "term.test", rule)
        + &scene::service("term", &[backend(&lab, 0, 7000)])
        + &sends("term", "V2")
        + &secret;
    let _gateway = serve(&lab, &[("term.yaml", yaml)]);
    for (option, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let before = server.headers().len();
        openssl::handshake(&lab.client, lab.vip(), 443, Some("term.test"), &[option])
            .expect("openssl");
        wait::until_true("its header", DEADLINE, || server.headers().len() > before)
            .expect("connected");
        let header = server.headers().pop().expect("one").expect("a header");
        let [client, destination] = header.ends.expect("addresses");
        assert_eq!((client.ip(), destination), (CLIENT.into(), vip(&lab, 443)));
        // PP2_TYPE_SSL: PP2_CLIENT_SSL, nothing verified, PP2_SUBTYPE_SSL_VERSION.
        let tls = [b"\x01\x00\x00\x00\x01\x21\x00\x07", version.as_bytes()].concat();
        let expected = [(0x20, tls), (0x02, b"term.test".to_vec())];
        assert_eq!(header.values, expected);
    }
}

#[test]
fn nginx_learns_the_client_of_every_request_and_answers_probes() {
    let Some(lab) = scene::lab() else { return };
    let authority = Authority::new(lab.dir()).expect("authority");
    let leaf = authority.issue(&["one.test", "two.test"]).expect("issue");
    let at = |port| backend(&lab, 0, port);
    let _nginx = nginx::serve_behind_header(
        &lab,
        &lab.backends[0],
        "headed",
        at(nginx::HTTP),
        (at(nginx::HTTPS), &leaf),
    )
    .expect("nginx");
    let route = |name: &str, port: u16, version: &str| {
        let host = format!("{name}.test");
        let rule = format!("  http:\n  - route:\n    - destination: {{host: {name}.internal}}\n");
        let yaml = scene::gateway(name, port, "HTTP", &host, "")
            + &scene::virtual_service(name, &host, &rule)
            + &scene::service(name, &[at(nginx::HTTP)])
            + &sends(name, version);
        probed(&yaml, name, "http")
    };
    let files = [
        ("one.yaml", route("one", 80, "V1")),
        ("two.yaml", route("two", 8080, "V2")),
    ];
    let gateway = serve(&lab, &files);
    health::expect(&gateway, at(nginx::HTTP), "up", "passed");
    let text = explained(&gateway, 80, "one.test");
    assert!(text.contains("header    PROXY protocol v1"), "{text}");
    for (host, port) in [("one.test", 80), ("two.test", 8080)] {
        let request = Request {
            scheme: "http",
            host,
            address: lab.vip(),
            port,
            path: "/",
            authority: None,
            options: &[],
        };
        let mut clients = Vec::new();
        for _ in 0..3 {
            let answers = curl::repeat(&lab.client, &request, 3).expect("curl");
            for answer in &answers {
                assert_eq!(answer.status, 200);
                assert_eq!(
                    answer.field("reached"),
                    Some(vip(&lab, port).to_string().as_str())
                );
                clients.push(answer.field("client").expect("a client").to_owned());
            }
        }
        // Each connection of a client is known by its own port.
        assert!(
            clients
                .chunks(3)
                .all(|own| own[0] == own[1] && own[1] == own[2]),
            "{clients:?}"
        );
        assert!(
            clients[0] != clients[3] && clients[3] != clients[6],
            "{clients:?}"
        );
        let from = CLIENT.to_string();
        assert!(
            clients.iter().all(|one| one.starts_with(&from)),
            "{clients:?}"
        );
    }
}
