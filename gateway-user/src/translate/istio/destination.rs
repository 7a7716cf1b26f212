// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Destinations of rules to clusters with their endpoints.

use crate::{
    diagnostic::Reason,
    model::{
        Cluster, ClusterId, Endpoint, FlowLimits, ForwardingMode, HandoffPolicy, LoadBalancing,
        SourceAddress, Sources, TcpRoute, Transport, cluster::DEFAULT_CONNECT_TIMEOUT,
    },
    resource::{Meta, Place, istio::virtual_service::Destination},
    translate::{
        Context,
        endpoints::{Labelled, Service, includes},
        handoff, health, hosts,
        istio::{attach::Scope, destination_rule::Policy},
        list,
        proxy_protocol::{self, Header},
        source_address,
    },
};

/// Annotation that says how the kernel forwards.
pub const FORWARDING: &str = "sluice.dev/forwarding";

/// A destination found.
pub struct Resolved {
    /// Its cluster, which the context has.
    pub cluster: ClusterId,
    /// Share, at least 1.
    pub weight: u32,
    /// What DestinationRules say.
    pub policy: Policy,
    /// What the destination's own annotation says.
    pub forwarding: Option<ForwardingMode>,
    /// What its other annotations say.
    pub handoff: HandoffPolicy,
}

/// Shares of the destinations of one rule: a single one takes everything,
/// among several zero takes nothing.
///
/// # Errors
/// When a weight is negative or all are zero.
pub fn shares(weights: &[Option<i64>]) -> Result<Vec<u32>, String> {
    if weights.len() == 1 {
        return Ok(vec![1]);
    }
    let mut shares = Vec::with_capacity(weights.len());
    let mut sum: u32 = 0;
    for weight in weights {
        let weight = weight.unwrap_or(0);
        let share = u32::try_from(weight)
            .ok()
            .filter(|share| *share <= i32::MAX.unsigned_abs())
            .ok_or_else(|| format!("weight {weight} is not between 0 and {}", i32::MAX))?;
        sum = sum
            .checked_add(share)
            .ok_or_else(|| "the weights are too large together".to_owned())?;
        shares.push(share);
    }
    if sum == 0 {
        return Err(
            "the weights of several destinations are all zero; give each a weight".to_owned(),
        );
    }
    Ok(shares)
}

