// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SNI passthrough and termination side by side on one port.

use gateway_tests::{
    backend::{mosquitto, nginx},
    client::{
        curl,
        mqtt::{self, Broker, Subscriber},
        openssl,
    },
    pki::Authority,
};

use crate::scene::{self, backend, gateway, passthrough, serve, service, virtual_service};

#[test]
fn mqtt_over_tls_is_passed_through_by_its_name() {
    let Some(lab) = scene::lab() else { return };
    let authority = Authority::new(lab.dir()).expect("authority");
    let leaf = authority.issue(&["mqtt.example.com"]).expect("issue");
    let _mosquitto = mosquitto::start(&lab, 0, Some(&leaf)).expect("mosquitto");
    let yaml = passthrough(
        "mqtt",
        8883,
        "mqtt.example.com",
        &[backend(&lab, 0, mosquitto::TLS)],
    );
    let gateway = serve(&lab, &[("mqtt.yaml", yaml)]);
    let certificate = authority.certificate();
    let broker = Broker {
        host: "mqtt.example.com",
        port: 8883,
        authority: Some(&certificate),
    };
    let mut subscriber = Subscriber::start(&lab, &broker, "sub", "t").expect("subscribe");
    mqtt::publish(&lab, &broker, "t", "hello").expect("publish");
    assert_eq!(subscriber.wait_for(1).expect("message"), ["hello"]);
    scene::expect_closed(&gateway, "passthrough", "", 1);
}

#[test]
fn one_port_passes_through_terminates_to_tcp_and_terminates_to_http() {
    let Some(lab) = scene::lab() else { return };
    let authority = Authority::new(lab.dir()).expect("authority");
    let issue = |name: &str| authority.issue(&[name]).expect("issue");
    let own = issue("raw.example.com");
    let _raw = nginx::start(&lab, 0, Some(&own)).expect("nginx");
    let _plain = nginx::start(&lab, 1, None).expect("nginx");
    let mut yaml = passthrough(
        "raw",
        443,
        "raw.example.com",
        &[backend(&lab, 0, nginx::HTTPS)],
    );
    let simple = |secret: &str| format!("    tls: {{mode: SIMPLE, credentialName: {secret}}}\n");
    yaml += &gateway("web", 443, "HTTPS", "web.example.com", &simple("web-cert"));
    yaml += &virtual_service(
        "web",
        "web.example.com",
        "  http:\n  - route:\n    - destination: {host: web.internal}\n",
    );
    yaml += &service("web", &[backend(&lab, 1, nginx::HTTP)]);
    yaml += &gateway("tcp", 443, "TLS", "tcp.example.com", &simple("tcp-cert"));
    yaml += &virtual_service(
        "tcp",
        "tcp.example.com",
        "  tcp:\n  - route:\n    - destination: {host: web.internal}\n",
    );
    yaml += &issue("web.example.com")
        .secret("web-cert", "default")
        .expect("secret");
    yaml += &issue("tcp.example.com")
        .secret("tcp-cert", "default")
        .expect("secret");
    let gateway = serve(&lab, &[("all.yaml", yaml)]);

    let certificate = authority.certificate();
    for (host, id, scheme, mode, forwarded) in [
        ("raw.example.com", "backend1", "https", "passthrough", false),
        (
            "tcp.example.com",
            "backend2",
            "http",
            "terminate-tcp",
            false,
        ),
        (
            "web.example.com",
            "backend2",
            "http",
            "terminate-http",
            true,
        ),
    ] {
        let request = curl::Request {
            scheme: "https",
            host,
            address: lab.vip(),
            port: 443,
            path: "/",
            authority: Some(&certificate),
            options: &[],
        };
        let answer = curl::get(&lab.client, &request).expect(host);
        assert_eq!(
            (answer.status, answer.field("id")),
            (200, Some(id)),
            "{host}"
        );
        assert_eq!(answer.field("scheme"), Some(scheme), "{host}");
        let xff = answer.field("xff").unwrap_or_default();
        assert_eq!(
            !xff.is_empty(),
            forwarded,
            "{host}: x-forwarded-for {xff:?}"
        );
        scene::expect_closed(&gateway, mode, "", 1);
    }

    for (name, certificate) in [
        (Some("web.example.com"), true),
        (Some("tcp.example.com"), true),
        (Some("other.example.com"), false),
        (None, false),
    ] {
        let handshake =
            openssl::handshake(&lab.client, lab.vip(), 443, name, &[]).expect("openssl");
        assert_eq!(handshake.subject.is_some(), certificate, "{name:?}");
        if let (Some(subject), Some(name)) = (handshake.subject, name) {
            assert!(subject.contains(name), "{subject}");
        }
    }
    scene::expect_closed(&gateway, "refused", "no_sni", 1);
    scene::expect_closed(&gateway, "refused", "unknown_sni", 1);

    let alpn = |name| {
        let options = ["-alpn", "h2,http/1.1"];
        let handshake = openssl::handshake(&lab.client, lab.vip(), 443, Some(name), &options);
        handshake.expect("openssl").alpn
    };
    assert_eq!(alpn("web.example.com").as_deref(), Some("h2"));
    assert_ne!(
        alpn("tcp.example.com").as_deref(),
        Some("h2"),
        "raw TCP offers no h2"
    );
}
