// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Clients of HTTP/2 with prior knowledge.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::rig::{Backend, Gateway, run, to};
use crate::telemetry::access::CloseReason;

#[derive(Clone)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

async fn client(gateway: &Gateway) -> http2::SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(gateway.address)
        .await
        .expect("connected");
    let (sender, connection) = http2::handshake(Local, TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    tokio::task::spawn_local(connection);
    sender
}

fn request(method: &str, target: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(format!("http://a.test{target}"))
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .expect("a request")
}

async fn text(response: Response<Incoming>) -> String {
    let bytes = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn concurrent_streams_get_their_own_answers() {
    run(async {
        let backend = Backend::echo().await;
        let gateway = Gateway::start(to(backend.address)).await;
        let sender = client(&gateway).await;
        let asked = (0..100).map(|n| {
            let mut sender = sender.clone();
            async move {
                let target = format!("/{n}?q");
                sender.ready().await.expect("open");
                let response = sender
                    .send_request(request("POST", &target, "body"))
                    .await
                    .expect("an answer");
                assert_eq!(response.status(), 200);
                assert_eq!(text(response).await, format!("{target}|body"));
            }
        });
        futures_util::future::join_all(asked).await;
        let seen = backend.last();
        assert_eq!(seen.field("host"), Some("a.test"));
        assert!(seen.start.ends_with("HTTP/1.1"));
        assert_eq!(gateway.counters.responses[1].value(), 100);
    });
}

#[test]
fn host_must_agree_and_cookies_are_joined() {
    run(async {
        let backend = Backend::echo().await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut sender = client(&gateway).await;
        let mut wrong = request("GET", "/", "");
        wrong
            .headers_mut()
            .insert("host", http::HeaderValue::from_static("b.test"));
        let response = sender.send_request(wrong).await.expect("an answer");
        assert_eq!(response.status(), 400);
        assert_eq!(backend.seen.borrow().len(), 0);
        assert_eq!(gateway.counters.bad_requests.value(), 1);
        let mut cookies = request("GET", "/", "");
        for cookie in ["a=1", "b=2"] {
            cookies
                .headers_mut()
                .append("cookie", http::HeaderValue::from_static(cookie));
        }
        let response = sender.send_request(cookies).await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(backend.last().field("cookie"), Some("a=1; b=2"));
    });
}

#[test]
fn trailers_of_an_answer_pass() {
    run(async {
        let backend = Backend::fixed(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status\r\n\r\n\
             2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n",
        )
        .await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut sender = client(&gateway).await;
        let mut asked = request("POST", "/", "x");
        asked
            .headers_mut()
            .insert("te", http::HeaderValue::from_static("trailers"));
        let response = sender.send_request(asked).await.expect("an answer");
        let collected = response.into_body().collect().await.expect("a body");
        let trailers = collected.trailers().expect("trailers");
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(backend.last().field("te"), Some("trailers"));
    });
}

#[test]
fn a_stream_that_breaks_off_does_not_disturb_the_others() {
    run(async {
        let backend = Backend::start(|mut peer| async move {
            while let Some(request) = peer.request().await {
                if request.start.contains("/cut") {
                    peer.write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut")
                        .await;
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                peer.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .await;
            }
        })
        .await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut sender = client(&gateway).await;
        let cut = sender.send_request(request("GET", "/cut", ""));
        let whole = sender.send_request(request("GET", "/whole", ""));
        let (cut, whole) = futures_util::future::join(cut, whole).await;
        assert!(cut.expect("a head").into_body().collect().await.is_err());
        assert_eq!(text(whole.expect("an answer")).await, "ok");
    });
}

#[test]
fn drain_sends_goaway_and_finishes_open_streams() {
    run(async {
        let backend = Backend::start(|mut peer| async move {
            while peer.request().await.is_some() {
                tokio::time::sleep(Duration::from_millis(50)).await;
                peer.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .await;
            }
        })
        .await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut sender = client(&gateway).await;
        let open = tokio::task::spawn_local(sender.send_request(request("GET", "/", "")));
        super::rig::until(|| backend.seen.borrow().len() == 1).await;
        gateway.drain.start();
        let response = open.await.expect("run").expect("an answer");
        assert_eq!(text(response).await, "ok");
        assert_eq!(gateway.closed(1).await, [CloseReason::Drained]);
    });
}

#[test]
fn the_preface_is_recognised_byte_by_byte() {
    run(async {
        let backend = Backend::echo().await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut stream = TcpStream::connect(gateway.address)
            .await
            .expect("connected");
        stream.set_nodelay(true).expect("a TCP socket");
        let settings = b"\0\0\0\x04\0\0\0\0\0";
        for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".iter().chain(settings) {
            stream.write_all(&[*byte]).await.expect("sent");
            tokio::task::yield_now().await;
        }
        let mut frame = [0; 9];
        stream.read_exact(&mut frame).await.expect("a frame");
        assert_eq!(frame[3], 4, "SETTINGS");
    });
}