impl Context<'_> {
    /// The cluster that `destination` of a rule in `owner` names. A finding and
    /// a cluster without endpoints when it does not exist; nothing only when
    /// it names no host.
    pub fn resolve(
        &mut self,
        destination: Option<&Destination>,
        weight: u32,
        place: Place<'_>,
        owner: &Meta,
        scope: Scope<'_>,
    ) -> Option<Resolved> {
        let Some((destination, host)) = destination
            .and_then(|destination| Some((destination, destination.host.as_deref()?)))
            .filter(|(_, host)| !host.is_empty())
        else {
            self.findings
                .error(place, Reason::MissingField, "a destination needs a host");
            return None;
        };
        let gateway = self.namespace(&scope.gateway.namespace).to_owned();
        let host = hosts::full_name(host, &owner.id.namespace);
        let subset = destination
            .subset
            .as_deref()
            .filter(|name| !name.is_empty());
        let number = destination.port.as_ref().and_then(|port| port.number);
        let registry = self.registry;
        let Some(service) = registry.find(&host, &owner.id.namespace, &gateway) else {
            let message = match (registry.hidden(&host), registry.similar(&host)) {
                (Some(meta), _) => format!(
                    "{host} of {} at {} is not exported to namespace {gateway}; widen its exportTo",
                    meta.id, meta.origin
                ),
                (None, Some(known)) => {
                    format!("nothing defines {host}; did you mean {known}?")
                }
                (None, None) => {
                    format!("nothing defines {host}; define it with a Service or ServiceEntry")
                }
            };
            self.findings
                .error(place.key("host"), Reason::MissingDestination, message);
            if registry.hidden(&host).is_some() {
                // The name is that of a cluster others may see.
                return Some(self.refusal(scope.port, weight));
            }
            let port = number
                .and_then(|port| u16::try_from(port).ok())
                .unwrap_or(0);
            return Some(self.unserved(ClusterId::new(&host, port, subset), weight));
        };
        let name = match scope.transport {
            Transport::Tcp => registry.cluster_host(service),
            // The same host and port may stand for TCP as well.
            Transport::Udp => format!("udp/{}", registry.cluster_host(service)),
        };
        let Some(port) = self.destination_port(service, number, scope.transport, place) else {
            let port = number
                .and_then(|port| u16::try_from(port).ok())
                .unwrap_or(0);
            return Some(self.unserved(ClusterId::new(&name, port, subset), weight));
        };
        let forwarding = self.forwarding(service.meta);
        let handoff = handoff::at(service.meta, port, &mut self.findings);
        let id = ClusterId::new(&name, port, subset);
        let policies = self.policies;
        let Some((policy, labels)) =
            policies.find(&host, &service.meta.id.namespace, &gateway, port, subset)
        else {
            self.findings.error(
                place.key("subset"),
                Reason::MissingSubset,
                format!(
                    "no DestinationRule defines subset {} of {host}",
                    subset.unwrap_or_default()
                ),
            );
            return Some(self.unserved(id, weight));
        };
        let header = policy
            .header
            .or_else(|| proxy_protocol::at(service.meta, port, &mut self.findings))
            .unwrap_or(Header::Off);
        if header != Header::Off && scope.transport == Transport::Udp {
            self.findings.warning(
                place,
                Reason::UnsupportedField,
                format!(
                    "datagrams to {host} begin with no PROXY header, which is for TCP: its endpoints do not learn of the client's address"
                ),
            );
        }
        let proxy_protocol = header.sent().filter(|_| scope.transport == Transport::Tcp);
        if !self.clusters.contains_key(&id) {
            let (all, leaving): (&[Labelled], &[Labelled]) = service
                .ports
                .iter()
                .find(|known| (known.number, known.transport) == (port, scope.transport))
                .map_or((&[], &[]), |known| (&known.endpoints, &known.leaving));
            let mut layers = policies.health(&host, &service.meta.id.namespace, &gateway);
            layers.push((service.meta, &service.health));
            let defaults = &self.options.health;
            let asked = health::Asked {
                host: &service.host,
                port,
                transport: scope.transport,
                proxy_protocol,
            };
            let judged = health::judged(&layers, defaults, asked, &mut self.findings);
            let probed = |vouched: bool| {
                judged
                    .as_ref()
                    .is_some_and(|judged| judged.vouched || !vouched)
            };
            let mut endpoints: Vec<_> = all
                .iter()
                .filter(|known| labels.is_none_or(|labels| includes(&known.labels, labels)))
                .map(|known| Endpoint {
                    probed: probed(known.vouched),
                    ..known.endpoint.clone()
                })
                .collect();
            endpoints.sort();
            endpoints.dedup();
            let mut leaving: Vec<Endpoint> = leaving
                .iter()
                .filter(|known| labels.is_none_or(|labels| includes(&known.labels, labels)))
                .map(|known| known.endpoint.clone())
                .collect();
            leaving.sort();
            leaving.dedup();
            if endpoints.is_empty() {
                let why = if all.is_empty() {
                    format!("{host} has no endpoint on port {port}")
                } else {
                    format!(
                        "no endpoint of {host} has the labels of subset {}; labels of EndpointSlices count for all their endpoints",
                        subset.unwrap_or_default()
                    )
                };
                self.findings.warning(
                    place,
                    Reason::NoEndpoint,
                    format!("{why}; requests get 503 and connections are closed"),
                );
            }
            let unusable = header == Header::Unusable && scope.transport == Transport::Tcp;
            if policy.originates_tls || unusable {
                endpoints.clear();
            }
            let any_probed = endpoints.iter().any(|endpoint| endpoint.probed);
            self.clusters.insert(
                id.clone(),
                Cluster {
                    id: id.clone(),
                    endpoints,
                    leaving,
                    load_balancing: policy.load_balancing,
                    connect_timeout: policy.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT),
                    proxy_protocol,
                    health: judged.filter(|_| any_probed).map(|judged| judged.health),
                    sources: service.sources.at(port),
                    limits: service.limits.at(port),
                    source_address: source_address::at(service.meta, port, &mut self.findings),
                },
            );
        }
        Some(Resolved {
            cluster: id,
            weight,
            policy,
            forwarding,
            handoff,
        })
    }

    /// The port named, or the only one.
    fn destination_port(
        &mut self,
        service: &Service<'_>,
        number: Option<u32>,
        transport: Transport,
        place: Place<'_>,
    ) -> Option<u16> {
        let of_transport = service
            .ports
            .iter()
            .filter(|port| port.transport == transport);
        let ports: Vec<u16> = of_transport.map(|port| port.number).collect();
        let known = || list(&ports);
        let protocol = transport.name().to_uppercase();
        match number {
            Some(number) if !ports.is_empty() => {
                let found = ports.iter().find(|port| u32::from(**port) == number);
                if found.is_none() {
                    self.findings.error(
                        place.key("port").key("number"),
                        Reason::MissingDestination,
                        format!(
                            "{} has no {protocol} port {number}; it has {}",
                            service.host,
                            known()
                        ),
                    );
                }
                found.copied()
            }
            _ => match ports.as_slice() {
                [only] => Some(*only),
                [] => {
                    self.findings.error(
                        place,
                        Reason::MissingDestination,
                        format!("{} has no {protocol} port", service.host),
                    );
                    None
                }
                _ => {
                    self.findings.error(
                        place,
                        Reason::MissingField,
                        format!(
                            "{} has several ports ({}); name one with port.number",
                            service.host,
                            known()
                        ),
                    );
                    None
                }
            },
        }
    }

    /// A destination whose connections are refused.
    pub fn refusal(&mut self, port: u16, weight: u32) -> Resolved {
        // RFC 2606 section 2: .invalid never names anything.
        self.unserved(ClusterId::new("refused.invalid", port, None), weight)
    }

    fn unserved(&mut self, id: ClusterId, weight: u32) -> Resolved {
        self.clusters.entry(id.clone()).or_insert_with(|| Cluster {
            id: id.clone(),
            endpoints: Vec::new(),
            leaving: Vec::new(),
            load_balancing: LoadBalancing::default(),
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            proxy_protocol: None,
            health: None,
            sources: Sources::everyone(),
            limits: FlowLimits::default(),
            source_address: SourceAddress::default(),
        });
        Resolved {
            cluster: id,
            weight,
            policy: Policy::default(),
            forwarding: None,
            handoff: HandoffPolicy::default(),
        }
    }

    /// The cluster of a route whose connections begin with a PROXY header.
    pub fn header_of(&self, route: &TcpRoute) -> Option<&ClusterId> {
        let ids = route.destinations.iter().map(|to| &to.cluster);
        let mut clusters = ids.filter_map(|id| self.clusters.get(id));
        let found = clusters.find(|cluster| cluster.proxy_protocol.is_some());
        found.map(|cluster| &cluster.id)
    }

    /// The forwarding mode an object asks for.
    pub fn forwarding(&mut self, meta: &Meta) -> Option<ForwardingMode> {
        let text = meta.annotations.get(FORWARDING)?;
        match text.as_str() {
            "auto" => Some(ForwardingMode::Auto),
            "dnat" => Some(ForwardingMode::Dnat),
            "snat" => Some(ForwardingMode::Snat),
            "dsr" => Some(ForwardingMode::Dsr),
            other => {
                self.findings.warning(
                    meta.annotation(FORWARDING),
                    Reason::InvalidValue,
                    format!(
                        "{FORWARDING}: {other:?} is not one of auto, dnat, snat, dsr; auto is used"
                    ),
                );
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::shares;

    #[test]
    fn weights_become_shares() {
        assert_eq!(shares(&[None]), Ok(vec![1]));
        assert_eq!(shares(&[Some(0)]), Ok(vec![1]));
        assert_eq!(shares(&[Some(80), Some(20)]), Ok(vec![80, 20]));
        assert_eq!(shares(&[Some(5), Some(0), None]), Ok(vec![5, 0, 0]));
        assert!(shares(&[Some(0), None]).is_err());
        assert!(shares(&[Some(-1), Some(2)]).is_err());
        assert!(shares(&[Some(1 << 40), Some(2)]).is_err());
    }
}
