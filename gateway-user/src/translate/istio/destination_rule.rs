// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DestinationRules: which one is for a service, and what it says for a port
//! and a subset.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use crate::{
    diagnostic::Reason,
    model::{HostPattern, LoadBalancing},
    resource::{
        Meta, Object, Place, ResourceSet,
        istio::{
            DestinationRule,
            destination_rule::{ClientTls, ConnectionPool, LoadBalancer, TrafficPolicy},
        },
    },
    translate::{
        Findings, duration,
        endpoints::port_number,
        health, hosts,
        proxy_protocol::{self, Header},
    },
};

/// Every DestinationRule, read.
#[derive(Debug, Default)]
pub struct Policies<'a> {
    pub(super) rules: Vec<Rule<'a>>,
    /// Positions of the rules for one name, by it.
    pub(super) exact: HashMap<String, Vec<usize>>,
    /// Positions of the rules for patterns.
    pub(super) patterns: Vec<usize>,
}

/// One DestinationRule.
#[derive(Debug)]
pub(super) struct Rule<'a> {
    pub(super) meta: &'a Meta,
    pub(super) host: HostPattern,
    pub(super) export_to: &'a [String],
    policy: Option<Scoped>,
    health: health::Settings,
    subsets: Vec<Subset<'a>>,
}

/// A named part of a service.
#[derive(Debug)]
struct Subset<'a> {
    name: &'a str,
    labels: &'a BTreeMap<String, String>,
    policy: Option<Scoped>,
}

/// A traffic policy, with its exceptions for ports.
#[derive(Clone, Debug, Default)]
struct Scoped {
    all: Blocks,
    ports: Vec<(u16, Blocks)>,
    /// Settings of a port have none, and so leave this as it is.
    header: Option<Header>,
}

/// The blocks that override one another as a whole.
#[derive(Clone, Debug, Default)]
struct Blocks {
    balancer: Option<Balancer>,
    pool: Option<Pool>,
    tls: Option<bool>,
}

#[derive(Clone, Copy, Debug)]
struct Balancer {
    algorithm: LoadBalancing,
    by_source: bool,
}

#[derive(Clone, Copy, Debug)]
struct Pool {
    connect_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
}

/// What the rules say for one service, port and subset.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// How an endpoint is chosen.
    pub load_balancing: LoadBalancing,
    /// One client keeps to one endpoint.
    pub by_source: bool,
    /// Limit of a connection attempt.
    pub connect_timeout: Option<Duration>,
    /// Limit of silence.
    pub idle_timeout: Option<Duration>,
    /// TLS to the endpoint is asked for.
    pub originates_tls: bool,
    /// The header in front of a connection, where they say.
    pub header: Option<Header>,
}

impl<'a> Policies<'a> {
    /// Reads every rule, with findings.
    pub fn new(resources: &'a ResourceSet, findings: &mut Findings) -> Self {
        let mut policies = Self::default();
        for object in &resources.destination_rules {
            if let Some(rule) = rule(object, findings) {
                let index = policies.rules.len();
                match &rule.host {
                    HostPattern::Exact(host) => {
                        policies.exact.entry(host.clone()).or_default().push(index);
                    }
                    _ => policies.patterns.push(index),
                }
                policies.rules.push(rule);
            }
        }
        policies
    }

    /// The policy of a service, and the labels of the subset when one is
    /// named. Nothing when no rule has that subset.
    pub fn find(
        &self,
        host: &str,
        service: &str,
        gateway: &str,
        port: u16,
        subset: Option<&str>,
    ) -> Option<(Policy, Option<&'a BTreeMap<String, String>>)> {
        let rules = self.select(host, service, gateway);
        let top = rules.iter().find_map(|rule| rule.policy.as_ref());
        let base = top.map(|policy| policy.at(port)).unwrap_or_default();
        let header = top.and_then(|policy| policy.header);
        let Some(name) = subset else {
            return Some((base.policy(header), None));
        };
        let subset = rules
            .iter()
            .flat_map(|rule| &rule.subsets)
            .find(|subset| subset.name == name)?;
        let blocks = match &subset.policy {
            Some(policy) => policy.over(base, port),
            None => base,
        };
        let own = subset.policy.as_ref().and_then(|policy| policy.header);
        Some((blocks.policy(own.or(header)), Some(subset.labels)))
    }

    /// What the rules for a service say of probes, the one that wins first.
    pub fn health(
        &self,
        host: &str,
        service: &str,
        gateway: &str,
    ) -> Vec<(&'a Meta, &health::Settings)> {
        let rules = self.select(host, service, gateway);
        rules
            .into_iter()
            .map(|rule| (rule.meta, &rule.health))
            .collect()
    }
}

impl Scoped {
    /// Settings of a port replace all others; they inherit nothing.
    fn at(&self, port: u16) -> Blocks {
        self.ports
            .iter()
            .find(|(number, _)| *number == port)
            .map_or_else(|| self.all.clone(), |(_, blocks)| blocks.clone())
    }

