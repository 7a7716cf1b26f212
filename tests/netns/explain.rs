// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `sluice explain` and live traffic agree on generated requests.

use std::fmt::Write as _;

use gateway_tests::{
    backend::nginx,
    client::curl::{self, Request},
    gateway::Gateway,
    lab::Lab,
    pki::Authority,
};
use serde_json::Value;

use crate::scene::{self, backend, gateway, passthrough, serve, service, virtual_service};

#[test]
fn explain_agrees_with_live_traffic_on_50_requests() {
    let Some(lab) = scene::lab() else { return };
    let authority = Authority::new(lab.dir()).expect("authority");
    let own = authority
        .issue(&["raw.example.com", "*.raw.example.com"])
        .expect("issue");
    let _servers = [0, 1, 2].map(|index| nginx::start(&lab, index, Some(&own)).expect("nginx"));
    let gateway = serve(&lab, &[("all.yaml", configuration(&lab, &authority))]);
    let mut dice = Dice(0x5eed);
    let mut outcomes = std::collections::BTreeMap::<String, u32>::new();
    for number in 0..50 {
        let scheme = *dice.pick(&["http", "https"]);
        let host = *dice.pick(&[
            "a.example.com",
            "b.example.com",
            "deep.b.example.com",
            "raw.example.com",
            "x.raw.example.com",
            "unknown.org",
        ]);
        let path = *dice.pick(&[
            "/",
            "/api",
            "/api/v1",
            "/apiary",
            "/exact",
            "/exact/",
            "/x?y=/api",
        ]);
        let expected = explained(&gateway, scheme, host, path);
        let seen = seen(&lab, scheme, host, path);
        assert_eq!(seen, expected, "request {number}: {scheme}://{host}{path}");
        *outcomes.entry(seen).or_default() += 1;
    }
    println!("50 requests: {outcomes:?}");
    assert!(
        outcomes.len() >= 5,
        "the requests are all alike: {outcomes:?}"
    );
}

fn configuration(lab: &Lab, authority: &Authority) -> String {
    let routes = |exact: u32, prefix: u32, rest: u32| {
        format!(
            "  http:\n  - match:\n    - uri: {{exact: /exact}}\n    route:\n    - destination: {{host: b{exact}.internal}}\n  - match:\n    - uri: {{prefix: /api}}\n    route:\n    - destination: {{host: b{prefix}.internal}}\n  - match:\n    - uri: {{exact: /}}\n    route:\n    - destination: {{host: b{rest}.internal}}\n"
        )
    };
    let mut yaml = gateway("plain-a", 80, "HTTP", "a.example.com", "")
        + &virtual_service("plain-a", "a.example.com", &routes(1, 2, 3))
        + &gateway("plain-b", 80, "HTTP", "*.b.example.com", "")
        + &virtual_service("plain-b", "*.b.example.com", &routes(3, 1, 2))
        + &gateway(
            "moved",
            80,
            "HTTP",
            "raw.example.com",
            "    tls: {httpsRedirect: true}\n",
        )
        + &passthrough(
            "raw",
            443,
            "raw.example.com",
            &[backend(lab, 0, nginx::HTTPS)],
        )
        + &passthrough(
            "raw-any",
            443,
            "*.raw.example.com",
            &[backend(lab, 1, nginx::HTTPS)],
        );
    for (name, host) in [("tls-a", "a.example.com"), ("tls-b", "*.b.example.com")] {
        let tls = format!("    tls: {{mode: SIMPLE, credentialName: {name}}}\n");
        let leaf = authority.issue(&[host]).expect("issue");
        yaml += &gateway(name, 443, "HTTPS", host, &tls);
        yaml += &virtual_service(name, host, &routes(2, 3, 1));
        yaml += &leaf.secret(name, "default").expect("secret");
    }
    for index in 0..3 {
        yaml += &service(
            &format!("b{}", index + 1),
            &[backend(lab, index, nginx::HTTP)],
        );
    }
    yaml
}

/// What `sluice explain` says: a backend, a status, or `refused`.
fn explained(gateway: &Gateway<'_>, scheme: &str, host: &str, path: &str) -> String {
    let config = gateway.config_dir();
    let config = config.to_string_lossy();
    let mut arguments = vec![
        "explain",
        &config,
        "--output",
        "json",
        "--address",
        "10.97.0.1",
    ];
    arguments.extend(["--host", host, "--path", path]);
    if scheme == "https" {
        arguments.extend(["--port", "443", "--sni", host]);
    } else {
        arguments.extend(["--port", "80"]);
    }
    let output = gateway.sluice(&arguments).expect("sluice explain");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    if let Some(status) = answer["status"].as_u64() {
        return format!("status {status}");
    }
    if answer["mode"] == "refused" {
        return "refused".to_owned();
    }
    let endpoints: Vec<&str> = answer["destinations"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|destination| destination["endpoints"].as_array().into_iter().flatten())
        .filter_map(Value::as_str)
        .collect();
    let [endpoint] = endpoints[..] else {
        panic!("one endpoint expected: {answer}");
    };
    let mut name = String::new();
    for index in 1..=3 {
        if endpoint.starts_with(&format!("10.99.{index}.2:")) {
            let _ = write!(name, "backend{index}");
        }
    }
    name
}

/// What a real client sees, in the same words.
fn seen(lab: &Lab, scheme: &str, host: &str, path: &str) -> String {
    let request = Request {
        scheme,
        host,
        address: lab.vip(),
        port: if scheme == "https" { 443 } else { 80 },
        path,
        authority: None,
        options: &["--insecure", "--path-as-is"],
    };
    match curl::get(&lab.client, &request) {
        Ok(answer) if answer.status == 200 => answer.field("id").unwrap_or("?").to_owned(),
        Ok(answer) => format!("status {}", answer.status),
        Err(_) => "refused".to_owned(),
    }
}

/// A small generator with a fixed seed, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        // Knuth's MMIX constants; the upper half is the good one.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let index = usize::try_from(self.0 >> 33).expect("31 bits");
        &from[index % from.len()]
    }
}
