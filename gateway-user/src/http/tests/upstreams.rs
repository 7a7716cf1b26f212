// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Upstreams that close, answer wrongly, or answer what nobody asked.

use std::time::Duration;

use super::rig::{Backend, Client, Gateway, run, to, until};
use crate::http::HttpLimits;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A backend that answers once on its first connection and closes that one
/// when the next request has come, unanswered.
async fn closes_after_the_first_answer() -> Backend {
    Backend::start(|mut peer| async move {
        while peer.request().await.is_some() {
            peer.write(OK).await;
            if peer.number == 0 {
                peer.request().await;
                return;
            }
        }
    })
    .await
}

#[test]
fn a_request_lost_on_a_pooled_connection_is_sent_again() {
    run(async {
        let backend = closes_after_the_first_answer().await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        assert_eq!(client.ask(GET).await.status(), 200);
        assert_eq!(client.ask(GET).await.status(), 200);
        assert_eq!(backend.connections.get(), 2);
        assert_eq!(backend.seen.borrow().len(), 3, "sent twice");
    });
}

#[test]
fn a_post_is_not_sent_twice() {
    run(async {
        let backend = closes_after_the_first_answer().await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        assert_eq!(client.ask(POST).await.status(), 200);
        assert_eq!(client.ask(POST).await.status(), 503);
        assert_eq!(backend.seen.borrow().len(), 2, "sent once each");
        assert_eq!(client.ask(POST).await.status(), 200);
    });
}

#[test]
fn a_post_goes_on_a_new_connection_when_the_pooled_one_was_closed() {
    run(async {
        let backend = Backend::start(|mut peer| async move {
            peer.request().await;
            peer.write(OK).await;
            // Closed without a word.
        })
        .await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        for n in 1..=5 {
            assert_eq!(client.ask(POST).await.status(), 200, "request {n}");
            // The close has to arrive: before it, the request would be lost.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(backend.seen.borrow().len(), 5);
    });
}

#[test]
fn an_idle_upstream_connection_is_closed() {
    run(async {
        let backend = Backend::echo().await;
        let limits = HttpLimits {
            upstream_idle_timeout: Duration::from_millis(30),
            ..HttpLimits::default()
        };
        let gateway = Gateway::with(to(backend.address), limits).await;
        let mut client = gateway.client().await;
        assert_eq!(client.ask(GET).await.status(), 200);
        assert_eq!(client.ask(GET).await.status(), 200);
        assert_eq!(backend.connections.get(), 1);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(client.ask(GET).await.status(), 200);
        assert_eq!(backend.connections.get(), 2);
    });
}

/// What a backend answers to the first request, and what the client gets.
const WRONG: &[(&str, &str, u16)] = &[
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        502,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        502,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        502,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        502,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        502,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        502,
    ),
    (
        "GET",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        502,
    ),
    (
        "GET",
        "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
        502,
    ),
    ("GET", "HTTP/1.1 204 No Content\r\n\r\nok", 502),
    (
        "GET",
        "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        502,
    ),
    (
        "GET",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok",
        502,
    ),
    (
        "HEAD",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        502,
    ),
    (
        "GET",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        502,
    ),
    (
        "GET",
        "HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\nok",
        502,
    ),
    ("GET", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 502),
    ("GET", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", 502),
    ("GET", "HTTP/1.1 200 OK\r\nX : a\r\n\r\n", 502),
    ("GET", "HTTP/1.1 200 OK\r\nX: \0\r\n\r\n", 502),
    ("GET", "HTTP/3.1 200 OK\r\n\r\n", 502),
    ("GET", "HTTP/1.1 99 Low\r\n\r\n", 502),
    ("GET", "SSH-2.0-OpenSSH_9\r\n", 502),
    ("GET", "nonsense\n", 502),
    // Right, with something behind: passed, and the connection not used again.
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        200,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        200,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        200,
    ),
];

#[test]
fn a_wrong_answer_is_502_and_the_next_request_gets_its_own() {
    run(async {
        for &(method, wrong, status) in WRONG {
            let backend = Backend::start(move |mut peer| async move {
                if peer.number == 0 {
                    peer.request().await;
                    peer.write(wrong).await;
                }
                while let Some(request) = peer.request().await {
                    let id = request.field("x-request-id").unwrap_or_default();
                    let body = if request.start.starts_with("HEAD") {
                        ""
                    } else {
                        "ok"
                    };
                    peer.write(format!(
                        "HTTP/1.1 200 OK\r\nX-Echo: {id}\r\nContent-Length: 2\r\n\r\n{body}"
                    ))
                    .await;
                }
            })
            .await;
            let gateway = Gateway::start(to(backend.address)).await;
            let mut client = gateway.client().await;
            let ask = async |client: &mut Client, id: &str| {
                let request =
                    format!("{method} / HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n");
                client.ask(request).await
            };
            let first = ask(&mut client, "first").await;
            assert_eq!(first.status(), status, "{wrong:?}");
            if status == 200 && method == "GET" {
                assert_eq!(first.text(), "ok", "{wrong:?}");
            }
            for id in ["second", "third"] {
                let own = ask(&mut client, id).await;
                assert_eq!(own.status(), 200, "{wrong:?}");
                assert_eq!(own.field("x-echo"), Some(id), "{wrong:?}");
            }
            assert_eq!(backend.connections.get(), 2, "{wrong:?}: not used again");
        }
    });
}

