// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The snapshot as JSON, without keys of certificates.

use std::{collections::HashMap, sync::Arc};

use serde_json::{Value, json};

use crate::{
    model::ProxyProtocol,
    snapshot::{
        ChainAction, Cluster, Endpoint, HttpTable, ListenerTable, Snapshot, SniTable, TcpAction,
        VirtualHost,
    },
};

/// Everything the agent serves.
pub(super) fn snapshot(snapshot: &Snapshot) -> Value {
    let listeners: serde_json::Map<String, Value> = snapshot
        .listeners
        .iter()
        .map(|(key, listener)| {
            let table = match &listener.table {
                ListenerTable::Forward(action) => json!({"forward": tcp(action)}),
                ListenerTable::PlainHttp(table) => json!({"http": http(table)}),
                ListenerTable::Tls(table) => json!({"tls": sni(table)}),
            };
            (
                key.to_string(),
                json!({"origin": listener.origin.to_string(), "table": table}),
            )
        })
        .collect();
    let services: serde_json::Map<String, Value> = snapshot
        .services
        .iter()
        .map(|(key, service)| {
            let value = json!({
                "id": service.id,
                "forwarding": service.forwarding,
                "ring_size": service.ring.len(),
            });
            (key.to_string(), value)
        })
        .collect();
    let backends: serde_json::Map<String, Value> = snapshot
        .backends
        .iter()
        .map(|(id, backend)| (id.to_string(), json!(backend.address.to_string())))
        .collect();
    json!({
        "generation": snapshot.generation,
        "listeners": listeners,
        "services": services,
        "backends": backends,
        "clusters": snapshot.clusters.values().map(|one| cluster(one)).collect::<Vec<_>>(),
        "certificates": snapshot
            .certificates
            .iter()
            .map(|one| json!({"id": one.id.to_string(), "not_after_s": one.not_after_s}))
            .collect::<Vec<_>>(),
    })
}

fn cluster(cluster: &Cluster) -> Value {
    let endpoints = |all: &[Endpoint]| {
        all.iter()
            .map(|one| json!({"address": one.address.to_string(), "weight": one.weight}))
            .collect::<Vec<_>>()
    };
    json!({
        "name": cluster.id.as_str(),
        "endpoints": endpoints(&cluster.endpoints),
        "down": endpoints(&cluster.down),
        "leaving": cluster.leaving.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "panic": cluster.panic,
        "proxy_protocol": cluster.proxy_protocol.map(ProxyProtocol::name),
        "health": cluster.health.as_ref().map(ToString::to_string),
    })
}

fn tcp(action: &TcpAction) -> Value {
    json!({
        "origin": action.origin.to_string(),
        "destinations": action
            .destinations
            .iter()
            .map(|(cluster, weight)| json!({"cluster": cluster.id.as_str(), "weight": weight}))
            .collect::<Vec<_>>(),
    })
}

fn sni(table: &SniTable) -> Value {
    let named = |names: &HashMap<String, Arc<crate::snapshot::TlsChain>>, star: &str| {
        let mut sorted: Vec<_> = names.iter().collect();
        sorted.sort_by_key(|(name, _)| *name);
        sorted
            .into_iter()
            .map(|(name, one)| (format!("{star}{name}"), chain(&one.action)))
            .collect::<serde_json::Map<_, _>>()
    };
    let mut chains = named(&table.exact, "");
    chains.extend(named(&table.suffixes, "*"));
    if let Some(default) = &table.default {
        chains.insert("*".to_owned(), chain(&default.action));
    }
    Value::Object(chains)
}

fn chain(action: &ChainAction) -> Value {
    match action {
        ChainAction::Passthrough(action) => json!({"passthrough": tcp(action)}),
        ChainAction::TerminateTcp(_, action) => json!({"terminate-tcp": tcp(action)}),
        ChainAction::TerminateHttp(_, table) => json!({"terminate-http": http(table)}),
    }
}

fn http(table: &HttpTable) -> Value {
    let mut hosts: Vec<&Arc<VirtualHost>> = table
        .exact
        .values()
        .chain(table.suffixes.values())
        .chain(&table.any)
        .collect();
    hosts.sort_by(|a, b| a.host.cmp(&b.host));
    let rules = |host: &VirtualHost| {
        host.rules
            .iter()
            .map(|rule| json!({"origin": rule.origin.to_string(), "name": rule.name}))
            .collect::<Vec<_>>()
    };
    let one = |host: &Arc<VirtualHost>| {
        json!({
            "host": host.host,
            "https_redirect": host.https_redirect,
            "rules": rules(host),
        })
    };
    hosts.into_iter().map(one).collect()
}
