// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Decisions, and what a waiting connection costs. Whole connections are tested
//! with the listener room.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use super::{
    Worker,
    client_hello::{Hello, Outcome},
    decide::{Decision, Step, decide, decide_tls, find_chain, http_table},
    limits::{ConnectionLimits, HttpLimits},
    serve,
};
use crate::{
    drain,
    model::{HandoffPolicy, HashPolicy, Sources},
    origin::Origin,
    snapshot::{
        ChainAction, HttpTable, Listener, ListenerTable, SnapshotHandle, SniTable, TcpAction,
        TlsChain,
    },
    telemetry::access::CloseReason,
};

fn passthrough(line: u32) -> Arc<TlsChain> {
    let origin = Origin::new("test.yaml", line);
    Arc::new(TlsChain {
        origin: origin.clone(),
        action: ChainAction::Passthrough(Arc::new(TcpAction {
            origin,
            destinations: Vec::new(),
            idle_timeout: None,
            hash_policy: HashPolicy::FiveTuple,
            handoff: HandoffPolicy::default(),
            kept_port: None,
        })),
    })
}

fn table(default: bool) -> SniTable {
    SniTable {
        exact: HashMap::from([
            ("a.example.com".into(), passthrough(1)),
            ("example.com".into(), passthrough(2)),
        ]),
        suffixes: HashMap::from([
            (".example.com".into(), passthrough(3)),
            (".b.example.com".into(), passthrough(4)),
            (".com".into(), passthrough(5)),
        ]),
        default: default.then(|| passthrough(6)),
    }
}

#[test]
fn exact_beats_the_longest_suffix_beats_the_default() {
    let cases = [
        (Some("a.example.com"), Some(1)),
        (Some("example.com"), Some(2)),
        (Some("b.example.com"), Some(3)),
        (Some("x.a.example.com"), Some(3)),
        (Some("x.b.example.com"), Some(4)),
        (Some("y.x.b.example.com"), Some(4)),
        (Some("other.com"), Some(5)),
        (Some("com"), Some(6)),
        (Some("localhost"), Some(6)),
        (None, Some(6)),
    ];
    for (sni, expected) in cases {
        let line = |table: &SniTable| find_chain(table, sni).map(|chain| chain.origin.line);
        assert_eq!(line(&table(true)), expected, "{sni:?}");
        let without = expected.filter(|&line| line != 6);
        assert_eq!(line(&table(false)), without, "{sni:?} without a default");
    }
}

#[test]
fn what_cannot_be_routed_is_refused_with_its_reason() {
    let hello = |sni: Option<&str>| {
        Outcome::Hello(Hello {
            sni: sni.map(str::to_owned),
            ..Hello::default()
        })
    };
    let cases = [
        (hello(Some("localhost")), CloseReason::UnknownSni),
        (hello(None), CloseReason::NoSni),
        (Outcome::NotTls, CloseReason::NotTls),
        (Outcome::Malformed, CloseReason::HelloMalformed),
        (Outcome::TooLarge, CloseReason::HelloTooLarge),
        (Outcome::NeedMore, CloseReason::HelloIncomplete),
    ];
    for (outcome, expected) in cases {
        match decide_tls(&table(false), &outcome) {
            Decision::Refuse(reason) => assert_eq!(reason, expected, "{outcome:?}"),
            other => panic!("{outcome:?}: {other:?}"),
        }
    }
    let decision = decide_tls(&table(true), &hello(None));
    assert!(matches!(decision, Decision::Passthrough(chain, _) if chain.origin.line == 6));
    assert!(matches!(
        decide(None, Ipv4Addr::LOCALHOST.into()),
        Step::Act(Decision::Refuse(CloseReason::NoListener))
    ));
}

#[test]
fn a_kept_http_connection_finds_the_table_of_its_listener() {
    let listener = |table| Listener {
        origin: Origin::new("test.yaml", 1),
        table,
        sources: Sources::everyone(),
    };
    let http = Arc::new(HttpTable::default());
    let plain = listener(ListenerTable::PlainHttp(Arc::clone(&http)));
    let found = http_table(Some(&plain), None).expect("a table");
    assert!(Arc::ptr_eq(&found, &http));
    // Another kind of listener has taken its place, or none has.
    let tls = listener(ListenerTable::Tls(table(true)));
    assert!(http_table(Some(&tls), Some("a.example.com")).is_none());
    assert!(http_table(None, None).is_none());
}

#[tokio::test]
async fn a_connection_is_small_while_it_waits() {
    let (_trigger, watcher) = drain::channel();
    let worker = Worker::new(
        SnapshotHandle::new(),
        ConnectionLimits::default(),
        HttpLimits::default(),
        None,
        None,
        Arc::default(),
        watcher,
    );
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .expect("a socket");
    let address = listener.local_addr().expect("an address");
    let (stream, _) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
    let future = serve(stream.expect("a connection"), address, address, worker);
    let size = size_of_val(&future);
    assert!(size < 2048, "{size} bytes");
    future.await;
}
