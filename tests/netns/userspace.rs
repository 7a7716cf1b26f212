// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The same configuration without kernel programs: everything is proxied.

use gateway_tests::{
    backend::{echo::Echo, nginx},
    client::curl,
    gateway::{Datapath, Gateway},
    lab::Lab,
    pki::Authority,
};

use crate::{
    forward::assert_echoes,
    scene::{self, backend, gateway, passthrough, serve_with, service, tcp, virtual_service},
};

#[test]
fn userspace_mode_serves_the_same_configuration() {
    let Some(lab) = scene::lab() else { return };
    let authority = Authority::new(lab.dir()).expect("authority");
    let leaf = authority.issue(&["raw.example.com"]).expect("issue");
    let _echo = Echo::start(&lab, 0, 7000, "").expect("echo");
    let _nginx = nginx::start(&lab, 1, Some(&leaf)).expect("nginx");
    let yaml = tcp("echo", 31_400, &[backend(&lab, 0, 7000)])
        + &passthrough(
            "raw",
            443,
            "raw.example.com",
            &[backend(&lab, 1, nginx::HTTPS)],
        )
        + &gateway("web", 80, "HTTP", "a.example.com", "")
        + &virtual_service(
            "web",
            "a.example.com",
            "  http:\n  - route:\n    - destination: {host: web.internal}\n",
        )
        + &service("web", &[backend(&lab, 1, nginx::HTTP)]);
    // VIPs are claimed by the kernel side; without it the node must own them.
    let claim = format!("addr add {}/32 dev lo", lab.vip());
    lab.gateway.ip(&claim).expect("own the VIP");
    let gateway = serve_with(&lab, Datapath::Userspace, "", &[("all.yaml", yaml)]);
    assert_eq!(mode(&gateway), "userspace");
    assert_echoes(&lab, 4 << 20);
    scene::expect_closed(&gateway, "forward", "done", 1);
    for (scheme, host, port) in [
        ("https", "raw.example.com", 443),
        ("http", "a.example.com", 80),
    ] {
        let answer = fetch(&lab, &authority, scheme, host, port);
        assert_eq!(
            (answer.status, answer.field("id")),
            (200, Some("backend2")),
            "{host}"
        );
    }
}

fn mode(gateway: &Gateway<'_>) -> String {
    let status = gateway.status().expect("status");
    status["datapath"]["mode"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn fetch(lab: &Lab, authority: &Authority, scheme: &str, host: &str, port: u16) -> curl::Answer {
    let certificate = authority.certificate();
    let request = curl::Request {
        scheme,
        host,
        address: lab.vip(),
        port,
        path: "/",
        authority: Some(&certificate),
        options: &[],
    };
    curl::get(&lab.client, &request).expect(host)
}
