// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ClientHellos as no browser sends them: each is routed or refused with a
//! counted reason, and other connections do not notice.

use std::{io::Write, time::Duration};

use gateway_tests::{
    client::raw::{self, End, client_hello, records},
    gateway::Datapath,
};

use crate::scene::{self, backend, passthrough, serve_with, vip};

/// One hello: how its bytes are cut, and the reason it is refused for (none:
/// routed to the backend).
struct Case {
    what: &'static str,
    pieces: Vec<Vec<u8>>,
    refused: Option<&'static str>,
    /// Ends its half after the last piece.
    closes: bool,
}

#[test]
fn strange_hellos_are_routed_or_refused_with_a_reason() {
    let Some(lab) = scene::lab() else { return };
    let greeting = "backend greets\n";
    let _echo = gateway_tests::backend::echo::Echo::start(&lab, 0, 7000, greeting).expect("echo");
    let yaml = passthrough("raw", 443, "a.example.com", &[backend(&lab, 0, 7000)]);
    let bootstrap = "timeouts: {client_hello: 1s}\n";
    let gateway = serve_with(&lab, Datapath::Ebpf, bootstrap, &[("raw.yaml", yaml)]);

    // A connection that is open all the while.
    let hello = records(&client_hello(Some("a.example.com"), 300), 16_384);
    let mut bystander = raw::connect(&lab.client, vip(&lab, 443)).expect("connect");
    bystander.write_all(&hello).expect("write");

    for Case {
        what,
        pieces,
        refused,
        closes,
    } in cases()
    {
        let reason = refused.unwrap_or("done");
        let mode = if refused.is_some() {
            "refused"
        } else {
            "passthrough"
        };
        let before = gateway.closed(mode, reason).expect("status");
        let mut stream = raw::connect(&lab.client, vip(&lab, 443)).expect("connect");
        let segments = pieces.iter().map(Vec::as_slice);
        // A refusal may come before the last piece is out.
        let written = raw::write_segments(&mut stream, segments);
        if closes {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
        if refused.is_none() {
            written.expect(what);
            let sent: usize = pieces.iter().map(Vec::len).sum();
            let _ = stream.shutdown(std::net::Shutdown::Write);
            match raw::read_to_end(&mut stream, Duration::from_secs(5)).expect(what) {
                End::Closed(got) => assert_eq!(got.len(), greeting.len() + sent, "{what}"),
                other => panic!("{what}: {other:?}"),
            }
        } else {
            let end = raw::read_to_end(&mut stream, Duration::from_secs(5)).expect(what);
            assert!(!matches!(end, End::Open(_)), "{what}: {end:?}");
            if let End::Closed(got) = end {
                assert!(!got.starts_with(b"backend"), "{what} reached the backend");
            }
        }
        scene::expect_closed(&gateway, mode, reason, before + 1);
    }

    let end = raw::read_to_end(&mut bystander, Duration::from_millis(200)).expect("read");
    let echoed = [greeting.as_bytes(), &hello].concat();
    assert_eq!(end, End::Open(echoed), "the bystander noticed");
}

fn cases() -> Vec<Case> {
    let known = |size| client_hello(Some("a.example.com"), size);
    let whole = |message: &[u8]| vec![records(message, 16_384)];
    let routed = |what, pieces| Case {
        what,
        pieces,
        refused: None,
        closes: false,
    };
    let refused = |what, pieces, reason| Case {
        what,
        pieces,
        refused: Some(reason),
        closes: false,
    };
    let half = records(&known(400), 16_384)[..200].to_vec();
    vec![
        routed("in one piece", whole(&known(300))),
        routed(
            "in 1-byte segments",
            records(&known(300), 16_384)
                .iter()
                .map(|byte| vec![*byte])
                .collect(),
        ),
        routed("split over records", vec![records(&known(300), 50)]),
        routed(
            "split over records and segments",
            records(&known(600), 37)
                .chunks(11)
                .map(<[u8]>::to_vec)
                .collect(),
        ),
        routed("of 2,000 bytes", whole(&known(2_000))),
        refused("of 70 kB", whole(&known(70_000)), "hello_too_large"),
        refused(
            "without a server name",
            whole(&client_hello(None, 300)),
            "no_sni",
        ),
        refused(
            "with an unknown name",
            whole(&client_hello(Some("b.example.com"), 300)),
            "unknown_sni",
        ),
        refused(
            "not TLS at all",
            vec![b"GET / HTTP/1.1\r\n\r\n".to_vec()],
            "not_tls",
        ),
        refused("stopping half way", vec![half.clone()], "hello_timeout"),
        Case {
            what: "closed half way",
            pieces: vec![half],
            refused: Some("hello_incomplete"),
            closes: true,
        },
    ]
}
