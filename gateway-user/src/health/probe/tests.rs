// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Probes of servers that answer what no server should.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use proptest::prelude::*;

use super::{MAX_ANSWER, Outcome, ask, client_config, http};
use crate::model::{HttpProbe, Probe, ProbeProtocol, ProbeTarget, ProxyProtocol};

fn protocols() -> [ProbeProtocol; 4] {
    [
        ProbeProtocol::Http(HttpProbe {
            path: "/".to_owned(),
            host: "test".to_owned(),
            status_from: 200,
            status_to: 299,
        }),
        ProbeProtocol::Tls {
            server_name: "test.example".to_owned(),
        },
        ProbeProtocol::Mqtt,
        ProbeProtocol::Kafka,
    ]
}

/// A server that does `answer` with its one connection, in a thread.
fn server(answer: impl FnOnce(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        if let Ok((stream, _)) = listener.accept() {
            answer(stream);
        }
    });
    address
}

async fn outcome(address: SocketAddr, protocol: ProbeProtocol, timeout_ms: u64) -> Outcome {
    outcome_behind(None, address, protocol, timeout_ms).await
}

async fn outcome_behind(
    proxy_protocol: Option<ProxyProtocol>,
    address: SocketAddr,
    protocol: ProbeProtocol,
    timeout_ms: u64,
) -> Outcome {
    let probe = Probe {
        protocol,
        port: None,
        proxy_protocol,
        interval: Duration::from_secs(60),
        timeout: Duration::from_millis(timeout_ms),
        unhealthy_threshold: 1,
        healthy_threshold: 1,
    };
    let target = ProbeTarget {
        address,
        probe: Arc::new(probe),
    };
    ask(&target, &client_config().expect("TLS")).await
}

/// Reads once, so that a close is not a reset.
fn hear(stream: &mut TcpStream) {
    let _ = stream.read(&mut [0; 4096]);
}

#[tokio::test]
async fn a_free_port_refuses_and_an_open_one_passes() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("an address");
    let passed = outcome(address, ProbeProtocol::Tcp, 5_000).await;
    assert_eq!(passed, Outcome::Passed);
    drop(listener);
    for protocol in protocols().into_iter().chain([ProbeProtocol::Tcp]) {
        assert_eq!(outcome(address, protocol, 5_000).await, Outcome::Refused);
    }
}

