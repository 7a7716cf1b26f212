// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bodies in both directions, and clients that behave badly in the middle.

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::rig::{Backend, Gateway, run, to, until};
use crate::{http::HttpLimits, telemetry::access::CloseReason};

#[test]
fn chunked_bodies_pass_both_ways() {
    run(async {
        let backend = Backend::start(|mut peer| async move {
            while let Some(request) = peer.request().await {
                let body = request.text();
                peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    .await;
                for piece in body.as_bytes().chunks(3) {
                    peer.write(format!("{:x}\r\n", piece.len())).await;
                    peer.write(piece).await;
                    peer.write("\r\n").await;
                }
                peer.write("0\r\n\r\n").await;
            }
        })
        .await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        for method in ["POST", "PUT", "GET"] {
            let answer = client
                .ask(format!(
                    "{method} / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                     5;x=y\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n"
                ))
                .await;
            assert_eq!(answer.text(), "hello, world", "{method}");
            assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
            assert_eq!(backend.last().field("transfer-encoding"), Some("chunked"));
        }
        assert_eq!(backend.connections.get(), 1);
    });
}

#[test]
fn large_bodies_pass_both_ways() {
    run(async {
        let backend = Backend::echo().await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        let body = vec![b'x'; 3_000_000];
        let head = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut request = head.into_bytes();
        request.extend_from_slice(&body);
        let answer = client.ask(request).await;
        assert_eq!(answer.body.len(), body.len() + 2);
    });
}

#[test]
fn responses_without_a_body_have_none() {
    let cases = [
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            200,
            Some("9"),
        ),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            200,
            None,
        ),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        (
            "GET",
            "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            204,
            None,
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
            304,
            None,
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            200,
            Some("0"),
        ),
    ];
    run(async move {
        for (method, bytes, status, length) in cases {
            let backend = Backend::fixed(bytes).await;
            let gateway = Gateway::start(to(backend.address)).await;
            let mut client = gateway.client().await;
            for _ in 0..3 {
                let answer = client
                    .ask(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"))
                    .await;
                assert_eq!(answer.status(), status, "{method} {bytes:?}");
                assert_eq!(answer.field("content-length"), length, "{method} {bytes:?}");
            }
            assert_eq!(backend.connections.get(), 1, "{method} {bytes:?}: kept");
        }
    });
}

#[test]
fn a_body_until_close_is_framed_for_the_client() {
    run(async {
        let backend = Backend::start(|mut peer| async move {
            peer.request().await;
            peer.write("HTTP/1.1 200 OK\r\n\r\nall of it").await;
        })
        .await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        for n in 1..=2 {
            let answer = client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert_eq!(answer.text(), "all of it");
            assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
            assert_eq!(backend.connections.get(), n, "never pooled");
        }
    });
}

#[test]
fn a_client_of_http_1_0_gets_a_body_until_close() {
    run(async {
        let backend = Backend::fixed(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        )
        .await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        client.write("GET / HTTP/1.0\r\n\r\n").await;
        let all = String::from_utf8(client.rest().await).expect("ASCII");
        assert!(all.ends_with("\r\n\r\nok"), "{all}");
        assert!(!all.contains("chunked"), "{all}");
        assert!(backend.last().field("host").is_some());
    });
}

