// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What reaches an upstream, and what the gateway answers by itself.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode};

use super::rig::{Backend, Gateway, cluster, host, nowhere, rule, run, table, to};
use crate::{
    model::{
        DirectResponse, HeaderEdits, HttpAction, HttpMatch, HttpRule, PathRewrite, Redirect,
        StringMatch,
    },
    snapshot::{HttpTable, VirtualHost},
};

#[test]
fn a_request_reaches_its_upstream_and_comes_back() {
    run(async {
        let backend = Backend::echo().await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        for n in 0..3 {
            let answer = client
                .ask(format!("GET /a?{n} HTTP/1.1\r\nHost: a.test\r\n\r\n"))
                .await;
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.text(), format!("/a?{n}|"));
        }
        assert_eq!(backend.connections.get(), 1, "one upstream connection");
        assert_eq!(gateway.counters.upstream_opened.value(), 1);
        assert_eq!(gateway.counters.upstream_reused.value(), 2);
        assert_eq!(gateway.counters.responses[1].value(), 3);
    });
}

#[test]
fn the_upstream_gets_the_host_and_learns_of_the_client() {
    run(async {
        let backend = Backend::echo().await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        client
            .ask(
                "GET http://A.test:8080/x?y HTTP/1.1\r\nHost: A.test:8080\r\n\
                 X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\
                 Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
                 Upgrade: h2c\r\nX-Request-Id: mine\r\nX-End: 2\r\n\r\n",
            )
            .await;
        let seen = backend.last();
        assert_eq!(seen.start, "GET /x?y HTTP/1.1");
        assert_eq!(seen.field("host"), Some("A.test:8080"));
        assert_eq!(
            seen.field("x-forwarded-for"),
            Some("203.0.113.9, 127.0.0.1")
        );
        assert_eq!(seen.field("x-forwarded-proto"), Some("http"));
        assert_eq!(seen.field("x-request-id"), Some("mine"));
        assert_eq!(seen.field("x-end"), Some("2"));
        for gone in ["connection", "x-hop", "keep-alive", "upgrade"] {
            assert_eq!(seen.field(gone), None, "{gone}");
        }
        client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let id = backend.last().field("x-request-id").map(str::len);
        assert_eq!(id, Some(36), "a new one where the client has none");
    });
}

#[test]
fn the_client_gets_no_field_of_the_upstream_connection() {
    run(async {
        let backend = Backend::fixed(
            "HTTP/1.1 200 OK\r\nServer: theirs\r\nDate: theirs\r\nKeep-Alive: 5\r\n\
             Connection: keep-alive, x-hop\r\nX-Hop: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\
             Content-Length: 2\r\n\r\nok",
        )
        .await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        let answer = client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(answer.field("server"), Some("theirs"));
        assert_eq!(answer.field("date"), Some("theirs"));
        assert_eq!(answer.field("set-cookie"), Some("a|b"));
        for gone in ["connection", "x-hop", "keep-alive"] {
            assert_eq!(answer.field(gone), None, "{gone}");
        }
    });
}