#[test]
fn an_answer_nobody_asked_for_is_not_given_to_the_next_request() {
    run(async {
        let backend = Backend::start(|mut peer| async move {
            while let Some(request) = peer.request().await {
                let id = request.field("x-request-id").unwrap_or_default().to_owned();
                peer.write(format!(
                    "HTTP/1.1 200 OK\r\nX-Echo: {id}\r\nContent-Length: 0\r\n\r\n"
                ))
                .await;
                // In a segment of its own, later.
                tokio::time::sleep(Duration::from_millis(2)).await;
                peer.write("HTTP/1.1 200 OK\r\nX-Echo: evil\r\nContent-Length: 0\r\n\r\n")
                    .await;
            }
        })
        .await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        for n in 0..20 {
            let id = format!("id-{n}");
            let answer = client
                .ask(format!(
                    "POST / HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\nContent-Length: 0\r\n\r\n"
                ))
                .await;
            assert_eq!(answer.field("x-echo"), Some(id.as_str()));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(backend.connections.get(), 20);
    });
}

#[test]
fn an_answer_cut_short_is_cut_short_for_the_client() {
    let cases = [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n4\r\nmoreX",
    ];
    run(async move {
        for bytes in cases {
            let backend = Backend::start(move |mut peer| async move {
                peer.request().await;
                peer.write(bytes).await;
            })
            .await;
            let gateway = Gateway::start(to(backend.address)).await;
            let mut client = gateway.client().await;
            client.write(GET).await;
            let all = String::from_utf8_lossy(&client.rest().await).into_owned();
            // Cut, or not begun when the end came with the beginning: the
            // client can tell in either case.
            let whole = all.ends_with("0\r\n\r\n") || all.len() >= 100 + 50;
            assert!(!whole, "{all}");
        }
    });
}

#[test]
fn an_upstream_that_closes_without_an_answer_is_503() {
    run(async {
        let backend = Backend::start(|mut peer| async move {
            peer.request().await;
        })
        .await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        assert_eq!(client.ask(GET).await.status(), 503);
        assert_eq!(client.ask(POST).await.status(), 503);
        until(|| backend.seen.borrow().len() == 2).await;
    });
}

#[test]
fn many_clients_get_their_own_answers() {
    run(async {
        let backend = Backend::start(|mut peer| async move {
            while let Some(request) = peer.request().await {
                let id = request.field("x-request-id").unwrap_or_default().to_owned();
                if fastrand::u8(..) < 8 {
                    return;
                }
                if fastrand::bool() {
                    tokio::task::yield_now().await;
                }
                let close = fastrand::u8(..) < 8;
                let connection = if close { "Connection: close\r\n" } else { "" };
                peer.write(format!(
                    "HTTP/1.1 200 OK\r\n{connection}Content-Length: {}\r\n\r\n{id}",
                    id.len()
                ))
                .await;
                if close {
                    return;
                }
            }
        })
        .await;
        let gateway = Gateway::start(to(backend.address)).await;
        let clients = (0..32).map(|n| {
            let address = gateway.client();
            async move {
                let mut client = address.await;
                for m in 0..200 {
                    let id = format!("{n}-{m}");
                    let answer = client
                        .ask(format!(
                            "GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n"
                        ))
                        .await;
                    if answer.status() == 200 {
                        assert_eq!(answer.text(), id);
                    }
                }
            }
        });
        futures_util::future::join_all(clients).await;
    });
}

#[test]
fn an_upstream_may_close_at_any_byte_of_its_answer() {
    run(async {
        for end in 0..=OK.len() {
            // On a new connection, then on a pooled one.
            for number in [0, 1] {
                let backend = Backend::start(move |mut peer| async move {
                    for served in 0.. {
                        if peer.request().await.is_none() {
                            return;
                        }
                        if served == number && peer.number == 0 {
                            peer.write(&OK[..end]).await;
                            return;
                        }
                        peer.write(OK).await;
                    }
                })
                .await;
                let gateway = Gateway::start(to(backend.address)).await;
                let what = format!("{end} bytes of answer {number}");
                let mut client = gateway.client().await;
                for _ in 0..number {
                    assert_eq!(client.ask(GET).await.text(), "ok", "{what}");
                }
                client.write(GET).await;
                let answer = client.response("GET").await;
                let status = answer.as_ref().map(|answer| answer.status());
                let body = OK.len() - 2;
                let expected = match (end, number) {
                    (0, 0) => Some(503),
                    (0, _) => Some(200),
                    (end, _) if end < body => Some(502),
                    (end, _) if end < OK.len() => None,
                    _ => Some(200),
                };
                assert_eq!(status, expected, "{what}");
                let sent = backend.seen.borrow().len();
                let again = usize::from(end == 0 && number == 1);
                assert_eq!(sent, number + 1 + again, "{what}");
                if status.is_some() {
                    assert_eq!(client.ask(GET).await.text(), "ok", "after {what}");
                }
            }
        }
    });
}
