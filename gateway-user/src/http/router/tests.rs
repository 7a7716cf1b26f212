// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One test for each rule of the router.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{RequestHead, RouteMatch, find, host_name};
use crate::{
    model::{
        DirectResponse, HeaderEdits, HeaderMatch, HttpAction, HttpMatch, HttpRule, StringMatch,
    },
    origin::Origin,
    snapshot::{HttpTable, VirtualHost},
};

/// A rule called `name`.
fn rule(name: &str, matches: Vec<HttpMatch>) -> Arc<HttpRule> {
    Arc::new(HttpRule {
        origin: Origin::new("test.yaml", 1),
        name: Some(name.to_owned()),
        matches,
        action: HttpAction::Respond(DirectResponse {
            status: http::StatusCode::OK,
            body: bytes::Bytes::new(),
        }),
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    })
}

fn host(name: &str, rules: Vec<Arc<HttpRule>>) -> Arc<VirtualHost> {
    Arc::new(VirtualHost {
        host: name.to_owned(),
        rules,
        https_redirect: false,
    })
}

/// A table whose hosts have one rule each, called like the host.
fn hosts(names: &[&str]) -> HttpTable {
    let mut table = HttpTable::default();
    for name in names {
        let virtual_host = host(name, vec![rule(name, Vec::new())]);
        match name.strip_prefix('*') {
            Some("") => table.any = Some(virtual_host),
            Some(suffix) => drop(table.suffixes.insert(suffix.to_owned(), virtual_host)),
            None => drop(table.exact.insert((*name).to_owned(), virtual_host)),
        }
    }
    table
}

fn table(rules: Vec<Arc<HttpRule>>) -> HttpTable {
    HttpTable {
        any: Some(host("*", rules)),
        ..HttpTable::default()
    }
}

/// The rule, and the match of it, that serves a request.
fn served(table: &HttpTable, host: &str, method: &str, path: &str, headers: &HeaderMap) -> String {
    let request = RequestHead {
        method,
        path,
        headers,
    };
    match find(table, host, &request) {
        RouteMatch::Rule(rule, Some(index), _) => {
            format!("{}#{index}", rule.name.as_deref().unwrap_or_default())
        }
        RouteMatch::Rule(rule, None, _) => rule.name.clone().unwrap_or_default(),
        RouteMatch::Redirect301(_) => "301".to_owned(),
        RouteMatch::NoRoute(_) => "no route".to_owned(),
        RouteMatch::NoHost => "no host".to_owned(),
    }
}

fn path(condition: StringMatch) -> HttpMatch {
    HttpMatch {
        path: Some(condition),
        ..HttpMatch::default()
    }
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.to_owned())
}

fn prefix(text: &str) -> StringMatch {
    StringMatch::Prefix(text.to_owned())
}

#[test]
fn host_is_exact_then_longest_suffix_then_any() {
    let table = hosts(&["a.b.com", "*.b.com", "*.x.b.com", "*.com", "*"]);
    let cases = [
        ("a.b.com", "a.b.com"),
        ("A.B.Com", "a.b.com"),
        ("a.b.com:8080", "a.b.com"),
        ("a.b.com.", "a.b.com"),
        ("a.b.com.:80", "a.b.com"),
        ("c.b.com", "*.b.com"),
        ("d.c.b.com", "*.b.com"),
        ("y.x.b.com", "*.x.b.com"),
        ("x.b.com", "*.b.com"),
        ("b.com", "*.com"),
        ("org", "*"),
        ("[::1]:80", "*"),
        ("10.0.0.1", "*"),
        ("", "*"),
        (".b.com", "*.com"),
    ];
    for (host, expected) in cases {
        assert_eq!(
            served(&table, host, "GET", "/", &HeaderMap::new()),
            expected,
            "{host}"
        );
    }
}

#[test]
fn wildcard_does_not_take_the_apex_nor_a_part_of_a_label() {
    let table = hosts(&["*.b.com"]);
    for host in ["b.com", "ab.com", ".b.com", "com"] {
        assert_eq!(
            served(&table, host, "GET", "/", &HeaderMap::new()),
            "no host",
            "{host}"
        );
    }
}

#[test]
fn an_address_in_brackets_keeps_its_colons() {
    assert_eq!(host_name("[fd97::1]:8080"), "[fd97::1]");
    assert_eq!(host_name("[fd97::1]"), "[fd97::1]");
    let table = hosts(&["[fd97::1]"]);
    assert_eq!(
        served(&table, "[FD97::1]:1", "GET", "/", &HeaderMap::new()),
        "[fd97::1]"
    );
}

#[test]
fn the_first_rule_that_matches_wins() {
    let table = table(vec![
        rule("narrow", vec![path(exact("/a/b"))]),
        rule("wide", vec![path(prefix("/a"))]),
        rule("shadowed", vec![path(prefix("/a/c"))]),
    ]);
    let none = HeaderMap::new();
    assert_eq!(served(&table, "h", "GET", "/a/b", &none), "narrow#0");
    assert_eq!(served(&table, "h", "GET", "/a/c", &none), "wide#0");
    assert_eq!(served(&table, "h", "GET", "/b", &none), "no route");
}

