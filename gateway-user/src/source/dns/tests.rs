// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Resolution against a DNS server of the test's own, and /etc/hosts.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::{
        op::{Message, ResponseCode},
        rr::{RData, Record, RecordType, rdata::A},
    },
};
use tokio::net::UdpSocket;

use crate::source::Resolver;

/// Addresses the server answers with; none means that the name does not exist.
type Zone = Arc<Mutex<Vec<Ipv4Addr>>>;

/// A server for one zone, with a time to live of 0, and a resolver that asks it.
async fn resolver(zone: Zone) -> Resolver {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let port = socket.local_addr().expect("bound").port();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer).await {
            let mut message = Message::from_vec(&buffer[..len])
                .expect("a question")
                .into_response();
            let query = message.queries[0].clone();
            let addresses = zone.lock().expect("not poisoned").clone();
            if addresses.is_empty() {
                message.metadata.response_code = ResponseCode::NXDomain;
            } else if query.query_type() == RecordType::A {
                message.add_answers(
                    addresses
                        .into_iter()
                        .map(|ip| Record::from_rdata(query.name().clone(), 0, RData::A(A(ip)))),
                );
            }
            let bytes = message.to_vec().expect("an answer");
            let _ = socket.send_to(&bytes, peer).await;
        }
    });
    let mut server = NameServerConfig::udp(IpAddr::V4(Ipv4Addr::LOCALHOST));
    server.connections[0].port = port;
    Resolver::with_builder(TokioResolver::builder_with_config(
        ResolverConfig::from_name_servers(vec![server]),
        TokioRuntimeProvider::default(),
    ))
}

fn want(resolver: &mut Resolver, names: &[&str]) {
    resolver.want(names.iter().map(|name| (*name).to_owned()).collect());
}

async fn changes(resolver: &mut Resolver, ms: u64) -> bool {
    tokio::time::timeout(Duration::from_millis(ms), resolver.changed())
        .await
        .is_ok()
}

#[tokio::test]
async fn answers_follow_the_zone_and_survive_its_failure() {
    let first = Ipv4Addr::new(192, 0, 2, 1);
    let second = Ipv4Addr::new(192, 0, 2, 2);
    let zone = Zone::new(Mutex::new(vec![second, first, second]));
    let mut resolver = resolver(Arc::clone(&zone)).await;
    want(&mut resolver, &["a.example", "b.example"]);
    assert!(resolver.answers().is_empty());
    assert!(changes(&mut resolver, 5_000).await);
    let both = vec![IpAddr::V4(first), IpAddr::V4(second)];
    let answers = resolver.answers();
    assert_eq!(
        (&answers["a.example"], &answers["b.example"]),
        (&both, &both)
    );

    *zone.lock().expect("not poisoned") = vec![second];
    want(&mut resolver, &["a.example"]);
    assert!(changes(&mut resolver, 5_000).await);
    assert_eq!(resolver.answers()["a.example"], [IpAddr::V4(second)]);

    zone.lock().expect("not poisoned").clear();
    assert!(!changes(&mut resolver, 1_300).await);
    assert_eq!(resolver.answers()["a.example"], [IpAddr::V4(second)]);

    *zone.lock().expect("not poisoned") = vec![first];
    assert!(changes(&mut resolver, 5_000).await);
    assert_eq!(resolver.answers()["a.example"], [IpAddr::V4(first)]);
}

#[tokio::test]
async fn a_wait_that_is_dropped_loses_nothing() {
    let zone = Zone::new(Mutex::new(vec![Ipv4Addr::LOCALHOST]));
    let mut resolver = resolver(zone).await;
    want(&mut resolver, &["a.example"]);
    let mut rounds = 0;
    while !changes(&mut resolver, 1).await {
        rounds += 1;
        assert!(rounds < 5_000);
    }
    assert_eq!(resolver.answers().len(), 1);
}

#[tokio::test]
async fn the_hosts_file_is_used() {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let loopback = hosts
        .lines()
        .any(|line| line.split_whitespace().eq(["127.0.0.1", "localhost"]));
    if !loopback {
        println!("SKIPPED: /etc/hosts does not name localhost");
        assert!(std::env::var_os("CI").is_none(), "skipped in CI");
        return;
    }
    let mut resolver = Resolver::new();
    resolver.want(BTreeSet::from(["localhost".to_owned()]));
    assert!(changes(&mut resolver, 5_000).await);
    assert!(resolver.answers()["localhost"].contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
}