    /// A subset's policy over that of its service.
    fn over(&self, base: Blocks, port: u16) -> Blocks {
        if let Some((_, blocks)) = self.ports.iter().find(|(number, _)| *number == port) {
            return blocks.clone();
        }
        Blocks {
            balancer: self.all.balancer.or(base.balancer),
            pool: self.all.pool.or(base.pool),
            tls: self.all.tls.or(base.tls),
        }
    }
}

impl Blocks {
    fn policy(&self, header: Option<Header>) -> Policy {
        Policy {
            load_balancing: self.balancer.map(|b| b.algorithm).unwrap_or_default(),
            by_source: self.balancer.is_some_and(|b| b.by_source),
            connect_timeout: self.pool.and_then(|pool| pool.connect_timeout),
            idle_timeout: self.pool.and_then(|pool| pool.idle_timeout),
            originates_tls: self.tls.unwrap_or(false),
            header,
        }
    }
}

fn rule<'a>(object: &'a Object<DestinationRule>, findings: &mut Findings) -> Option<Rule<'a>> {
    let place = object.meta.spec();
    let spec = &object.spec;
    if spec.workload_selector.is_some() {
        findings.warning(
            place.key("workloadSelector"),
            Reason::UnsupportedField,
            format!(
                "DestinationRule {} is for selected workloads, not for a gateway; it is ignored: remove workloadSelector",
                object.meta.id
            ),
        );
        return None;
    }
    let Some(host) = spec.host.as_deref().filter(|host| !host.is_empty()) else {
        findings.error(
            place,
            Reason::MissingField,
            format!(
                "DestinationRule {} has no host; it is ignored",
                object.meta.id
            ),
        );
        return None;
    };
    let host = match HostPattern::parse(&hosts::full_name(host, &object.meta.id.namespace)) {
        Ok(host) => host,
        Err(error) => {
            findings.error(
                place.key("host"),
                Reason::InvalidValue,
                format!(
                    "host {host:?}: {error}; DestinationRule {} is ignored",
                    object.meta.id
                ),
            );
            return None;
        }
    };
    let mut subsets: Vec<Subset<'a>> = Vec::new();
    for (index, subset) in spec.subsets.iter().enumerate() {
        let place = place.key("subsets").index(index);
        let Some(name) = subset.name.as_deref().filter(|name| !name.is_empty()) else {
            findings.error(
                place,
                Reason::MissingField,
                "a subset needs a name; it is ignored",
            );
            continue;
        };
        // Without what was meant as its labels it would be the whole service.
        let unknown = place.unknown_fields();
        if subset.labels.is_empty() && !unknown.is_empty() {
            findings.error(
                place,
                Reason::UnknownField,
                format!(
                    "subset {name} has no labels but the unknown {}; it is ignored",
                    unknown.join(", ")
                ),
            );
            continue;
        }
        if subsets.iter().any(|known| known.name == name) {
            findings.error(
                place.key("name"),
                Reason::Conflict,
                format!("subset {name} is defined twice; the first is kept"),
            );
            continue;
        }
        subsets.push(Subset {
            name,
            labels: &subset.labels,
            policy: subset
                .traffic_policy
                .as_ref()
                .map(|policy| scoped(policy, place.key("trafficPolicy"), findings)),
        });
    }
    Some(Rule {
        meta: &object.meta,
        host,
        export_to: &spec.export_to,
        policy: spec
            .traffic_policy
            .as_ref()
            .map(|policy| scoped(policy, place.key("trafficPolicy"), findings)),
        health: health::Settings::read(&object.meta, findings),
        subsets,
    })
}

fn scoped(policy: &TrafficPolicy, place: Place<'_>, findings: &mut Findings) -> Scoped {
    for (key, given) in [
        ("outlierDetection", policy.outlier_detection.is_some()),
        ("tunnel", policy.tunnel.is_some()),
        ("retryBudget", policy.retry_budget.is_some()),
    ] {
        if given {
            findings.not_acted_on(place.key(key), key);
        }
    }
    let all = Blocks {
        balancer: policy
            .load_balancer
            .as_ref()
            .map(|shape| balancer(shape, place.key("loadBalancer"), findings)),
        pool: policy
            .connection_pool
            .as_ref()
            .map(|shape| pool(shape, place.key("connectionPool"), findings)),
        tls: policy
            .tls
            .as_ref()
            .map(|tls| originates(tls, place.key("tls"), findings)),
    };
    let mut ports = Vec::new();
    for (index, settings) in policy.port_level_settings.iter().enumerate() {
        let place = place.key("portLevelSettings").index(index);
        let number = settings.port.as_ref().and_then(|port| port.number);
        let Some(number) = port_number(number, place.key("port"), findings) else {
            continue;
        };
        if settings.outlier_detection.is_some() {
            findings.not_acted_on(place.key("outlierDetection"), "outlierDetection");
        }
        ports.push((
            number,
            Blocks {
                balancer: settings
                    .load_balancer
                    .as_ref()
                    .map(|shape| balancer(shape, place.key("loadBalancer"), findings)),
                pool: settings
                    .connection_pool
                    .as_ref()
                    .map(|shape| pool(shape, place.key("connectionPool"), findings)),
                tls: settings
                    .tls
                    .as_ref()
                    .map(|tls| originates(tls, place.key("tls"), findings)),
            },
        ));
    }
    let header = policy.proxy_protocol.as_ref().map(|shape| {
        let tunnels = policy.tunnel.is_some();
        proxy_protocol::of_policy(shape, tunnels, place.key("proxyProtocol"), findings)
    });
    Scoped { all, ports, header }
}