#[tokio::test]
async fn a_probe_says_that_it_is_for_no_client() {
    // PROXY UNKNOWN, and LOCAL without an address (proxy-protocol.txt).
    let headers: [(ProxyProtocol, &[u8]); 2] = [
        (ProxyProtocol::V1, b"PROXY UNKNOWN\r\n"),
        (ProxyProtocol::V2, b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"),
    ];
    for (version, expected) in headers {
        for protocol in protocols().into_iter().chain([ProbeProtocol::Tcp]) {
            let (heard, header) = std::sync::mpsc::channel();
            let address = server(move |mut stream| {
                let mut bytes = vec![0; expected.len()];
                let _ = stream.read_exact(&mut bytes);
                let mut asked = [0; 4];
                let len = stream.read(&mut asked).unwrap_or(0);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
                let _ = heard.send((bytes, asked[..len].to_vec()));
            });
            let got = outcome_behind(Some(version), address, protocol.clone(), 5_000).await;
            let (bytes, asked) = header.recv().expect("a connection");
            assert_eq!(bytes, expected, "{protocol:?}");
            match protocol {
                ProbeProtocol::Tcp => assert_eq!((got, asked), (Outcome::Passed, vec![])),
                ProbeProtocol::Http(_) => {
                    assert_eq!((got, asked), (Outcome::Passed, b"GET ".to_vec()));
                }
                _ => assert_eq!(asked.len(), 4, "{protocol:?}"),
            }
        }
    }
}

#[tokio::test]
async fn silence_ends_with_the_timeout() {
    for protocol in protocols() {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let address = server(move |stream| {
            let _ = held.recv();
            drop(stream);
        });
        let got = outcome(address, protocol.clone(), 200).await;
        assert_eq!(got, Outcome::Timeout, "{protocol:?}");
        drop(hold);
    }
}

#[tokio::test]
async fn garbage_is_a_bad_answer() {
    for protocol in protocols() {
        let address = server(|mut stream| {
            hear(&mut stream);
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n\r\n");
            // Waits for the other side, so that what was written is read.
            hear(&mut stream);
        });
        let got = outcome(address, protocol.clone(), 5_000).await;
        assert_eq!(got, Outcome::BadAnswer, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_close_without_an_answer_is_no_success() {
    for protocol in protocols() {
        let address = server(|mut stream| hear(&mut stream));
        let got = outcome(address, protocol.clone(), 5_000).await;
        assert_eq!(got, Outcome::Closed, "{protocol:?}");
    }
}

/// The server never stops: what it gets rid of is what the probe read and what
/// fits into the buffers of both sockets.
#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let starts: [&[u8]; 4] = [
        b"HTTP/1.1 200 OK\r\nX: ",
        // A handshake message of 16 MiB, and its records.
        b"\x16\x03\x03\x40\x00\x02\xff\xff\xff",
        b"\x30",
        b"\x00",
    ];
    for (protocol, start) in protocols().into_iter().zip(starts) {
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&sent);
        let address = server(move |mut stream| {
            hear(&mut stream);
            let mut more = start.to_vec();
            more.resize(16 * 1024, b'a');
            while let Ok(count @ 1..) = stream.write(&more) {
                counter.fetch_add(count, Ordering::Relaxed);
                if counter.load(Ordering::Relaxed) > 64 * MAX_ANSWER {
                    return;
                }
            }
        });
        let got = outcome(address, protocol.clone(), 5_000).await;
        assert_eq!(got, Outcome::BadAnswer, "{protocol:?}");
        let sent = sent.load(Ordering::Relaxed);
        assert!(sent <= 32 * MAX_ANSWER, "{protocol:?}: took {sent} bytes");
    }
}

/// One byte at a time keeps a probe no longer than its timeout.
#[tokio::test]
async fn a_trickle_ends_with_the_timeout() {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let address = server(move |mut stream| {
        for byte in b"HTTP/1.1 200 OK\r\nX: "
            .iter()
            .chain([b'a'].iter().cycle())
        {
            if stream.write_all(&[*byte]).is_err()
                || !matches!(
                    held.recv_timeout(Duration::from_millis(5)),
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout)
                )
            {
                return;
            }
        }
    });
    let [http, ..] = protocols();
    assert_eq!(outcome(address, http, 200).await, Outcome::Timeout);
    drop(hold);
}

#[tokio::test]
async fn a_status_outside_the_wanted_ones_is_not_serving() {
    for (answer, expected) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", Outcome::Passed),
        ("HTTP/1.0 200 OK\r\n\r\n", Outcome::Passed),
        (
            "HTTP/1.1 503 Service Unavailable\r\n\r\n",
            Outcome::NotServing,
        ),
        ("HTTP/1.1 100 Continue\r\n\r\n", Outcome::NotServing),
        ("HTTP/1.1 200 OK\r\nX: y\r\n", Outcome::Closed),
        ("HTTP/1.1 2000 OK\r\n\r\n", Outcome::BadAnswer),
        ("HTTP/2 200\r\n\r\n", Outcome::BadAnswer),
    ] {
        let address = server(move |mut stream| {
            hear(&mut stream);
            let _ = stream.write_all(answer.as_bytes());
            let _ = stream.shutdown(std::net::Shutdown::Write);
            hear(&mut stream);
        });
        let [http, ..] = protocols();
        assert_eq!(outcome(address, http, 5_000).await, expected, "{answer}");
    }
}

proptest! {
    /// Whatever arrives, in whatever pieces, the verdict on a head never
    /// changes once it is there.
    #[test]
    fn more_bytes_never_change_a_status(
        code in 200_u16..600,
        reason in "[ -~]{0,20}",
        rest in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let head = format!("HTTP/1.1 {code} {reason}\r\nServer: x\r\n\r\n");
        for end in 0..head.len() {
            prop_assert_eq!(http::status(&head.as_bytes()[..end]), Ok(None));
        }
        let mut all = head.into_bytes();
        all.extend(rest);
        prop_assert_eq!(http::status(&all), Ok(Some(code)));
    }

    #[test]
    fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(Some(code)) = http::status(&bytes) {
            prop_assert!(code < 1_000);
        }
    }
}
