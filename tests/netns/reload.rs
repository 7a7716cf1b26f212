// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Configuration changes while the agent runs: fast when good, harmless when
//! bad.

use std::time::{Duration, Instant};

use gateway_tests::{
    backend::{echo::Echo, nginx},
    client::{
        curl,
        raw::{self, End},
    },
    gateway::Gateway,
    lab::Lab,
    pki::Authority,
    wait,
};

use crate::scene::{self, backend, gateway, serve, service, tcp, vip, virtual_service};

#[test]
fn every_change_of_a_file_takes_effect() {
    let Some(lab) = scene::lab() else { return };
    let _servers =
        [0, 1].map(|index| Echo::start(&lab, index, 7000, &index.to_string()).expect("echo"));
    let yaml = |index| tcp("echo", 31_400, &[backend(&lab, index, 7000)]);
    let gateway = serve(&lab, &[("echo.yaml", yaml(0))]);
    let mut slowest = Duration::ZERO;
    for round in 0..10 {
        let index = (round + 1) % 2;
        let start = Instant::now();
        gateway.write("echo.yaml", &yaml(index)).expect("write");
        wait::until_true("the other backend", Duration::from_secs(5), || {
            greeting(&lab, 31_400) == index.to_string()
        })
        .expect("the change takes effect");
        slowest = slowest.max(start.elapsed());
    }
    println!("a changed file is in effect after {slowest:?} at most (10 changes)");
}

#[test]
fn a_broken_file_keeps_its_last_good_version() {
    let Some(lab) = scene::lab() else { return };
    let _servers =
        [0, 1].map(|index| Echo::start(&lab, index, 7000, &index.to_string()).expect("echo"));
    let first = tcp("first", 31_400, &[backend(&lab, 0, 7000)]);
    let second = |port| tcp("second", port, &[backend(&lab, 1, 7000)]);
    let gateway = serve(
        &lab,
        &[
            ("first.yaml", first.clone()),
            ("second.yaml", second(31_401)),
        ],
    );

    for (what, broken) in [
        ("broken", "apiVersion: [unclosed\n".to_owned()),
        (
            "half written",
            first[..first.len() * 2 / 3].to_owned() + "\n  - {address: ",
        ),
    ] {
        gateway.write("first.yaml", &broken).expect("write");
        expect_finding(&gateway, "first.yaml", "");
        assert_eq!(
            greeting(&lab, 31_400),
            "0",
            "{what}: the last good version serves"
        );
        // Other files go on changing.
        let port = if what == "broken" { 31_402 } else { 31_403 };
        gateway
            .reload("second.yaml", &second(port))
            .expect("reload");
        assert_eq!(greeting(&lab, port), "1", "{what}");
        assert_eq!(greeting(&lab, 31_400), "0", "{what}");
    }

    gateway
        .reload(
            "first.yaml",
            &tcp("first", 31_410, &[backend(&lab, 0, 7000)]),
        )
        .expect("reload");
    assert_eq!(greeting(&lab, 31_410), "0", "a repaired file is taken");
    let findings = gateway.status().expect("status")["diagnostics"].to_string();
    assert!(!findings.contains("first.yaml"), "{findings}");
}

#[test]
fn a_missing_certificate_and_a_doubled_host_disturb_nobody_else() {
    let Some(lab) = scene::lab() else { return };
    let authority = Authority::new(lab.dir()).expect("authority");
    let _nginx = nginx::start(&lab, 0, None).expect("nginx");
    let route = "  http:\n  - route:\n    - destination: {host: web.internal}\n";
    let server = |name: &str, host: &str, secret: &str| {
        let tls = format!("    tls: {{mode: SIMPLE, credentialName: {secret}}}\n");
        gateway(name, 443, "HTTPS", host, &tls) + &virtual_service(name, host, route)
    };
    let leaf = authority.issue(&["good.example.com"]).expect("issue");
    let yaml = server("good", "good.example.com", "good-cert")
        + &leaf.secret("good-cert", "default").expect("secret")
        + &service("web", &[backend(&lab, 0, nginx::HTTP)]);
    let gateway = serve(
        &lab,
        &[
            ("a.yaml", yaml),
            (
                "b.yaml",
                server("missing", "missing.example.com", "no-such-cert"),
            ),
            ("c.yaml", server("double", "good.example.com", "good-cert")),
        ],
    );
    expect_finding(&gateway, "b.yaml", "no-such-cert");
    expect_finding(&gateway, "c.yaml", "good.example.com");
    let certificate = authority.certificate();
    let request = |host| curl::Request {
        scheme: "https",
        host,
        address: lab.vip(),
        port: 443,
        path: "/",
        authority: Some(&certificate),
        options: &[],
    };
    let answer = curl::get(&lab.client, &request("good.example.com")).expect("curl");
    assert_eq!((answer.status, answer.field("id")), (200, Some("backend1")));
    curl::get(&lab.client, &request("missing.example.com")).expect_err("fails closed");
    // The certificate arrives: no restart.
    let leaf = authority.issue(&["missing.example.com"]).expect("issue");
    let secret = leaf.secret("no-such-cert", "default").expect("secret");
    gateway.reload("d.yaml", &secret).expect("reload");
    let answer = curl::get(&lab.client, &request("missing.example.com")).expect("curl");
    assert_eq!(answer.status, 200);
}

/// Waits for a diagnostic about `file` with a line and with `text` in it.
fn expect_finding(gateway: &Gateway<'_>, file: &str, text: &str) {
    let found = wait::until("a diagnostic", Duration::from_secs(5), || {
        let status = gateway.status()?;
        let all = status["diagnostics"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let hit = all.iter().any(|finding| {
            finding["file"]
                .as_str()
                .is_some_and(|path| path.ends_with(file))
                && finding["line"].as_u64().is_some_and(|line| line > 0)
                && finding["message"]
                    .as_str()
                    .is_some_and(|message| message.contains(text))
        });
        anyhow::ensure!(hit, "only {all:?}");
        Ok(Some(()))
    });
    found.expect(file);
}

/// What the backend of a port says first; empty when none answers.
fn greeting(lab: &Lab, port: u16) -> String {
    let Ok(mut stream) = raw::connect(&lab.client, vip(lab, port)) else {
        return String::new();
    };
    let _ = stream.shutdown(std::net::Shutdown::Write);
    match raw::read_to_end(&mut stream, Duration::from_secs(2)) {
        Ok(End::Closed(got)) => String::from_utf8_lossy(&got).into_owned(),
        _ => String::new(),
    }
}
