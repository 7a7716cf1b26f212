// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every file of config/examples runs as it is, with the servers its header
//! asks for on the gateway node and a client that comes over the wire.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use gateway_tests::{
    backend::{announced::Announced, echo::Echo, kafka as broker, mosquitto, nginx},
    client::{
        curl::{self, Answer, Request},
        kafka,
        mqtt::{self, Broker, Subscriber},
        openssl,
        raw::{self, End},
    },
    gateway::Gateway,
    lab::Lab,
    pki::Authority,
};

use crate::scene::{self, serve, vip};

/// The files that a test below runs.
const COVERED: &[&str] = &[
    "http-redirect.yaml",
    "https-two-hosts.yaml",
    "kafka.yaml",
    "mqtt.yaml",
    "proxy-protocol.yaml",
    "sni-passthrough.yaml",
    "tcp-echo.yaml",
    "weights.yaml",
];

#[test]
fn every_example_is_run_by_a_test() {
    let mut files: Vec<_> = fs::read_dir(directory())
        .expect("list")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    files.sort();
    assert_eq!(files, COVERED);
}

#[test]
fn tcp_echo_runs() {
    let Some(lab) = scene::lab() else { return };
    let _echo = Echo::serve(&lab.gateway, local(19_000), "").expect("echo");
    let _gateway = run(&lab, "tcp-echo.yaml");
    let mut stream = raw::connect(&lab.client, vip(&lab, 31_400)).expect("connect");
    raw::write_segments(&mut stream, [&b"hello"[..]]).expect("write");
    stream.shutdown(std::net::Shutdown::Write).expect("close");
    let end = raw::read_to_end(&mut stream, std::time::Duration::from_secs(5)).expect("read");
    assert_eq!(end, End::Closed(b"hello".to_vec()));
}

#[test]
fn mqtt_runs() {
    let Some(lab) = scene::lab() else { return };
    let authority = Authority::new(lab.dir()).expect("authority");
    let leaf = authority.issue(&["mqtt.example.com"]).expect("issue");
    let tls = Some((local(18_883), &leaf));
    let _broker = mosquitto::serve(&lab, &lab.gateway, local(11_883), tls).expect("mosquitto");
    let _gateway = run(&lab, "mqtt.yaml");
    let own = authority.certificate();
    let terminated = lab.dir().join("example.crt");
    fs::write(&terminated, certificate_in("mqtt.yaml")).expect("write");
    let address = lab.vip().to_string();
    for (host, port, authority) in [
        (address.as_str(), 1883, None),
        ("mqtt.example.com", 8883, Some(own.as_path())),
        ("iot.example.com", 8883, Some(terminated.as_path())),
    ] {
        let broker = Broker {
            host,
            port,
            authority,
        };
        let name = format!("sub-{host}");
        let mut subscriber = Subscriber::start(&lab, &broker, &name, host).expect(host);
        mqtt::publish(&lab, &broker, host, "hello").expect(host);
        assert_eq!(subscriber.wait_for(1).expect(host), ["hello"]);
    }
}

#[test]
fn proxy_protocol_runs() {
    let Some(lab) = scene::lab() else { return };
    let servers =
        [19_001, 19_002].map(|port| Announced::serve(&lab.gateway, local(port), "").expect("echo"));
    let _gateway = run(&lab, "proxy-protocol.yaml");
    for (server, port, version) in [(&servers[0], 31_401, 1), (&servers[1], 31_402, 2)] {
        let mut stream = raw::connect(&lab.client, vip(&lab, port)).expect("connect");
        raw::write_segments(&mut stream, [&b"hello"[..]]).expect("write");
        stream.shutdown(std::net::Shutdown::Write).expect("close");
        let end = raw::read_to_end(&mut stream, std::time::Duration::from_secs(5)).expect("read");
        assert_eq!(end, End::Closed(b"hello".to_vec()));
        let client = stream.local_addr().expect("its end");
        let header = server.of(client).expect("its header");
        let ends = Some([client, vip(&lab, port)]);
        assert_eq!((header.version, header.ends), (version, ends));
    }
}

#[test]
fn kafka_runs() {
    let Some(lab) = scene::lab() else { return };
    let packages = broker::packages_dir().expect("packages");
    let authority = Authority::new(lab.dir()).expect("authority");
    let bootstrap = "bootstrap.kafka.example.com";
    let names = ["broker-0.kafka.example.com", "broker-1.kafka.example.com"];
    let leaves = names.map(|name| authority.issue(&[name, bootstrap]).expect("issue"));
    let start = |port, advertised: &str| {
        broker::serve(&lab, &lab.gateway, local(port), advertised, &packages).expect("kafka")
    };
    let encrypt = |port, plain, leaf| {
        broker::serve_tls(&lab, &lab.gateway, local(port), local(plain), leaf).expect("socat")
    };
    let plain = format!("{}:9092", lab.vip());
    let _brokers = [
        start(19_092, &plain),
        start(19_093, "broker-0.kafka.example.com:9094"),
        start(29_093, "broker-1.kafka.example.com:9094"),
    ];
    let _encrypted = [
        encrypt(19_094, 19_093, &leaves[0]),
        encrypt(29_094, 29_093, &leaves[1]),
    ];
    let _gateway = run(&lab, "kafka.yaml");
    let listing = kafka::metadata(&lab, &packages, &plain, None).expect("kcat");
    assert!(listing.contains(&plain), "{listing}");
    let certificate = authority.certificate();
    for name in names {
        let url = format!("{name}:9094");
        let listing = kafka::metadata(&lab, &packages, &url, Some(&certificate)).expect(name);
        assert!(listing.contains(&url), "{listing}");
    }
    let served = subject(&lab, 9094, Some(bootstrap)).expect("a certificate");
    assert!(names.iter().any(|name| served.contains(name)), "{served}");
    assert_eq!(subject(&lab, 9094, None), None);
}

