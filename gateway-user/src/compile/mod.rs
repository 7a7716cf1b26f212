// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The model to a snapshot: pure and deterministic.
//!
//! The previous snapshot is an input for one reason: what did not change keeps
//! its identity (service and backend ids, rings, TLS configurations with their
//! session tickets, clusters), so that a reload disturbs nothing.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    diagnostic::Diagnostic,
    model::{self, ClusterId, Model},
    snapshot::{
        CertificateSummary, ChainAction, Cluster, ListenKey, Listener, ListenerTable, Snapshot,
        TcpAction, TlsChain,
    },
};

mod clusters;
mod http;
pub mod l4;
pub mod maglev;
mod sni;
mod tls;

pub use clusters::{DnsAnswers, Observed, dns_names, probe_targets};

/// Compiles `model` and what was `observed` into the successor of `previous`.
///
/// Findings concern what only shows here: a certificate that no provider can
/// sign with. The chain that needs it is left out; everything else is served.
pub fn compile(
    model: &Model,
    observed: &Observed,
    previous: &Snapshot,
) -> (Snapshot, Vec<Diagnostic>) {
    let clusters = clusters::clusters(model, observed, previous);
    let mut tls = tls::Configs::new(&model.certificates, previous);
    let mut diagnostics = Vec::new();
    let mut listeners = BTreeMap::new();
    for listener in &model.listeners {
        let key = ListenKey {
            address: listener.address,
            port: listener.port,
            last_port: listener.last_port,
            transport: listener.transport(),
        };
        let table = match &listener.kind {
            model::ListenerKind::Forward(route) | model::ListenerKind::ForwardUdp(route) => {
                ListenerTable::Forward(Arc::new(tcp_action(route, key, &clusters)))
            }
            model::ListenerKind::PlainHttp(hosts) => {
                ListenerTable::PlainHttp(Arc::new(http::table(hosts, &clusters)))
            }
            model::ListenerKind::Tls(chains) => {
                ListenerTable::Tls(sni::table(chains.iter().filter_map(
                    |chain| match chain_action(&chain.action, key, &clusters, &mut tls) {
                        Ok(action) => {
                            let origin = chain.origin.clone();
                            Some((&chain.names[..], Arc::new(TlsChain { origin, action })))
                        }
                        Err(error) => {
                            diagnostics.push(error.diagnostic(&chain.origin));
                            None
                        }
                    },
                )))
            }
        };
        listeners.insert(
            key,
            Arc::new(Listener {
                origin: listener.origin.clone(),
                table,
                sources: sources(listener, &clusters),
            }),
        );
    }
    let (services, backends) = l4::services(model, &clusters, previous);
    let snapshot = Snapshot {
        generation: previous.generation + 1,
        listeners,
        services,
        backends,
        clusters,
        certificates: model
            .certificates
            .values()
            .map(|certificate| CertificateSummary {
                id: certificate.id.clone(),
                not_after_s: certificate.not_after_s,
            })
            .collect(),
        tls_configs: tls.into_used(),
    };
    (snapshot, diagnostics)
}

/// Whose connections a listener takes. A forwarded one is decided on as a whole:
/// whichever of its clusters a connection goes to, it must be for the client.
fn sources(
    listener: &model::Listener,
    clusters: &BTreeMap<ClusterId, Arc<Cluster>>,
) -> model::Sources {
    let mut sources = listener.sources.clone();
    if let model::ListenerKind::Forward(route) | model::ListenerKind::ForwardUdp(route) =
        &listener.kind
    {
        let ids = route.destinations.iter().map(|to| &to.cluster);
        for cluster in ids.filter_map(|id| clusters.get(id)) {
            sources = sources.intersection(&cluster.sources);
        }
    }
    sources
}

fn chain_action(
    action: &model::TlsAction,
    key: ListenKey,
    clusters: &BTreeMap<ClusterId, Arc<Cluster>>,
    tls: &mut tls::Configs<'_>,
) -> Result<ChainAction, tls::ConfigError> {
    Ok(match action {
        model::TlsAction::Passthrough(route) => {
            ChainAction::Passthrough(Arc::new(tcp_action(route, key, clusters)))
        }
        model::TlsAction::TerminateTcp {
            tls: settings,
            route,
        } => ChainAction::TerminateTcp(
            tls.config(settings, tls::Alpn::None)?,
            Arc::new(tcp_action(route, key, clusters)),
        ),
        model::TlsAction::TerminateHttp {
            tls: settings,
            hosts,
        } => ChainAction::TerminateHttp(
            tls.config(settings, tls::Alpn::Http)?,
            Arc::new(http::table(hosts, clusters)),
        ),
    })
}

fn tcp_action(
    route: &model::TcpRoute,
    key: ListenKey,
    clusters: &BTreeMap<ClusterId, Arc<Cluster>>,
) -> TcpAction {
    TcpAction {
        origin: route.origin.clone(),
        destinations: route
            .destinations
            .iter()
            .map(|destination| (cluster(clusters, &destination.cluster), destination.weight))
            .collect(),
        idle_timeout: route.idle_timeout,
        hash_policy: route.hash_policy,
        handoff: route.handoff,
        kept_port: key.is_range().then_some(key.port),
    }
}

/// The named cluster; one without endpoints when the model breaks its
/// invariant, so that the route refuses instead of the agent.
fn cluster(clusters: &BTreeMap<ClusterId, Arc<Cluster>>, id: &ClusterId) -> Arc<Cluster> {
    clusters.get(id).cloned().unwrap_or_else(|| {
        Arc::new(Cluster {
            id: id.clone(),
            endpoints: Vec::new(),
            down: Vec::new(),
            leaving: Vec::new(),
            panic: false,
            health: None,
            load_balancing: model::LoadBalancing::default(),
            connect_timeout: model::cluster::DEFAULT_CONNECT_TIMEOUT,
            proxy_protocol: None,
            sources: model::Sources::everyone(),
            source_address: model::SourceAddress::default(),
        })
    })
}

#[cfg(test)]
mod tests;
