// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the demo does, row by row.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use gateway_tests::{
    client::{
        curl::{self, Answer, Request},
        kafka,
        mqtt::{self, Broker, Subscriber},
        openssl,
    },
    gateway::Gateway,
};

use super::{
    evidence::{Before, Way},
    outlive, rate,
    stage::{BLOG, RAW, SHOP, Stage, kafka_name, mqtt_name},
    table::{Row, Verdict},
};
use crate::task::say;

type Act = fn(&Stage<'_>) -> Result<String>;

/// A row before it has been played.
struct Scene {
    done: &'static str,
    expected: &'static str,
    way: Way,
    act: Act,
}

const fn scene(done: &'static str, expected: &'static str, way: Way, act: Act) -> Scene {
    Scene {
        done,
        expected,
        way,
        act,
    }
}

const SCENES: &[Scene] = &[
    scene(
        "mosquitto_sub/pub on 1883",
        "the message arrives",
        Way::Kernel {
            port: 1883,
            flows: 2,
        },
        mqtt_plain,
    ),
    scene(
        "mosquitto_sub/pub on 8883 by SNI",
        "the message arrives, broker's certificate",
        Way::Agent {
            mode: "passthrough",
            connections: 2,
        },
        mqtt_tls,
    ),
    scene(
        "kcat on 9092: produce and consume 10,000",
        "equal checksums",
        Way::Kernel {
            port: 9092,
            flows: 2,
        },
        kafka_round_trip,
    ),
    scene(
        "curl https, two hosts on 443 (h2)",
        "two certificates, 200 and 200",
        Way::Agent {
            mode: "terminate-http",
            connections: 4,
        },
        two_hosts,
    ),
    scene(
        "curl https, third host on 443 by SNI",
        "backend's own certificate, 200",
        Way::Agent {
            mode: "passthrough",
            connections: 1,
        },
        third_host,
    ),
    scene(
        "curl http, moved host on 80",
        "301 to https",
        Way::Agent {
            mode: "plain-http",
            connections: 1,
        },
        redirect,
    ),
    scene(
        "curl http, paths on 80",
        "prefix: backend2, header set; exact: backend3",
        Way::Agent {
            mode: "plain-http",
            connections: 2,
        },
        paths,
    ),
    scene(
        "curl http, 500 requests on 80",
        "80/20: backend1 350..450 of 500",
        Way::Agent {
            mode: "plain-http",
            connections: 1,
        },
        weights,
    ),
    scene(
        "openssl s_client on 443 without SNI",
        "refused, no certificate",
        Way::Refused { reason: "no_sni" },
        no_server_name,
    ),
];

/// Plays every row; a failing one does not stop the others.
pub fn play(stage: &Stage<'_>, gateway: &mut Gateway<'_>) -> Vec<Row> {
    let mut rows: Vec<Row> = SCENES
        .iter()
        .map(|scene| {
            let Scene {
                done,
                expected,
                way,
                act,
            } = scene;
            perform(done, expected, *way, stage, gateway, act)
        })
        .collect();
    let expected = if stage.lab.is_loopback() {
        "it flows"
    } else {
        "at least 0.9 of nftables DNAT"
    };
    let way = Way::Kernel {
        port: 5201,
        flows: 2,
    };
    rows.push(perform(
        "iperf3 on 5201",
        expected,
        way,
        stage,
        gateway,
        rate::compare,
    ));
    if !stage.lab.is_loopback() {
        rows.push(outlive(stage, gateway));
    }
    rows
}

/// The agent ends in it, which takes its counters along: it proves itself.
fn outlive(stage: &Stage<'_>, gateway: &mut Gateway<'_>) -> Row {
    say(outlive::DONE);
    let (seen, evidence, verdict) = match outlive::sessions(stage, gateway) {
        Ok((seen, evidence)) => (seen, evidence, Verdict::Ok),
        Err(error) => (one_line(&error), String::new(), Verdict::Failed),
    };
    Row {
        done: outlive::DONE.to_owned(),
        expected: outlive::EXPECTED.to_owned(),
        seen,
        path: "handoff",
        evidence,
        verdict,
    }
}

fn perform(
    done: &str,
    expected: &str,
    way: Way,
    stage: &Stage<'_>,
    gateway: &Gateway<'_>,
    act: impl Fn(&Stage<'_>) -> Result<String>,
) -> Row {
    say(done);
    let userspace = stage.lab.is_loopback();
    let played = Before::read(gateway).and_then(|before| Ok((act(stage)?, before)));
    let (seen, proof) = match played {
        Ok((seen, before)) => (Ok(seen), before.proves(gateway, way, userspace)),
        Err(error) => (Err(error), Ok(String::new())),
    };
    let verdict = if seen.is_ok() && proof.is_ok() {
        Verdict::Ok
    } else {
        Verdict::Failed
    };
    let text = |outcome: Result<String>| outcome.unwrap_or_else(|error| one_line(&error));
    Row {
        done: done.to_owned(),
        expected: expected.to_owned(),
        seen: text(seen),
        path: way.path(userspace),
        evidence: text(proof),
        verdict,
    }
}

fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn mqtt_plain(stage: &Stage<'_>) -> Result<String> {
    let vip = stage.lab.vip().to_string();
    let broker = Broker {
        host: &vip,
        port: stage.lab.port(1883),
        authority: None,
    };
    mqtt_round_trip(stage, &broker, "demo-plain")
}

fn mqtt_tls(stage: &Stage<'_>) -> Result<String> {
    let authority = stage.authority.certificate();
    let broker = Broker {
        host: mqtt_name(stage.lab),
        port: stage.lab.port(8883),
        authority: Some(&authority),
    };
    mqtt_round_trip(stage, &broker, "demo-tls")
}

fn mqtt_round_trip(stage: &Stage<'_>, broker: &Broker<'_>, name: &str) -> Result<String> {
    let payload = format!("hello from {name}");
    let mut subscriber = Subscriber::start(stage.lab, broker, name, name)?;
    mqtt::publish(stage.lab, broker, name, &payload)?;
    let messages = subscriber.wait_for(1)?;
    if messages != [payload] {
        bail!("another message arrived: {messages:?}");
    }
    Ok("the message arrived".to_owned())
}

fn kafka_round_trip(stage: &Stage<'_>) -> Result<String> {
    let lab = stage.lab;
    let broker = format!("{}:{}", kafka_name(lab), lab.port(9092));
    let sent = lab.dir().join("produced");
    let lines: String = (0..MESSAGES)
        .map(|number| format!("message {number}\n"))
        .collect();
    fs::write(&sent, lines)?;
    kafka::produce(lab, &stage.packages, &broker, &sent)?;
    let got = kafka::consume(lab, &stage.packages, &broker)?;
    let (before, after) = (kafka::checksum(&sent)?, kafka::checksum(&got)?);
    let count = fs::read_to_string(&got)?.lines().count();
    if before != after {
        bail!("{count} messages came back, with another checksum");
    }
    Ok(format!("{count} messages, sha256 {}.. both", &before[..12]))
}

fn two_hosts(stage: &Stage<'_>) -> Result<String> {
    let lab = stage.lab;
    let mut seen = Vec::new();
    for host in [SHOP, BLOG] {
        let answer = fetch(stage, "https", host, "/", &["--http2"])?;
        let handshake = openssl::handshake(&lab.client, lab.vip(), lab.port(443), Some(host), &[])?;
        let subject = handshake.subject.context("no certificate came")?;
        if answer.status != 200 || answer.version != "2" || !subject.contains(host) {
            bail!(
                "{host}: {} over HTTP/{}, certificate of {subject}",
                answer.status,
                answer.version
            );
        }
        let short = host.split('.').next().unwrap_or(host);
        seen.push(format!("{short}: 200 from {}", id(&answer)?));
    }
    Ok(format!("own certificates, h2, {}", seen.join(", ")))
}

fn third_host(stage: &Stage<'_>) -> Result<String> {
    let answer = fetch(stage, "https", RAW, "/", &[])?;
    expect_status(&answer, 200)?;
    // The backend itself ended TLS, or its page would say http.
    if answer.field("scheme") != Some("https") {
        bail!("the backend saw {:?}", answer.field("scheme"));
    }
    Ok(format!("200 from {}, TLS ended there", id(&answer)?))
}

fn redirect(stage: &Stage<'_>) -> Result<String> {
    let answer = fetch(stage, "http", BLOG, "/post?id=1", &[])?;
    expect_status(&answer, 301)?;
    if !answer.location.starts_with("https://blog.example.com") {
        bail!("301 to {:?}", answer.location);
    }
    Ok(format!("301 to {}", answer.location))
}

fn paths(stage: &Stage<'_>) -> Result<String> {
    let prefix = fetch(stage, "http", SHOP, "/api/items", &[])?;
    let exact = fetch(stage, "http", SHOP, "/api/health", &[])?;
    let header = prefix.field("demo").unwrap_or_default().to_owned();
    let (prefix, exact) = (id(&prefix)?, id(&exact)?);
    if (prefix.as_str(), header.as_str(), exact.as_str()) != ("backend2", "api", "backend3") {
        bail!("prefix: {prefix}, header {header:?}; exact: {exact}");
    }
    Ok("prefix: backend2, x-demo: api; exact: backend3".to_owned())
}

fn weights(stage: &Stage<'_>) -> Result<String> {
    let vip = stage.lab.vip();
    let request = Request {
        scheme: "http",
        host: SHOP,
        address: vip,
        port: stage.lab.port(80),
        path: "/",
        authority: None,
        options: &[],
    };
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for answer in curl::repeat(&stage.lab.client, &request, 500)? {
        expect_status(&answer, 200)?;
        *counts.entry(id(&answer)?).or_default() += 1;
    }
    let seen = counts
        .iter()
        .map(|(backend, count)| format!("{backend} {count}"))
        .collect::<Vec<_>>()
        .join(", ");
    // 400 is expected; the bounds are more than five standard deviations away.
    let first = counts.get("backend1").copied().unwrap_or_default();
    let second = counts.get("backend2").copied().unwrap_or_default();
    if !(350..=450).contains(&first) || first + second != 500 {
        bail!("{seen}");
    }
    Ok(seen)
}

fn no_server_name(stage: &Stage<'_>) -> Result<String> {
    let lab = stage.lab;
    let handshake = openssl::handshake(&lab.client, lab.vip(), lab.port(443), None, &[])?;
    match handshake.subject {
        None => Ok("refused, no certificate".to_owned()),
        Some(subject) => bail!("a certificate came: {subject}"),
    }
}

fn fetch(
    stage: &Stage<'_>,
    scheme: &'static str,
    host: &str,
    path: &str,
    options: &[&str],
) -> Result<Answer> {
    let port = if scheme == "https" { 443 } else { 80 };
    let authority: PathBuf = stage.authority.certificate();
    let request = Request {
        scheme,
        host,
        address: stage.lab.vip(),
        port: stage.lab.port(port),
        path,
        authority: Some(&authority),
        options,
    };
    curl::get(&stage.lab.client, &request)
}

fn expect_status(answer: &Answer, expected: u16) -> Result<()> {
    if answer.status != expected {
        bail!("status {}, body {:?}", answer.status, answer.body);
    }
    Ok(())
}

fn id(answer: &Answer) -> Result<String> {
    expect_status(answer, 200)?;
    answer
        .field("id")
        .map(str::to_owned)
        .context("the page names no backend")
}

const MESSAGES: usize = 10_000;