#[test]
fn any_match_of_a_rule_suffices_and_its_number_is_told() {
    let table = table(vec![rule("r", vec![path(exact("/a")), path(exact("/b"))])]);
    assert_eq!(served(&table, "h", "GET", "/b", &HeaderMap::new()), "r#1");
}

#[test]
fn a_rule_without_matches_takes_everything() {
    let table = table(vec![rule("all", Vec::new())]);
    assert_eq!(served(&table, "h", "PURGE", "*", &HeaderMap::new()), "all");
}

#[test]
fn a_prefix_is_of_characters() {
    let table = table(vec![rule("r", vec![path(prefix("/api"))])]);
    let none = HeaderMap::new();
    for (path, expected) in [
        ("/api", "r#0"),
        ("/apix", "r#0"),
        ("/ap", "no route"),
        ("/API", "no route"),
    ] {
        assert_eq!(served(&table, "h", "GET", path, &none), expected, "{path}");
    }
}

#[test]
fn path_case_is_ignored_where_asked() {
    let table = table(vec![rule(
        "r",
        vec![HttpMatch {
            ignore_path_case: true,
            ..path(prefix("/Api"))
        }],
    )]);
    assert_eq!(
        served(&table, "h", "GET", "/aPI/x", &HeaderMap::new()),
        "r#0"
    );
}

#[test]
fn dot_segments_do_not_hide_a_path() {
    let table = table(vec![
        rule("admin", vec![path(prefix("/admin"))]),
        rule("public", vec![path(prefix("/public"))]),
    ]);
    let none = HeaderMap::new();
    for path in ["/public/../admin", "/public/%2e%2E/admin/", "/./admin"] {
        assert_eq!(served(&table, "h", "GET", path, &none), "admin#0", "{path}");
    }
}

#[test]
fn all_conditions_of_a_match_must_hold() {
    let table = table(vec![rule(
        "r",
        vec![HttpMatch {
            method: Some(exact("POST")),
            ..path(exact("/a"))
        }],
    )]);
    let none = HeaderMap::new();
    assert_eq!(served(&table, "h", "POST", "/a", &none), "r#0");
    assert_eq!(served(&table, "h", "GET", "/a", &none), "no route");
    assert_eq!(served(&table, "h", "post", "/a", &none), "no route");
    assert_eq!(served(&table, "h", "POST", "/b", &none), "no route");
}

#[test]
fn headers_match_by_value_presence_and_absence() {
    let condition = |value: Option<StringMatch>, negated| HeaderMatch {
        name: HeaderName::from_static("x-a"),
        value,
        negated,
    };
    // Value of the header (none: absent; `;` separates fields), condition,
    // whether it holds.
    let cases = [
        (Some("1"), condition(Some(exact("1")), false), true),
        (Some("2"), condition(Some(exact("1")), false), false),
        (None, condition(Some(exact("1")), false), false),
        (Some("123"), condition(Some(prefix("12")), false), true),
        (Some("1;2"), condition(Some(exact("1,2")), false), true),
        (Some("1;2"), condition(Some(exact("1")), false), false),
        (Some(""), condition(None, false), true),
        (None, condition(None, false), false),
        (Some("1"), condition(None, true), false),
        (None, condition(None, true), true),
        (Some("1"), condition(Some(exact("1")), true), false),
        (Some("2"), condition(Some(exact("1")), true), true),
        (None, condition(Some(exact("1")), true), true),
        (None, condition(Some(exact("")), true), false),
        (None, condition(Some(exact("")), false), false),
    ];
    for (value, condition, holds) in cases {
        let mut headers = HeaderMap::new();
        for field in value.into_iter().flat_map(|value| value.split(';')) {
            headers.append("x-a", HeaderValue::from_str(field).expect("a value"));
        }
        let what = format!("{value:?} {condition:?}");
        let table = table(vec![rule(
            "r",
            vec![HttpMatch {
                headers: vec![condition],
                ..HttpMatch::default()
            }],
        )]);
        let expected = if holds { "r#0" } else { "no route" };
        assert_eq!(
            served(&table, "h", "GET", "/", &headers),
            expected,
            "{what}"
        );
    }
}

#[test]
fn https_redirect_comes_before_the_rules() {
    let mut table = hosts(&["a.com"]);
    let redirecting = VirtualHost {
        host: "a.com".to_owned(),
        rules: vec![rule("r", Vec::new())],
        https_redirect: true,
    };
    table
        .exact
        .insert("a.com".to_owned(), Arc::new(redirecting));
    assert_eq!(
        served(&table, "a.com", "GET", "/", &HeaderMap::new()),
        "301"
    );
}