fn balancer(shape: &LoadBalancer, place: Place<'_>, findings: &mut Findings) -> Balancer {
    for (key, given) in [
        ("localityLbSetting", shape.locality_lb_setting.is_some()),
        ("zoneAwareLbSetting", shape.zone_aware_lb_setting.is_some()),
        ("warmup", shape.warmup.is_some()),
        ("warmupDurationSecs", shape.warmup_duration_secs.is_some()),
    ] {
        if given {
            findings.not_acted_on(place.key(key), key);
        }
    }
    let algorithm = match shape.simple.as_deref() {
        None | Some("UNSPECIFIED" | "LEAST_REQUEST" | "LEAST_CONN") => LoadBalancing::LeastRequest,
        Some("ROUND_ROBIN") => LoadBalancing::RoundRobin,
        Some("RANDOM") => LoadBalancing::Random,
        Some(other) => {
            let (reason, why) = if other == "PASSTHROUGH" {
                (
                    Reason::UnsupportedField,
                    "needs the client's original destination, which a gateway does not have",
                )
            } else {
                (
                    Reason::InvalidValue,
                    "is not one of LEAST_REQUEST, ROUND_ROBIN, RANDOM",
                )
            };
            findings.warning(
                place.key("simple"),
                reason,
                format!("{other} {why}; LEAST_REQUEST is used"),
            );
            LoadBalancing::LeastRequest
        }
    };
    let mut by_source = false;
    if let Some(hash) = &shape.consistent_hash {
        let place = place.key("consistentHash");
        by_source = hash.use_source_ip.unwrap_or(false);
        for (key, given) in [
            ("httpHeaderName", hash.http_header_name.is_some()),
            ("httpCookie", hash.http_cookie.is_some()),
            (
                "httpQueryParameterName",
                hash.http_query_parameter_name.is_some(),
            ),
            ("ringHash", hash.ring_hash.is_some()),
            ("minimumRingSize", hash.minimum_ring_size.is_some()),
        ] {
            if given {
                findings.not_acted_on(place.key(key), key);
            }
        }
    }
    Balancer {
        algorithm,
        by_source,
    }
}

fn pool(shape: &ConnectionPool, place: Place<'_>, findings: &mut Findings) -> Pool {
    if shape.http.is_some() {
        findings.not_acted_on(place.key("http"), "connectionPool.http");
    }
    let mut pool = Pool {
        connect_timeout: None,
        idle_timeout: None,
    };
    let Some(tcp) = &shape.tcp else {
        return pool;
    };
    let place = place.key("tcp");
    for (key, given) in [
        ("maxConnections", tcp.max_connections.is_some()),
        ("tcpKeepalive", tcp.tcp_keepalive.is_some()),
        (
            "maxConnectionDuration",
            tcp.max_connection_duration.is_some(),
        ),
    ] {
        if given {
            findings.not_acted_on(place.key(key), key);
        }
    }
    let mut read = |key: &str, text: &Option<String>| {
        let text = text.as_deref()?;
        match duration::parse(text) {
            Ok(value) => Some(value),
            Err(error) => {
                findings.error(
                    place.key(key),
                    Reason::InvalidValue,
                    format!("{key}: {error}; the default is used"),
                );
                None
            }
        }
    };
    // Zero means the default for the one and off for the other, and both are
    // what an absent value means here.
    pool.connect_timeout = read("connectTimeout", &tcp.connect_timeout).filter(|t| !t.is_zero());
    pool.idle_timeout = read("idleTimeout", &tcp.idle_timeout).filter(|t| !t.is_zero());
    pool
}

/// Whether TLS to the endpoint is asked for. It cannot be given yet, and what
/// was to be encrypted is not sent in the clear.
fn originates(tls: &ClientTls, place: Place<'_>, findings: &mut Findings) -> bool {
    match tls.mode.as_deref().unwrap_or("DISABLE") {
        "DISABLE" => false,
        mode => {
            findings.error(
                place.key("mode"),
                Reason::UnsupportedField,
                format!("TLS to the endpoint (mode {mode}) is not supported; it is not sent in the clear instead, so the destination has no endpoint: use DISABLE"),
            );
            true
        }
    }
}