#[test]
fn interim_responses_are_not_taken_for_the_answer() {
    run(async {
        let backend = Backend::fixed(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        for _ in 0..2 {
            let answer = client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"));
        }
        assert_eq!(backend.connections.get(), 1);
    });
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it() {
    run(async {
        let backend = Backend::echo().await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        let interim = client
            .ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
            .await;
        assert_eq!(interim.status(), 100);
        client.write("hi").await;
        let answer = client.response("POST").await.expect("an answer");
        assert_eq!(answer.text(), "/|hi");
        assert_eq!(backend.last().field("expect"), None);
        let refused = client
            .ask("GET / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n")
            .await;
        assert_eq!(refused.status(), 417);
    });
}

#[test]
fn trailers_pass_where_te_allows() {
    run(async {
        let backend = Backend::fixed(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
             2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n",
        )
        .await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        let answer = client
            .ask("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: te\r\n\r\n")
            .await;
        assert_eq!(answer.trailers.to_ascii_lowercase(), "x-sum: 7\n");
        let answer = client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(answer.trailers, "");
    });
}

#[test]
fn an_early_answer_ends_a_large_upload() {
    run(async {
        let gone = Rc::new(Cell::new(0));
        let count = Rc::clone(&gone);
        let backend = Backend::start(move |mut peer| {
            let gone = Rc::clone(&count);
            async move {
                peer.head().await;
                let mut some = [0; 10];
                peer.stream.read_exact(&mut some).await.expect("body bytes");
                peer.write("HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nmuch")
                    .await;
                peer.ended().await;
                gone.set(gone.get() + 1);
            }
        })
        .await;
        let gateway = Gateway::start(to(backend.address)).await;
        let client = gateway.client().await;
        let (mut read, mut write) = client.stream.into_split();
        let upload = tokio::task::spawn_local(async move {
            let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n";
            write.write_all(head.as_bytes()).await?;
            for _ in 0..100 {
                write.write_all(&[b'x'; 100_000]).await?;
            }
            std::io::Result::Ok(write)
        });
        let mut all = Vec::new();
        let _ = tokio::time::timeout(super::rig::DEADLINE, read.read_to_end(&mut all))
            .await
            .expect("an end in time");
        let all = String::from_utf8_lossy(&all).into_owned();
        assert!(all.starts_with("HTTP/1.1 413 "), "{all}");
        assert!(all.ends_with("\r\n\r\nmuch"), "{all}");
        // Whether the rest could still be sent does not matter.
        let _ = upload.await;
        until(|| gone.get() == 1).await;
    });
}

#[test]
fn an_upstream_that_resets_an_upload_after_its_answer_is_heard() {
    run(async {
        let backend = Backend::start(|mut peer| async move {
            peer.head().await;
            peer.write("HTTP/1.1 403 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
                .await;
            // Dropped with unread bytes: a reset.
        })
        .await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n";
        client.write(head).await;
        let _ = client.stream.write_all(&[b'x'; 500_000]).await;
        let answer = client.response("POST").await.expect("an answer");
        assert_eq!(answer.status(), 403);
    });
}

#[test]
fn a_client_that_gives_up_ends_its_upstream_request() {
    run(async {
        let gone = Rc::new(Cell::new(0));
        let count = Rc::clone(&gone);
        let backend = Backend::start(move |mut peer| {
            let gone = Rc::clone(&count);
            async move {
                peer.request().await;
                if peer.number == 1 {
                    peer.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
                        .await;
                }
                peer.ended().await;
                gone.set(gone.get() + 1);
            }
        })
        .await;
        let gateway = Gateway::start(to(backend.address)).await;
        // Before the answer, then in the middle of it.
        for n in 1..=2 {
            let mut client = gateway.client().await;
            client.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            until(|| backend.seen.borrow().len() == n).await;
            drop(client);
            until(|| gone.get() == n).await;
        }
        assert_eq!(gateway.closed(2).await, [CloseReason::ClientReset; 2]);
    });
}

#[test]
fn a_slow_client_does_not_make_us_hold_the_answer() {
    run(async {
        let sent = Rc::new(Cell::new(0_usize));
        let count = Rc::clone(&sent);
        let backend = Backend::start(move |mut peer| {
            let sent = Rc::clone(&count);
            async move {
                peer.request().await;
                peer.write("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
                    .await;
                let piece = vec![b'x'; 100_000];
                while sent.get() < 100_000_000 {
                    if peer.stream.write_all(&piece).await.is_err() {
                        return;
                    }
                    sent.set(sent.get() + piece.len());
                }
            }
        })
        .await;
        let limits = HttpLimits {
            stall_timeout: Duration::from_millis(300),
            ..HttpLimits::default()
        };
        let gateway = Gateway::with(to(backend.address), limits).await;
        let mut client = gateway.client().await;
        client.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(gateway.closed(1).await, [CloseReason::IdleTimeout]);
        assert!(sent.get() < 50_000_000, "{} of 100 MB taken", sent.get());
    });
}
