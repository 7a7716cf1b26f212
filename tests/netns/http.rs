// SPDX-License-Identifier: Apache-2.0 OR MIT
//! HTTP through the gateway: routing, headers, redirect, weights, no match, no
//! endpoint.

use gateway_tests::{
    backend::nginx,
    client::curl::{self, Answer, Request},
    lab::{CLIENT, Lab},
    process::Process,
};

use crate::scene::{self, backend, gateway, serve, service, virtual_service};

#[test]
fn requests_are_routed_by_host_and_path() {
    let Some(lab) = scene::lab() else { return };
    let _servers = servers(&lab);
    let rules = "  http:\n  - match:\n    - uri: {exact: /exact}\n    route:\n    - destination: {host: b3.internal}\n  - match:\n    - uri: {prefix: /api}\n    headers:\n      request: {set: {x-demo: api}}\n      response: {set: {x-served: sluice}}\n    route:\n    - destination: {host: b2.internal}\n  - route:\n    - destination: {host: b1.internal}\n";
    let yaml = gateway("web", 80, "HTTP", "*.example.com", "")
        + &virtual_service("web", "*.example.com", rules)
        + &clusters(&lab);
    let _gateway = serve(&lab, &[("web.yaml", yaml)]);
    for (host, path, status, id) in [
        ("a.example.com", "/", 200, Some("backend1")),
        ("b.example.com", "/exact", 200, Some("backend3")),
        ("b.example.com", "/exact?q=1", 200, Some("backend3")),
        ("b.example.com", "/exactly", 200, Some("backend1")),
        ("a.example.com", "/api/x", 200, Some("backend2")),
        ("example.com", "/", 404, None),
        ("other.org", "/", 404, None),
    ] {
        let answer = get(&lab, host, path, &[]);
        let seen = (answer.status, answer.field("id"));
        assert_eq!(seen, (status, id), "{host}{path}: {answer:?}");
        if status == 404 {
            assert_eq!(answer.body, "", "an unmatched request has an empty answer");
        }
    }
    let answer = get(&lab, "a.example.com", "/api/x", &["--http1.1"]);
    assert_eq!(answer.field("demo"), Some("api"));
    assert_eq!(answer.field("xff"), Some(CLIENT.to_string().as_str()));
    assert_eq!(answer.field("proto"), Some("http"));
    assert!(!answer.field("request_id").unwrap_or_default().is_empty());
}

#[test]
fn weights_are_kept_and_missing_endpoints_answer_503() {
    let Some(lab) = scene::lab() else { return };
    let _servers = servers(&lab);
    let weighted = "  http:\n  - match:\n    - uri: {prefix: /none}\n    route:\n    - destination: {host: none.internal}\n  - match:\n    - uri: {prefix: /dead}\n    route:\n    - destination: {host: dead.internal}\n  - route:\n    - destination: {host: b1.internal}\n      weight: 90\n    - destination: {host: b2.internal}\n      weight: 10\n";
    let yaml = gateway("web", 80, "HTTP", "a.example.com", "")
        + &virtual_service("web", "a.example.com", weighted)
        + &clusters(&lab)
        + &service("none", &[])
        + &service("dead", &[backend(&lab, 0, 9)]);
    let _gateway = serve(&lab, &[("web.yaml", yaml)]);
    assert_eq!(get(&lab, "a.example.com", "/none", &[]).status, 503);
    assert_eq!(get(&lab, "a.example.com", "/dead", &[]).status, 503);
    let vip = lab.vip();
    let answers = curl::repeat(&lab.client, &request(vip, "a.example.com", "/", &[]), 400);
    let first = answers
        .expect("curl")
        .iter()
        .filter(|answer| answer.field("id") == Some("backend1"))
        .count();
    // 360 is expected, six standard deviations are 36.
    assert!((324..=396).contains(&first), "{first} of 400");
}

#[test]
fn https_redirect_answers_301_for_every_path() {
    let Some(lab) = scene::lab() else { return };
    let yaml = gateway(
        "web",
        80,
        "HTTP",
        "a.example.com",
        "    tls: {httpsRedirect: true}\n",
    );
    let _gateway = serve(&lab, &[("web.yaml", yaml)]);
    let answer = get(&lab, "a.example.com", "/x/y?z=1", &[]);
    assert_eq!(answer.status, 301);
    assert_eq!(answer.location, "https://a.example.com/x/y?z=1");
}

fn servers(lab: &Lab) -> [Process; 3] {
    [0, 1, 2].map(|index| nginx::start(lab, index, None).expect("nginx"))
}

fn clusters(lab: &Lab) -> String {
    (0..3)
        .map(|index| {
            service(
                &format!("b{}", index + 1),
                &[backend(lab, index, nginx::HTTP)],
            )
        })
        .collect()
}

fn get(lab: &Lab, host: &str, path: &str, options: &[&str]) -> Answer {
    curl::get(&lab.client, &request(lab.vip(), host, path, options)).expect("curl")
}

fn request<'a>(
    address: std::net::Ipv4Addr,
    host: &'a str,
    path: &'a str,
    options: &'a [&'a str],
) -> Request<'a> {
    Request {
        scheme: "http",
        host,
        address,
        port: 80,
        path,
        authority: None,
        options,
    }
}
