// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests that break the rules: refused once, in turn, and never sent on.

use std::time::Duration;

use super::rig::{Backend, Gateway, run, to};
use crate::{http::HttpLimits, telemetry::access::CloseReason};

const REFUSAL: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// One of each kind; the tables of `validate` and `framing` have them all.
const BAD: &[&str] = &[
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n1",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
    "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
    "GET / HTTP/1.1\nHost: a\n\n",
    "GET / HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "G{T / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0000000000000001\r\na\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\naX0\r\n\r\n",
    "GET /\r\n",
    "GET / HTTP/1.3\r\nHost: a\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    "\x16\x03\x01\x02\x00\x01",
];

#[test]
fn a_bad_request_is_refused_once_and_not_sent_on() {
    run(async {
        let backend = Backend::echo().await;
        let gateway = Gateway::start(to(backend.address)).await;
        for (n, bad) in BAD.iter().enumerate() {
            let mut client = gateway.client().await;
            client.write(bad).await;
            let all = String::from_utf8_lossy(&client.rest().await).into_owned();
            assert_eq!(all, REFUSAL, "{bad:?}");
            drop(client);
            assert_eq!(
                gateway.closed(n + 1).await[n],
                CloseReason::BadRequest,
                "{bad:?}"
            );
        }
        assert_eq!(backend.seen.borrow().len(), 0);
        assert_eq!(gateway.counters.bad_requests.value(), BAD.len() as u64);
        assert_eq!(gateway.counters.responses[3].value(), BAD.len() as u64);
    });
}

#[test]
fn a_bad_request_is_refused_byte_by_byte_as_well() {
    run(async {
        let backend = Backend::echo().await;
        let gateway = Gateway::start(to(backend.address)).await;
        for bad in BAD
            .iter()
            .filter(|bad| !bad.contains("\r\n\r\n0000") && !bad.contains("aX0"))
        {
            let mut client = gateway.client().await;
            for byte in bad.bytes() {
                // The refusal may come before the last byte.
                let _ = tokio::io::AsyncWriteExt::write_all(&mut client.stream, &[byte]).await;
                tokio::task::yield_now().await;
            }
            let all = String::from_utf8_lossy(&client.rest().await).into_owned();
            assert_eq!(all, REFUSAL, "{bad:?}");
        }
        assert_eq!(backend.seen.borrow().len(), 0);
    });
}

#[test]
fn good_requests_pass_byte_by_byte() {
    run(async {
        let backend = Backend::echo().await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        let requests = "POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                        3\r\nabc\r\n0\r\n\r\n\
                        POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nde";
        for byte in requests.bytes() {
            client.write([byte]).await;
            tokio::task::yield_now().await;
        }
        for expected in ["/1|abc", "/2|de"] {
            let answer = client.response("POST").await.expect("an answer");
            assert_eq!(answer.text(), expected);
        }
    });
}

#[test]
fn pipelined_requests_are_answered_in_turn() {
    run(async {
        let backend = Backend::echo().await;
        let gateway = Gateway::start(to(backend.address)).await;
        for count in [2, 3, 10, 100] {
            let mut client = gateway.client().await;
            let requests: String = (0..count)
                .map(|n| format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"))
                .collect();
            client.write(requests).await;
            for n in 0..count {
                let answer = client.response("POST").await.expect("an answer");
                assert_eq!(answer.text(), format!("/{n}|hi"), "of {count}");
            }
        }
    });
}

#[test]
fn the_refusal_comes_after_the_answers_before_it() {
    run(async {
        let backend = Backend::start(|mut peer| async move {
            while let Some(request) = peer.request().await {
                // Slow, so that the bad request waits its turn.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let target = request
                    .start
                    .split(' ')
                    .nth(1)
                    .unwrap_or_default()
                    .to_owned();
                peer.write(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                    target.len()
                ))
                .await;
                peer.write(target).await;
            }
        })
        .await;
        let gateway = Gateway::start(to(backend.address)).await;
        for bad in BAD {
            let before = backend.seen.borrow().len();
            let mut client = gateway.client().await;
            let good: String = (0..3)
                .map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"))
                .collect();
            client
                .write(format!("{good}{bad}GET /after HTTP/1.1\r\nHost: a\r\n\r\n"))
                .await;
            for n in 0..3 {
                let answer = client.response("GET").await.expect("an answer");
                assert_eq!(answer.text(), format!("/{n}"), "{bad:?}");
            }
            let rest = String::from_utf8_lossy(&client.rest().await).into_owned();
            assert_eq!(rest, REFUSAL, "{bad:?}");
            assert_eq!(backend.seen.borrow().len(), before + 3, "{bad:?}");
        }
    });
}

#[test]
fn a_request_behind_a_streaming_body_waits() {
    run(async {
        let backend = Backend::echo().await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        client
            .write("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
            .await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        client
            .write("defGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\n\r\n")
            .await;
        let answer = client.response("POST").await.expect("an answer");
        assert_eq!(answer.text(), "/1|abcdef");
        let answer = client.response("GET").await.expect("an answer");
        assert_eq!(answer.text(), "/2|");
        assert_eq!(String::from_utf8_lossy(&client.rest().await), REFUSAL);
    });
}

#[test]
fn a_body_that_breaks_off_its_framing_gets_one_400() {
    run(async {
        let backend = Backend::echo().await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.write(format!("{head}3\r\nabc\r\n")).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        client.write("zz\r\n").await;
        let answer = client.response("POST").await.expect("an answer");
        assert_eq!(answer.status(), 400);
        assert_eq!(answer.field("connection"), Some("close"));
        assert!(client.rest().await.is_empty());
        assert_eq!(gateway.closed(1).await, [CloseReason::BadRequest]);
        assert_eq!(backend.seen.borrow().len(), 0, "never complete upstream");
        assert_eq!(gateway.counters.bad_requests.value(), 1);
    });
}

#[test]
fn heads_over_the_limits_are_431_and_connect_is_405() {
    run(async {
        let backend = Backend::echo().await;
        let gateway = Gateway::start(to(backend.address)).await;
        let long = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "a".repeat(70_000)
        );
        let many = format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "X: a\r\n".repeat(200)
        );
        let connect = "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".to_owned();
        for (request, status) in [(long, 431), (many, 431), (connect, 405)] {
            let mut client = gateway.client().await;
            client.write(request).await;
            let answer = client.response("GET").await.expect("an answer");
            assert_eq!(answer.status(), status);
            assert!(client.rest().await.is_empty());
        }
        let long = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "a".repeat(60_000)
        );
        let mut client = gateway.client().await;
        assert_eq!(client.ask(long).await.status(), 200);
    });
}

