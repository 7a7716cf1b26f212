// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Decoding: lines, types, unknown fields and hostile files.

use std::{sync::Arc, time::Instant};

use crate::{
    diagnostic::{Reason, Severity},
    source::decode::{Decoded, decode},
};

fn decoded(text: &str) -> Decoded {
    decode(&Arc::from("a.yaml"), text).expect("YAML")
}

fn findings(text: &str) -> Vec<(u32, Reason)> {
    decoded(text)
        .diagnostics
        .iter()
        .map(|diagnostic| (diagnostic.origin.line, diagnostic.reason))
        .collect()
}

const GATEWAY: &str = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: a}
spec:
  servers:
  - hosts: ['*']
    port:
      number: 80
      protocol: HTTP
";

#[test]
fn documents_know_the_lines_of_their_nodes() {
    let decoded = decoded(&format!("# comment\n---\n{GATEWAY}---\n\n{GATEWAY}"));
    assert!(decoded.diagnostics.is_empty(), "{:?}", decoded.diagnostics);
    let lines: Vec<(u32, u32)> = decoded
        .resources
        .iter()
        .map(|resource| {
            let port = resource.meta().spec().key("servers").index(0).key("port");
            (
                resource.meta().origin.line,
                port.key("number").origin().line,
            )
        })
        .collect();
    assert_eq!(lines, [(3, 10), (14, 21)]);
}

#[test]
fn a_wrong_type_costs_only_its_document() {
    let broken = GATEWAY.replace("80", "http");
    let text = format!("{broken}---\n{GATEWAY}");
    assert_eq!(findings(&text), [(8, Reason::InvalidValue)]);
    assert_eq!(decoded(&text).resources.len(), 1);
}

#[test]
fn unknown_fields_are_named_with_a_suggestion() {
    let text = GATEWAY
        .replace("number", "nubmer")
        .replace("spec:", "spec:\n  selctor: {a: b}");
    let decoded = decoded(&text);
    let shown: Vec<String> = decoded
        .diagnostics
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        shown,
        [
            "a.yaml:5: warning: unknown field \"spec.selctor\"; did you mean \"selector\"? [unknown-field]",
            "a.yaml:9: warning: unknown field \"spec.servers[0].port.nubmer\"; did you mean \"number\"? [unknown-field]",
        ]
    );
    assert_eq!(decoded.resources.len(), 1);
    assert_eq!(
        decoded.resources[0].meta().spec().unknown_fields(),
        ["selctor", "nubmer"]
    );
}

#[test]
fn unknown_kinds_and_documents_without_kind_are_named() {
    let cases = [
        (
            "apiVersion: v1\nkind: Pod\n",
            2,
            Reason::UnknownKind,
            Severity::Warning,
        ),
        (
            "apiVersion: networking.istio.io/v2\nkind: Gateway\n",
            1,
            Reason::UnknownKind,
            Severity::Warning,
        ),
        (
            "\nmetadata: {name: a}\n",
            2,
            Reason::MissingField,
            Severity::Error,
        ),
        ("- a\n- b\n", 1, Reason::InvalidValue, Severity::Error),
        (
            "apiVersion: v1\nkind: Service\nspec: {}\n",
            1,
            Reason::MissingField,
            Severity::Error,
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n",
            1,
            Reason::MissingField,
            Severity::Error,
        ),
    ];
    for (text, line, reason, severity) in cases {
        let decoded = decoded(text);
        assert_eq!(decoded.diagnostics.len(), 1, "{text}");
        let diagnostic = &decoded.diagnostics[0];
        assert_eq!(
            (
                diagnostic.origin.line,
                diagnostic.reason,
                diagnostic.severity
            ),
            (line, reason, severity),
            "{text}"
        );
    }
}

#[test]
fn lists_are_unwrapped() {
    let text = "\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: a}
  spec: {prots: []}
- apiVersion: v1
  kind: Secret
  metadata: {name: b}
  stringData: {key: value}
";
    assert_eq!(findings(text), [(7, Reason::UnknownField)]);
    assert_eq!(decoded(text).resources.len(), 2);
}

#[test]
fn null_is_absent_but_never_an_empty_condition() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: a, labels: null}\nspec: {ports: null}\nstatus: {}\n";
    assert!(findings(service).is_empty());
    let rule = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a.example]
  http:
  - match:
";
    assert_eq!(findings(rule), [(7, Reason::InvalidValue)]);
    assert_eq!(
        findings(&format!("{rule}    - uri:\n")),
        [(8, Reason::InvalidValue)]
    );
    assert_eq!(
        findings(&format!("{rule}    - headers: {{x-a: null}}\n")),
        [(8, Reason::InvalidValue)]
    );
}

#[test]
fn secrets_do_not_show_their_values() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {tls.key: hunter2}\ndata: {x: aHVudGVyMg==}\n";
    let shown = format!("{:?}", decoded(text));
    assert!(!shown.contains("hunter2") && !shown.contains("aHVudGVyMg"));
}

#[test]
fn broken_text_is_one_syntax_error_with_its_line() {
    let cases = [
        ("a: b\nc: [1, 2\n", 3),
        ("a: b\n  c: d\n", 2),
        ("a: \"b\n", 1),
        ("a: *nothing\n", 1),
        ("kind: a\nkind: b\n", 2),
        ("a: b\n\tc: d\n", 2),
    ];
    for (text, line) in cases {
        let error = decode(&Arc::from("a.yaml"), text).expect_err(text);
        assert_eq!(error.reason, Reason::Syntax, "{text}");
        assert!(error.origin.line.abs_diff(line) <= 1, "{text}: {error}");
    }
}

#[test]
fn alias_bombs_and_depth_are_refused_at_once() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let previous = format!("*a{}", level - 1);
        bomb.push_str(&format!(
            "a{level}: &a{level} [{}]\n",
            [previous.as_str(); 10].join(", ")
        ));
    }
    let wide = format!(
        "a: &a [{}]\nb: [{}]\n",
        "x, ".repeat(200_000),
        "*a, ".repeat(2_000)
    );
    let started = Instant::now();
    for text in [
        bomb,
        wide,
        "[".repeat(100_000),
        "- ".repeat(5_000),
        "a: ".repeat(5_000),
    ] {
        let error = decode(&Arc::from("a.yaml"), &text).expect_err("a bomb");
        assert_eq!(error.reason, Reason::Syntax);
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

#[test]
fn aliases_and_merge_keys_work() {
    let text = "\
apiVersion: v1
kind: Service
metadata: {name: a}
spec:
  ports:
  - &port {name: a, port: 80}
  - <<: *port
    name: b
";
    assert!(findings(text).is_empty(), "{:?}", findings(text));
}

#[test]
fn json_with_tabs_is_read() {
    let text = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\",\n\t\"metadata\": {\"name\": \"a\"},\n\t\"spec\": {\"prots\": []}\n}\n";
    let decoded = decode(&Arc::from("a.json"), text).expect("JSON");
    assert_eq!(decoded.resources.len(), 1);
    assert_eq!(decoded.diagnostics[0].origin.line, 5);
}
