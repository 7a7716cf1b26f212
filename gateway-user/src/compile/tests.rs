// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Compilation of hand-made models.

use std::{net::IpAddr, time::Duration};

use super::{DnsAnswers, compile, dns_names};
use crate::{
    model::{
        Cluster, ClusterId, Endpoint, EndpointAddress, ForwardingMode, HashPolicy, HostPattern,
        ListenAddress, Listener, ListenerKind, LoadBalancing, Model, TcpDestination, TcpRoute,
        TlsAction, TlsChain,
    },
    origin::Origin,
    snapshot::{ListenKey, ListenerTable, Snapshot},
};

fn cluster(name: &str, endpoints: &[EndpointAddress]) -> Cluster {
    Cluster {
        id: ClusterId::new(name, 9000, None),
        endpoints: endpoints
            .iter()
            .map(|address| Endpoint {
                address: address.clone(),
                port: 9000,
                weight: 1,
            })
            .collect(),
        load_balancing: LoadBalancing::default(),
        connect_timeout: Duration::from_secs(1),
    }
}

fn route(name: &str) -> TcpRoute {
    TcpRoute {
        origin: Origin::new("test.yaml", 1),
        destinations: vec![TcpDestination {
            cluster: ClusterId::new(name, 9000, None),
            weight: 1,
        }],
        idle_timeout: None,
        hash_policy: HashPolicy::default(),
        forwarding: ForwardingMode::default(),
    }
}

fn forwarded(port: u16, name: &str) -> Listener {
    Listener {
        address: ListenAddress::Any,
        port,
        kind: ListenerKind::Forward(route(name)),
        origin: Origin::new("test.yaml", 1),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn model(clusters: Vec<Cluster>, listeners: Vec<Listener>) -> Model {
    Model {
        listeners,
        clusters: clusters
            .into_iter()
            .map(|cluster| (cluster.id.clone(), cluster))
            .collect(),
        ..Model::default()
    }
}

#[test]
fn an_unchanged_cluster_keeps_its_identity_and_ids() {
    let model = model(
        vec![cluster("a.test", &[EndpointAddress::Ip(ip("10.0.0.1"))])],
        vec![forwarded(1883, "a.test")],
    );
    let (first, _) = compile(&model, &DnsAnswers::new(), &Snapshot::default());
    let (second, _) = compile(&model, &DnsAnswers::new(), &first);
    assert_eq!(second.generation, 2);
    let id = ClusterId::new("a.test", 9000, None);
    assert!(std::sync::Arc::ptr_eq(
        &first.clusters[&id],
        &second.clusters[&id]
    ));
    assert_eq!(first.backends, second.backends);
    let key = ListenKey::tcp(ListenAddress::Any, 1883);
    assert_eq!(first.services[&key], second.services[&key]);
}

#[test]
fn dns_answers_become_endpoints() {
    let model = model(
        vec![cluster("b.test", &[EndpointAddress::Dns("b.test".into())])],
        vec![forwarded(1883, "b.test")],
    );
    assert_eq!(dns_names(&model), ["b.test".to_owned()].into());
    let (without, _) = compile(&model, &DnsAnswers::new(), &Snapshot::default());
    let id = ClusterId::new("b.test", 9000, None);
    assert!(without.clusters[&id].endpoints.is_empty());
    let answers = DnsAnswers::from([("b.test".to_owned(), vec![ip("10.0.0.2"), ip("10.0.0.1")])]);
    let (with, _) = compile(&model, &answers, &without);
    let addresses: Vec<String> = with.clusters[&id]
        .endpoints
        .iter()
        .map(|endpoint| endpoint.address.to_string())
        .collect();
    assert_eq!(addresses, ["10.0.0.1:9000", "10.0.0.2:9000"]);
}

#[test]
fn chains_are_found_by_exact_name_then_suffix_then_default() {
    let chain = |names: &[&str], line: u32| TlsChain {
        names: names
            .iter()
            .map(|name| HostPattern::parse(name).expect("a pattern"))
            .collect(),
        action: TlsAction::Passthrough(route("a.test")),
        origin: Origin::new("test.yaml", line),
    };
    let listener = Listener {
        address: ListenAddress::Any,
        port: 443,
        kind: ListenerKind::Tls(vec![
            chain(&["*"], 1),
            chain(&["*.example.com"], 2),
            chain(&["*.a.example.com", "b.example.com"], 3),
        ]),
        origin: Origin::new("test.yaml", 1),
    };
    let model = model(vec![cluster("a.test", &[])], vec![listener]);
    let (snapshot, _) = compile(&model, &DnsAnswers::new(), &Snapshot::default());
    let found = snapshot.listener(ip("10.0.0.9"), 443).expect("a listener");
    let ListenerTable::Tls(table) = &found.table else {
        panic!("not TLS")
    };
    for (sni, line) in [
        (Some("b.example.com"), 3),
        (Some("x.a.example.com"), 3),
        (Some("a.example.com"), 2),
        (Some("example.com"), 1),
        (None, 1),
    ] {
        let chain = crate::conn::decide::find_chain(table, sni).expect("a chain");
        assert_eq!(chain.origin.line, line, "{sni:?}");
    }
}