#[test]
fn slow_heads_and_idle_connections_end() {
    run(async {
        let backend = Backend::echo().await;
        let limits = HttpLimits {
            head_timeout: Duration::from_millis(100),
            idle_timeout: Duration::from_millis(200),
            ..HttpLimits::default()
        };
        let gateway = Gateway::with(to(backend.address), limits).await;
        let mut slow = gateway.client().await;
        slow.write("GET / HT").await;
        assert_eq!(
            slow.response("GET").await.map(|answer| answer.status()),
            Some(408)
        );
        assert_eq!(gateway.closed(1).await, [CloseReason::RequestTimeout]);
        let mut silent = gateway.client().await;
        assert!(silent.rest().await.is_empty());
        assert_eq!(gateway.closed(2).await[1], CloseReason::RequestTimeout);
        let mut idle = gateway.client().await;
        assert_eq!(
            idle.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status(),
            200
        );
        assert!(idle.rest().await.is_empty());
        assert_eq!(gateway.closed(3).await[2], CloseReason::Done);
        let mut second = gateway.client().await;
        assert_eq!(
            second
                .ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .await
                .status(),
            200
        );
        second.write("GET /").await;
        assert_eq!(
            second.response("GET").await.map(|answer| answer.status()),
            Some(408)
        );
    });
}

#[test]
fn drain_closes_idle_connections_and_finishes_busy_ones() {
    run(async {
        let backend = Backend::start(|mut peer| async move {
            while let Some(request) = peer.request().await {
                if request.start.contains("/slow") {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                peer.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .await;
            }
        })
        .await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut idle = gateway.client().await;
        idle.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut busy = gateway.client().await;
        busy.write("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
        super::rig::until(|| backend.seen.borrow().len() == 2).await;
        gateway.drain.start();
        assert!(idle.rest().await.is_empty());
        let answer = busy.response("GET").await.expect("an answer");
        assert_eq!(answer.text(), "ok");
        assert_eq!(answer.field("connection"), Some("close"));
        assert!(busy.rest().await.is_empty());
        assert_eq!(gateway.closed(2).await, [CloseReason::Drained; 2]);
    });
}