#[test]
fn what_nothing_serves_is_answered_with_an_empty_body() {
    run(async {
        let dead = nowhere().await;
        let mut served = HttpTable {
            any: None,
            ..table(
                Vec::new(),
                &[cluster("empty", &[]), cluster("dead", &[dead])],
            )
        };
        let hosts = [
            ("empty", vec![rule(&[("empty", 1)])]),
            ("dead", vec![rule(&[("dead", 1)])]),
            ("missing", vec![rule(&[("missing", 1)])]),
            ("norule", vec![]),
        ];
        for (name, rules) in hosts {
            served.exact.insert(name.to_owned(), host(name, rules));
        }
        let gateway = Gateway::start(served).await;
        let mut client = gateway.client().await;
        for (name, status) in [
            ("unknown", 404),
            ("norule", 404),
            ("empty", 503),
            ("missing", 503),
            ("dead", 503),
        ] {
            let answer = client
                .ask(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n"))
                .await;
            assert_eq!(answer.status(), status, "{name}");
            assert_eq!(answer.field("content-length"), Some("0"), "{name}");
            assert!(answer.field("date").is_some(), "{name}");
        }
        assert_eq!(gateway.counters.responses[3].value(), 2);
        assert_eq!(gateway.counters.responses[4].value(), 3);
    });
}

#[test]
fn a_dead_endpoint_is_passed_over() {
    run(async {
        let backend = Backend::echo().await;
        let endpoints = [nowhere().await, nowhere().await, backend.address];
        let gateway =
            Gateway::start(table(vec![rule(&[("b", 1)])], &[cluster("b", &endpoints)])).await;
        let mut client = gateway.client().await;
        for _ in 0..6 {
            let answer = client
                .ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
                .await;
            assert_eq!((answer.status(), answer.text().as_str()), (200, "/|hi"));
        }
    });
}

#[test]
fn rules_answer_redirect_and_edit() {
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    let respond = HttpRule {
        matches: vec![path(StringMatch::Exact("/teapot".into()))],
        action: HttpAction::Respond(DirectResponse {
            status: StatusCode::IM_A_TEAPOT,
            body: "short".into(),
        }),
        response_headers: HeaderEdits {
            set: vec![(name("x-set"), value("1"))],
            ..HeaderEdits::default()
        },
        ..rule(&[])
    };
    let redirect = HttpRule {
        matches: vec![path(StringMatch::Prefix("/old".into()))],
        action: HttpAction::Redirect(Redirect {
            status: StatusCode::PERMANENT_REDIRECT,
            scheme: None,
            authority: Some("new.test".into()),
            port: None,
            path: Some("/new".into()),
        }),
        ..rule(&[])
    };
    run(async {
        let gateway = Gateway::start(table(vec![respond, redirect], &[])).await;
        let mut client = gateway.client().await;
        let answer = client.ask("GET /teapot HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!((answer.status(), answer.text().as_str()), (418, "short"));
        assert_eq!(answer.field("x-set"), Some("1"));
        let answer = client.ask("HEAD /teapot HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(answer.field("content-length"), Some("5"));
        let answer = client.ask("GET /old/x?q HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(answer.status(), 308);
        assert_eq!(answer.field("location"), Some("http://new.test/new?q"));
    });
}

#[test]
fn https_redirect_answers_301() {
    run(async {
        let gateway = Gateway::start(HttpTable {
            any: Some(Arc::new(VirtualHost {
                host: "*".into(),
                rules: Vec::new(),
                https_redirect: true,
            })),
            ..HttpTable::default()
        })
        .await;
        let mut client = gateway.client().await;
        let answer = client
            .ask("GET /x?y HTTP/1.1\r\nHost: a.test\r\n\r\n")
            .await;
        assert_eq!(answer.status(), 301);
        assert_eq!(answer.field("location"), Some("https://a.test/x?y"));
    });
}

fn path(condition: StringMatch) -> HttpMatch {
    HttpMatch {
        path: Some(condition),
        ..HttpMatch::default()
    }
}

/// A rule whose matched path and host are rewritten.
fn rewriting(
    condition: Option<StringMatch>,
    to: &str,
    authority: Option<&'static str>,
) -> HttpRule {
    let mut rewriting = rule(&[("b", 1)]);
    rewriting.matches = condition.into_iter().map(path).collect();
    if let HttpAction::Route { rewrite, .. } = &mut rewriting.action {
        *rewrite = PathRewrite {
            path: Some(to.to_owned()),
            authority: authority.map(HeaderValue::from_static),
        };
    }
    rewriting
}

#[test]
fn a_rewrite_replaces_what_matched_and_keeps_the_query() {
    let prefix = |text: &str| Some(StringMatch::Prefix(text.into()));
    let exact = |text: &str| Some(StringMatch::Exact(text.into()));
    let cases = [
        (prefix("/a/"), "/", "/a/b?q=1", "/b?q=1"),
        (prefix("/a"), "/v2", "/a/b", "/v2/b"),
        (prefix("/a"), "/v2", "/a", "/v2"),
        (prefix("/a"), "v2", "/ab", "/v2b"),
        (prefix("/a"), "/v2", "/x/../a/b?c", "/v2/b?c"),
        (exact("/a"), "/other", "/a?q", "/other?q"),
        (None, "/v2/", "/a", "/v2/a"),
    ];
    run(async move {
        let backend = Backend::echo().await;
        for (condition, to, asked, expected) in cases {
            let rules = vec![rewriting(condition, to, Some("inner.test"))];
            let clusters = [cluster("b", &[backend.address])];
            let gateway = Gateway::start(table(rules, &clusters)).await;
            let mut client = gateway.client().await;
            client
                .ask(format!("GET {asked} HTTP/1.1\r\nHost: outer\r\n\r\n"))
                .await;
            let seen = backend.last();
            assert_eq!(
                seen.start,
                format!("GET {expected} HTTP/1.1"),
                "{asked} to {to}"
            );
            assert_eq!(seen.field("host"), Some("inner.test"));
        }
    });
}

#[test]
fn edits_of_rule_then_destination_apply() {
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    let edits = |who: &'static str| HeaderEdits {
        set: vec![(name("x-who"), value(who))],
        add: vec![(name("x-all"), value(who))],
        remove: vec![name("x-secret")],
        authority: Some(value(who)),
    };
    let mut both = rule(&[("b", 1)]);
    both.request_headers = edits("rule");
    both.response_headers = edits("rule");
    if let HttpAction::Route { destinations, .. } = &mut both.action {
        destinations[0].request_headers = edits("destination");
        destinations[0].response_headers = edits("destination");
    }
    run(async move {
        let backend = Backend::fixed(
            "HTTP/1.1 200 OK\r\nX-Secret: 1\r\nX-Who: b\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        let clusters = [cluster("b", &[backend.address])];
        let gateway = Gateway::start(table(vec![both], &clusters)).await;
        let mut client = gateway.client().await;
        let answer = client
            .ask("GET / HTTP/1.1\r\nHost: a\r\nX-Secret: 2\r\n\r\n")
            .await;
        let seen = backend.last();
        assert_eq!(seen.field("x-who"), Some("destination"));
        assert_eq!(seen.field("x-all"), Some("rule|destination"));
        assert_eq!(seen.field("x-secret"), None);
        assert_eq!(seen.field("host"), Some("destination"));
        assert_eq!(answer.field("x-who"), Some("rule"));
        assert_eq!(answer.field("x-all"), Some("destination|rule"));
        assert_eq!(answer.field("x-secret"), None);
    });
}

#[test]
fn weights_divide_requests() {
    run(async {
        let (a, b) = (Backend::echo().await, Backend::echo().await);
        let gateway = Gateway::start(table(
            vec![rule(&[("a", 80), ("b", 20)])],
            &[cluster("a", &[a.address]), cluster("b", &[b.address])],
        ))
        .await;
        let mut client = gateway.client().await;
        for _ in 0..1000 {
            client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        }
        let share = a.seen.borrow().len();
        // Five standard deviations of 12.6.
        assert!((737..=863).contains(&share), "{share} of 1000");
    });
}

#[test]
fn a_slow_upstream_is_answered_504_and_given_up() {
    let mut timed = rule(&[("b", 1)]);
    if let HttpAction::Route { timeout, .. } = &mut timed.action {
        *timeout = Some(Duration::from_millis(50));
    }
    run(async move {
        let gone = std::rc::Rc::new(std::cell::Cell::new(false));
        let seen_gone = std::rc::Rc::clone(&gone);
        let backend = Backend::start(move |mut peer| {
            let gone = std::rc::Rc::clone(&seen_gone);
            async move {
                peer.request().await;
                peer.ended().await;
                gone.set(true);
            }
        })
        .await;
        let clusters = [cluster("b", &[backend.address])];
        let gateway = Gateway::start(table(vec![timed], &clusters)).await;
        let mut client = gateway.client().await;
        let answer = client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(answer.status(), 504);
        super::rig::until(|| gone.get()).await;
        let answer = client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(answer.status(), 504, "the client connection goes on");
    });
}

#[test]
fn an_answer_that_stalls_is_cut_at_the_timeout() {
    let mut timed = rule(&[("b", 1)]);
    if let HttpAction::Route { timeout, .. } = &mut timed.action {
        *timeout = Some(Duration::from_millis(50));
    }
    run(async move {
        let backend = Backend::start(|mut peer| async move {
            peer.request().await;
            peer.write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome")
                .await;
            peer.ended().await;
        })
        .await;
        let clusters = [cluster("b", &[backend.address])];
        let gateway = Gateway::start(table(vec![timed], &clusters)).await;
        let mut client = gateway.client().await;
        client.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let all = String::from_utf8_lossy(&client.rest().await).into_owned();
        assert!(all.ends_with("\r\n\r\nsome"), "{all}");
    });
}

#[test]
fn a_connection_follows_the_configuration() {
    run(async {
        let (a, b) = (
            Backend::fixed("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na").await,
            Backend::fixed("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb").await,
        );
        let gateway = Gateway::start(to(a.address)).await;
        let mut client = gateway.client().await;
        let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(client.ask(request).await.text(), "a");
        *gateway.table.borrow_mut() = Arc::new(to(b.address));
        assert_eq!(client.ask(request).await.text(), "b");
    });
}
