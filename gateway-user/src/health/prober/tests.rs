// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The thread that asks, against real sockets.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use super::Prober;
use crate::model::{Probe, ProbeProtocol, ProbeTarget};

const LIMIT: Duration = Duration::from_secs(20);

/// `count` loopback addresses with one port.
fn targets(
    count: u8,
    port: u16,
    protocol: &ProbeProtocol,
    timeout: Duration,
) -> BTreeSet<ProbeTarget> {
    let probe = Arc::new(Probe {
        protocol: protocol.clone(),
        port: None,
        proxy_protocol: None,
        interval: Duration::from_millis(100),
        timeout,
        unhealthy_threshold: 2,
        healthy_threshold: 2,
    });
    (1..=count)
        .map(|last| ProbeTarget {
            address: SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port)),
            probe: Arc::clone(&probe),
        })
        .collect()
}

async fn until_down(prober: &mut Prober, count: usize) {
    let start = Instant::now();
    while prober.down().len() != count {
        assert!(start.elapsed() < LIMIT, "{:?}", prober.report());
        let _ = tokio::time::timeout(LIMIT, prober.changed()).await;
    }
}

#[tokio::test]
async fn verdicts_follow_the_endpoint() {
    let listener = TcpListener::bind("0.0.0.0:0").expect("listen");
    let port = listener.local_addr().expect("an address").port();
    let all = targets(20, port, &ProbeProtocol::Tcp, Duration::from_secs(5));
    let mut prober = Prober::start(64).expect("start");
    prober.want(all.clone());
    prober.settle(LIMIT).await;
    assert!(prober.down().is_empty());
    assert_eq!(prober.report().went_up, 20);

    drop(listener);
    until_down(&mut prober, 20).await;
    assert_eq!(prober.down(), all);

    // One that leaves is not down any more.
    let rest: BTreeSet<ProbeTarget> = all.iter().skip(1).cloned().collect();
    prober.want(rest.clone());
    until_down(&mut prober, 19).await;
    assert_eq!(prober.down(), rest);

    let _listener = TcpListener::bind(("0.0.0.0", port)).expect("listen again");
    until_down(&mut prober, 0).await;
    let report = prober.report();
    assert_eq!((report.went_up, report.went_down), (39, 20));
}

#[tokio::test]
async fn what_is_down_is_known_when_all_have_a_verdict() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("an address").port();
    let mut prober = Prober::start(64).expect("start");
    prober.settle(LIMIT).await;
    // Only the first address has a listener.
    prober.want(targets(
        9,
        port,
        &ProbeProtocol::Tcp,
        Duration::from_millis(100),
    ));
    prober.settle(LIMIT).await;
    assert_eq!(prober.down().len(), 8);
}

#[tokio::test]
async fn no_more_probes_than_allowed_are_under_way() {
    let listener = TcpListener::bind("0.0.0.0:0").expect("listen");
    let port = listener.local_addr().expect("an address").port();
    listener.set_nonblocking(true).expect("an option");
    let mut prober = Prober::start(3).expect("start");
    // Nobody answers, and nobody gives up.
    prober.want(targets(
        12,
        port,
        &ProbeProtocol::Kafka,
        Duration::from_secs(60),
    ));
    let mut open: Vec<TcpStream> = Vec::new();
    let start = Instant::now();
    while open.len() < 3 {
        assert!(start.elapsed() < LIMIT, "{} probes began", open.len());
        match listener.accept() {
            Ok((stream, _)) => open.push(stream),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    prober.settle(Duration::from_millis(300)).await;
    let more = listener.accept().map(drop).map_err(|error| error.kind());
    assert_eq!(more, Err(ErrorKind::WouldBlock), "a fourth probe began");

    // The thread ends with its owner, and the probes with the thread.
    drop(prober);
    for mut stream in open {
        stream.set_nonblocking(false).expect("an option");
        stream.set_read_timeout(Some(LIMIT)).expect("an option");
        let mut asked = Vec::new();
        stream.read_to_end(&mut asked).expect("the probe ends");
        assert_eq!(asked.len(), 27, "one question");
    }
}
