// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the model promises to those who read it (see its module
//! documentation), checked on every case.

use std::collections::BTreeSet;

use gateway_user::model::{
    Cluster, ClusterId, HttpAction, ListenerKind, Model, TcpRoute, TlsAction, TlsSettings,
    VirtualHost,
};

/// Promises that `model` does not keep.
pub fn broken(model: &Model) -> Vec<String> {
    let mut broken = Vec::new();
    let mut sockets = BTreeSet::new();
    for listener in &model.listeners {
        if listener.port == 0
            || !sockets.insert((listener.address, listener.port, listener.transport()))
        {
            broken.push(format!(
                "{}:{} is a port 0 or stands twice",
                listener.address, listener.port
            ));
        }
        match &listener.kind {
            ListenerKind::Forward(one) | ListenerKind::ForwardUdp(one) => {
                route(model, one, &mut broken);
            }
            ListenerKind::PlainHttp(all) => hosts(model, all, &mut broken),
            ListenerKind::Tls(chains) => {
                let mut names = BTreeSet::new();
                for chain in chains {
                    if chain.names.is_empty() {
                        broken.push(format!("the chain at {} has no name", chain.origin));
                    }
                    for name in &chain.names {
                        if !names.insert(name) {
                            broken.push(format!("two chains have the name {name}"));
                        }
                    }
                    match &chain.action {
                        TlsAction::Passthrough(one) => route(model, one, &mut broken),
                        TlsAction::TerminateTcp { tls, route: one } => {
                            settings(model, tls, &mut broken);
                            route(model, one, &mut broken);
                        }
                        TlsAction::TerminateHttp { tls, hosts: all } => {
                            settings(model, tls, &mut broken);
                            hosts(model, all, &mut broken);
                        }
                    }
                }
            }
        }
    }
    for Cluster { id, endpoints, .. } in model.clusters.values() {
        if endpoints.iter().any(|one| one.port == 0 || one.weight == 0) {
            broken.push(format!("an endpoint of {id} has port or weight 0"));
        }
    }
    broken
}

fn settings(model: &Model, tls: &TlsSettings, broken: &mut Vec<String>) {
    if tls.certificates.is_empty() || !(tls.allow_tls12 || tls.allow_tls13) {
        broken.push("TLS without a certificate or a version".to_owned());
    }
    for id in &tls.certificates {
        if !model.certificates.contains_key(id) {
            broken.push(format!("the certificate {id} is not in the model"));
        }
    }
}

fn route(model: &Model, route: &TcpRoute, broken: &mut Vec<String>) {
    let destinations = route
        .destinations
        .iter()
        .map(|one| (&one.cluster, one.weight));
    shares(model, destinations, broken);
}

fn hosts(model: &Model, hosts: &[VirtualHost], broken: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for host in hosts {
        if !seen.insert(&host.host) {
            broken.push(format!("the host {} stands twice", host.host));
        }
        for rule in &host.rules {
            if let HttpAction::Route { destinations, .. } = &rule.action {
                let destinations = destinations.iter().map(|one| (&one.cluster, one.weight));
                shares(model, destinations, broken);
            }
        }
    }
}

fn shares<'a>(
    model: &Model,
    destinations: impl ExactSizeIterator<Item = (&'a ClusterId, u32)>,
    broken: &mut Vec<String>,
) {
    if destinations.len() == 0 {
        broken.push("a route without destinations".to_owned());
    }
    for (cluster, weight) in destinations {
        if weight == 0 {
            broken.push(format!("{cluster} has weight 0"));
        }
        if !model.clusters.contains_key(cluster) {
            broken.push(format!("the cluster {cluster} is not in the model"));
        }
    }
}