#[test]
fn sni_passthrough_runs() {
    let Some(lab) = scene::lab() else { return };
    let authority = Authority::new(lab.dir()).expect("authority");
    let a = authority.issue(&["a.example.com"]).expect("issue");
    let rest = authority.issue(&["*.example.com"]).expect("issue");
    let start = |id, plain, port, leaf| {
        let tls = Some((local(port), leaf));
        nginx::serve(&lab, &lab.gateway, id, local(plain), tls).expect("nginx")
    };
    let _servers = [
        start("a", 18_080, 18_443, &a),
        start("rest", 28_080, 28_443, &rest),
    ];
    let _gateway = run(&lab, "sni-passthrough.yaml");
    let certificate = authority.certificate();
    for (host, id) in [("a.example.com", "a"), ("b.example.com", "rest")] {
        let answer = fetch(&lab, "https", host, 8443, "/", Some(&certificate), &[]).expect(host);
        assert_eq!(
            (answer.status, answer.field("id")),
            (200, Some(id)),
            "{host}"
        );
    }
    assert_eq!(subject(&lab, 8443, Some("example.org")), None);
    assert_eq!(subject(&lab, 8443, None), None);
}

#[test]
fn https_two_hosts_runs() {
    let Some(lab) = scene::lab() else { return };
    let _servers = [web(&lab, "shop", 18_080), web(&lab, "blog", 28_080)];
    let _gateway = run(&lab, "https-two-hosts.yaml");
    for (host, id) in [("shop.example.com", "shop"), ("blog.example.com", "blog")] {
        let subject = subject(&lab, 8443, Some(host)).expect("a certificate");
        assert!(subject.contains(host), "{subject}");
        for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
            let options = ["--insecure", option];
            let answer = fetch(&lab, "https", host, 8443, "/", None, &options).expect(host);
            assert_eq!(
                (answer.status, answer.field("id")),
                (200, Some(id)),
                "{host}"
            );
            assert_eq!(answer.version, version);
        }
    }
}

#[test]
fn http_redirect_runs() {
    let Some(lab) = scene::lab() else { return };
    let _server = web(&lab, "www", 18_080);
    let _gateway = run(&lab, "http-redirect.yaml");
    let get = |host, path| fetch(&lab, "http", host, 8080, path, None, &[]).expect(host);
    let moved = get("shop.example.com", "/cart");
    assert_eq!(moved.status, 301);
    assert!(
        moved.location.starts_with("https://shop.example.com"),
        "{moved:?}"
    );
    assert_eq!(get("www.example.com", "/").field("id"), Some("www"));
    let old = get("www.example.com", "/old/page");
    assert_eq!(old.status, 308);
    assert!(old.location.ends_with("/new"), "{old:?}");
}

#[test]
fn weights_runs() {
    let Some(lab) = scene::lab() else { return };
    let _servers = [web(&lab, "v1", 18_080), web(&lab, "v2", 28_080)];
    let _gateway = run(&lab, "weights.yaml");
    let canary = ["--header", "x-canary: yes"];
    let answer = fetch(&lab, "http", "shop.example.com", 8080, "/", None, &canary).expect("curl");
    assert_eq!(answer.field("id"), Some("v2"));
    let request = request(&lab, "http", "shop.example.com", 8080, "/", None, &[]);
    let answers = curl::repeat(&lab.client, &request, 400).expect("curl");
    let first = answers
        .iter()
        .filter(|answer| answer.field("id") == Some("v1"))
        .count();
    // 320 is expected, six standard deviations are 48.
    assert!((272..=368).contains(&first), "{first} of 400");
}

/// The agent on exactly this file.
fn run<'lab>(lab: &'lab Lab, file: &str) -> Gateway<'lab> {
    let yaml = fs::read_to_string(directory().join(file)).expect("read the example");
    let gateway = serve(lab, &[(file, yaml)]);
    let findings = gateway.status().expect("status")["diagnostics"].to_string();
    assert_eq!(findings, "[]", "{file} is clean");
    gateway
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples")
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn web(lab: &Lab, id: &str, port: u16) -> gateway_tests::process::Process {
    nginx::serve(lab, &lab.gateway, id, local(port), None).expect("nginx")
}

fn subject(lab: &Lab, port: u16, name: Option<&str>) -> Option<String> {
    let handshake = openssl::handshake(&lab.client, lab.vip(), port, name, &[]);
    handshake.expect("openssl").subject
}

fn fetch(
    lab: &Lab,
    scheme: &str,
    host: &str,
    port: u16,
    path: &str,
    authority: Option<&Path>,
    options: &[&str],
) -> anyhow::Result<Answer> {
    curl::get(
        &lab.client,
        &request(lab, scheme, host, port, path, authority, options),
    )
}

fn request<'a>(
    lab: &Lab,
    scheme: &'a str,
    host: &'a str,
    port: u16,
    path: &'a str,
    authority: Option<&'a Path>,
    options: &'a [&'a str],
) -> Request<'a> {
    Request {
        scheme,
        host,
        address: lab.vip(),
        port,
        path,
        authority,
        options,
    }
}

/// The first certificate in an example's Secrets.
fn certificate_in(file: &str) -> String {
    let yaml = fs::read_to_string(directory().join(file)).expect("read the example");
    let mut pem = String::new();
    for line in yaml.lines().map(str::trim) {
        if line.contains("BEGIN CERTIFICATE") || !pem.is_empty() {
            pem.push_str(line);
            pem.push('\n');
        }
        if line.contains("END CERTIFICATE") {
            break;
        }
    }
    pem
}
