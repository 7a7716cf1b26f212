// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `sluice explain` says about the examples.

use std::path::Path;

use gateway_user::{
    compile::{Observed, compile},
    explain::{Query, explain},
    model::Transport,
    snapshot::Snapshot,
    source::file::FileSource,
    translate::{Options, translate},
};

/// The example, what is asked, and words its answer must have, in this order.
type Case = (&'static str, Ask, &'static [&'static str]);

#[derive(Default)]
struct Ask {
    port: u16,
    sni: Option<&'static str>,
    host: Option<&'static str>,
    path: &'static str,
    header: Option<(&'static str, &'static str)>,
}

#[test]
fn explain_names_listener_rule_and_cluster() {
    let tls = |port, sni| Ask {
        port,
        sni,
        ..Ask::default()
    };
    let web = |host, path| Ask {
        port: 8080,
        host: Some(host),
        path,
        ..Ask::default()
    };
    let cases: [Case; 13] = [
        (
            "tcp-echo",
            tls(31400, None),
            &["*:31400", "forward", "echo.example.com:9000", "100.0 %"],
        ),
        (
            "tcp-echo",
            tls(31401, None),
            &["none", "refused", "no_listener"],
        ),
        (
            "sni-passthrough",
            tls(8443, Some("A.example.com")),
            &["passthrough", "a.internal"],
        ),
        (
            "sni-passthrough",
            tls(8443, Some("x.y.example.com")),
            &["passthrough", "rest.internal"],
        ),
        (
            "sni-passthrough",
            tls(8443, Some("example.com")),
            &["refused", "unknown_sni"],
        ),
        ("sni-passthrough", tls(8443, None), &["refused", "no_sni"]),
        (
            "mqtt",
            tls(8883, Some("mqtt.example.com")),
            &[
                "passthrough",
                "broker.example.com:8883",
                "health    tls mqtt.example.com every 2s",
            ],
        ),
        (
            "mqtt",
            tls(8883, Some("iot.example.com")),
            &[
                "terminate-tcp",
                "broker.example.com:1883",
                "health    mqtt every 2s",
            ],
        ),
        (
            "https-two-hosts",
            Ask {
                port: 8443,
                sni: Some("blog.example.com"),
                path: "/admin/x",
                ..Ask::default()
            },
            &[
                "terminate-http",
                "blog.example.com",
                "the rule answers",
                "403",
            ],
        ),
        (
            "http-redirect",
            web("shop.example.com", "/cart"),
            &["redirects to https", "301"],
        ),
        (
            "http-redirect",
            web("other.example.com", "/"),
            &["no virtual host", "404"],
        ),
        (
            "weights",
            web("shop.example.com", "/"),
            &["/v1  80.0 %", "/v2  20.0 %"],
        ),
        (
            "weights",
            Ask {
                header: Some(("x-canary", "yes")),
                ..web("shop.example.com", "/")
            },
            &["/v2  100.0 %"],
        ),
    ];
    for (example, ask, words) in cases {
        let answer = answer(example, &ask);
        let mut rest = answer.as_str();
        for word in words {
            let Some(at) = rest.find(word) else {
                panic!("{example}: {word:?} is not in its place in:\n{answer}");
            };
            rest = &rest[at + word.len()..];
        }
    }
}

fn answer(example: &str, ask: &Ask) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../config/examples")
        .join(format!("{example}.yaml"));
    let loaded = FileSource::new(vec![file]).load();
    let options = Options {
        labels: [("istio".to_owned(), "ingressgateway".to_owned())].into(),
        ..Options::default()
    };
    let (model, _) = translate(&loaded.resources, &options);
    let (snapshot, findings) = compile(&model, &Observed::default(), &Snapshot::default());
    assert!(findings.is_empty(), "{findings:?}");
    let query = Query {
        address: None,
        port: ask.port,
        transport: Transport::Tcp,
        sni: ask.sni.map(str::to_owned),
        host: ask.host.map(str::to_owned),
        method: "GET".to_owned(),
        path: if ask.path.is_empty() { "/" } else { ask.path }.to_owned(),
        headers: ask
            .header
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        source: None,
    };
    explain(&snapshot, &query).to_string()
}
