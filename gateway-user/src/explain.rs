// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What would serve a connection or request, or why none would: the decisions
//! of `conn` and `http` on a snapshot, without a connection.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use ::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;

use crate::{
    conn::decide::find_chain,
    datapath::kernel_serves,
    http::router::{self, RequestHead, RouteMatch},
    model::{HttpAction, ListenAddress, ProxyProtocol, SourceAddress, Sources, Transport},
    snapshot::{ChainAction, Endpoint, HttpTable, ListenerTable, Snapshot, TcpAction},
    telemetry::access::{CloseReason, Mode},
};

/// A connection or request to be explained.
#[derive(Clone, Debug)]
pub struct Query {
    /// Address the client connects to; any listener of the port when absent.
    pub address: Option<IpAddr>,
    /// Port the client connects to.
    pub port: u16,
    /// What the client uses.
    pub transport: Transport,
    /// Server name of the ClientHello.
    pub sni: Option<String>,
    /// Host of the request; the server name when absent.
    pub host: Option<String>,
    /// Method of the request.
    pub method: String,
    /// Path of the request, query included.
    pub path: String,
    /// Headers of the request, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Address the client connects from; one that may when absent.
    pub source: Option<IpAddr>,
}

/// The answer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Explanation {
    /// Listener, as `address:port`.
    pub listener: Option<String>,
    /// `forward`, `passthrough`, `terminate-tcp`, `terminate-http`, `plain-http`
    /// or `refused`.
    pub mode: &'static str,
    /// Which sources may connect; everyone when absent.
    pub sources: Option<String>,
    /// Whether packets are forwarded in the kernel where eBPF is possible.
    pub kernel: bool,
    /// Why they are not, although the listener is forwarded.
    pub relayed: Option<String>,
    /// `file:line` of the server.
    pub server: Option<String>,
    /// Host of the rules that were tried.
    pub virtual_host: Option<String>,
    /// `file:line` of the rule.
    pub rule: Option<String>,
    /// What the route says of handing its connections to the kernel.
    pub handoff: Option<String>,
    /// Status the gateway answers by itself.
    pub status: Option<u16>,
    /// Why it is refused or answered by the gateway.
    pub reason: Option<String>,
    /// Where it would go.
    pub destinations: Vec<Destination>,
}

/// One destination.
#[derive(Clone, Debug, Serialize)]
pub struct Destination {
    /// Cluster.
    pub cluster: String,
    /// Share of the connections or requests, percent.
    pub percent: f64,
    /// Endpoints that take new connections, as `address:port`.
    pub endpoints: Vec<String>,
    /// Endpoints that are down; a running agent knows.
    pub down: Vec<String>,
    /// So few are up that all of them are used.
    pub panic: bool,
    /// How they are probed.
    pub health: Option<String>,
    /// Version of the PROXY header that connections to them begin with.
    pub proxy_protocol: Option<&'static str>,
    /// Clients for whom it is; everyone when absent.
    pub sources: Option<String>,
    /// The client that was asked about is none of them.
    pub denied: bool,
    /// Connections come from the address of their client, where that is possible.
    pub client_address: bool,
}

/// Explains `query` on `snapshot`.
pub fn explain(snapshot: &Snapshot, query: &Query) -> Explanation {
    let found = match query.address {
        Some(address) => snapshot.listener_of(address, query.port, query.transport),
        None => {
            let mut fitting: Vec<_> = snapshot
                .listeners
                .iter()
                .filter(|(key, _)| key.contains(query.port) && key.transport == query.transport)
                .collect();
            fitting.sort_by_key(|(key, _)| key.is_range());
            fitting.into_iter().next()
        }
    };
    let Some((key, listener)) = found else {
        return refused(
            CloseReason::NoListener,
            "no listener has this address and port",
        );
    };
    let mut answer = Explanation {
        listener: Some(key.to_string()),
        server: Some(listener.origin.to_string()),
        sources: text(&listener.sources),
        ..Explanation::default()
    };
    if !takes(&listener.sources, query) {
        return Explanation {
            listener: answer.listener,
            server: answer.server,
            sources: answer.sources,
            ..refused(CloseReason::SourceDenied, "this source may not connect")
        };
    }
    match &listener.table {
        ListenerTable::Forward(action) => {
            let address = match (query.address, key.address) {
                (Some(address), _) | (None, ListenAddress::Ip(address)) => address,
                (None, ListenAddress::Any) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            };
            let verdict = snapshot
                .services
                .get(key)
                .map(|service| kernel_serves(address, service, &snapshot.backends));
            answer.kernel = verdict == Some(Ok(()));
            answer.relayed = verdict.and_then(Result::err).map(|why| why.to_string());
            tcp(&mut answer, Mode::Forward, action, query);
            if key.transport == Transport::Udp && !answer.kernel {
                answer.relayed = None;
                answer.reason = Some(format!(
                    "{}: the kernel cannot forward it, and the agent proxies no UDP",
                    CloseReason::NoEndpoint.as_str()
                ));
            }
        }
        ListenerTable::PlainHttp(table) => http(&mut answer, Mode::PlainHttp, table, query),
        ListenerTable::Tls(table) => {
            let sni = query.sni.as_deref().map(str::to_ascii_lowercase);
            let Some(chain) = find_chain(table, sni.as_deref()) else {
                let (reason, text) = match &sni {
                    Some(_) => (CloseReason::UnknownSni, "no chain takes this server name"),
                    None => (
                        CloseReason::NoSni,
                        "no chain takes clients without a server name",
                    ),
                };
                return Explanation {
                    listener: answer.listener,
                    ..refused(reason, text)
                };
            };
            answer.server = Some(chain.origin.to_string());
            match &chain.action {
                ChainAction::Passthrough(action) => {
                    tcp(&mut answer, Mode::Passthrough, action, query);
                }
                ChainAction::TerminateTcp(_, action) => {
                    tcp(&mut answer, Mode::TerminateTcp, action, query);
                }
                ChainAction::TerminateHttp(_, table) => {
                    http(&mut answer, Mode::TerminateHttp, table, query);
                }
            }
        }
    }
    answer
}

/// Whether the client of `query` is one of `sources`.
fn takes(sources: &Sources, query: &Query) -> bool {
    query.source.is_none_or(|source| sources.contain(source))
}

fn text(sources: &Sources) -> Option<String> {
    (!sources.is_everyone()).then(|| sources.to_string())
}

fn refused(reason: CloseReason, text: &str) -> Explanation {
    Explanation {
        mode: Mode::Refused.as_str(),
        reason: Some(format!("{}: {text}", reason.as_str())),
        ..Explanation::default()
    }
}

fn tcp(answer: &mut Explanation, mode: Mode, action: &TcpAction, query: &Query) {
    answer.mode = mode.as_str();
    answer.rule = Some(action.origin.to_string());
    answer.handoff = (!action.handoff.is_empty()).then(|| action.handoff.to_string());
    answer.destinations = destinations(
        action
            .destinations
            .iter()
            .map(|(cluster, weight)| (&**cluster, *weight)),
        |endpoint| action.reached_at(endpoint, query.port),
        query,
    );
    if answer
        .destinations
        .iter()
        .all(|destination| destination.endpoints.is_empty())
    {
        answer.reason = Some(format!(
            "{}: connections are closed until the cluster has an endpoint",
            CloseReason::NoEndpoint.as_str()
        ));
    } else if answer
        .destinations
        .iter()
        .all(|destination| destination.denied)
    {
        answer.reason = Some(format!(
            "{}: the cluster is not for this source",
            CloseReason::SourceDenied.as_str()
        ));
    }
}

fn http(answer: &mut Explanation, mode: Mode, table: &HttpTable, query: &Query) {
    answer.mode = mode.as_str();
    let host = query
        .host
        .as_deref()
        .or(query.sni.as_deref())
        .unwrap_or_default();
    let mut headers = HeaderMap::new();
    for (name, value) in &query.headers {
        if let (Ok(name), Ok(value)) = (
            HeaderName::try_from(name.as_str()),
            HeaderValue::try_from(value.as_str()),
        ) {
            headers.append(name, value);
        }
    }
    let path = query.path.split(['?', '#']).next().unwrap_or_default();
    let head = RequestHead {
        method: &query.method,
        path,
        headers: &headers,
    };
    let gateway_answers = |answer: &mut Explanation, status: u16, reason: &str| {
        answer.status = Some(status);
        answer.reason = Some(reason.to_owned());
    };
    match router::find(table, host, &head) {
        RouteMatch::NoHost => gateway_answers(answer, 404, "no virtual host takes this host"),
        RouteMatch::NoRoute(host) => {
            answer.virtual_host = Some(host.host.clone());
            gateway_answers(answer, 404, "no rule of the virtual host matches");
        }
        RouteMatch::Redirect301(host) => {
            answer.virtual_host = Some(host.host.clone());
            gateway_answers(answer, 301, "the server redirects to https");
        }
        RouteMatch::Rule(rule, _, host) => {
            answer.virtual_host = Some(host.host.clone());
            answer.rule = Some(rule.origin.to_string());
            match &rule.action {
                HttpAction::Redirect(redirect) => {
                    gateway_answers(answer, redirect.status.as_u16(), "the rule redirects");
                }
                HttpAction::Respond(response) => {
                    gateway_answers(answer, response.status.as_u16(), "the rule answers");
                }
                HttpAction::Route {
                    destinations: routes,
                    ..
                } => {
                    let routes = routes.iter().filter_map(|route| {
                        Some((&**table.clusters.get(&route.cluster)?, route.weight))
                    });
                    answer.destinations = destinations(routes, |endpoint| endpoint, query);
                    for destination in &mut answer.destinations {
                        // Many clients share a connection there.
                        destination.client_address = false;
                    }
                    if answer
                        .destinations
                        .iter()
                        .all(|route| route.endpoints.is_empty())
                    {
                        gateway_answers(answer, 503, "no cluster of the rule has an endpoint");
                    } else if answer.destinations.iter().all(|route| route.denied) {
                        gateway_answers(answer, 403, "the cluster is not for this source");
                    }
                }
            }
        }
    }
}

fn destinations<'a>(
    routes: impl Iterator<Item = (&'a crate::snapshot::Cluster, u32)>,
    reached_at: impl Fn(SocketAddr) -> SocketAddr,
    query: &Query,
) -> Vec<Destination> {
    // One entry a cluster, although a rule may name it twice.
    let mut shares: BTreeMap<&str, (u64, &crate::snapshot::Cluster)> = BTreeMap::new();
    for (cluster, weight) in routes {
        shares.entry(cluster.id.as_str()).or_insert((0, cluster)).0 += u64::from(weight);
    }
    let total: u64 = shares.values().map(|(weight, _)| weight).sum();
    shares
        .into_iter()
        .map(|(name, (weight, cluster))| Destination {
            cluster: name.to_owned(),
            percent: weight as f64 * 100.0 / total.max(1) as f64,
            endpoints: addresses(&cluster.endpoints, &reached_at),
            down: addresses(&cluster.down, &reached_at),
            panic: cluster.panic,
            health: cluster.health.as_ref().map(ToString::to_string),
            proxy_protocol: cluster.proxy_protocol.map(ProxyProtocol::name),
            sources: text(&cluster.sources),
            denied: !takes(&cluster.sources, query),
            client_address: cluster.source_address == SourceAddress::Client,
        })
        .collect()
}

fn addresses(endpoints: &[Endpoint], reached_at: impl Fn(SocketAddr) -> SocketAddr) -> Vec<String> {
    let all = endpoints.iter();
    all.map(|endpoint| reached_at(endpoint.address).to_string())
        .collect()
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            listener,
            mode,
            sources,
            kernel,
            relayed,
            server,
            virtual_host,
            rule,
            handoff,
            status,
            reason,
            destinations,
        } = self;
        writeln!(f, "listener  {}", listener.as_deref().unwrap_or("none"))?;
        write!(f, "mode      {mode}")?;
        match relayed {
            Some(why) => writeln!(f, " (by the agent: {why})")?,
            None if *kernel => writeln!(f, " (in the kernel)")?,
            None => writeln!(f)?,
        }
        for (label, value) in [
            ("server", server),
            ("sources", sources),
            ("host", virtual_host),
            ("rule", rule),
            ("handoff", handoff),
            ("reason", reason),
        ] {
            if let Some(value) = value {
                writeln!(f, "{label:<10}{value}")?;
            }
        }
        if let Some(status) = status {
            writeln!(f, "status    {status}")?;
        }
        for Destination {
            cluster,
            percent,
            endpoints,
            down,
            panic,
            health,
            proxy_protocol,
            sources,
            denied,
            client_address,
        } in destinations
        {
            let endpoints = if endpoints.is_empty() {
                "no endpoint".to_owned()
            } else {
                endpoints.join(", ")
            };
            writeln!(f, "cluster   {cluster}  {percent:.1} %  {endpoints}")?;
            if !down.is_empty() {
                let used = if *panic {
                    "; so few are up that all are used"
                } else {
                    ""
                };
                writeln!(f, "down      {}{used}", down.join(", "))?;
            }
            if let Some(health) = health {
                writeln!(f, "health    {health}")?;
            }
            if let Some(version) = proxy_protocol {
                writeln!(f, "header    PROXY protocol {version}")?;
            }
            if let Some(sources) = sources {
                let not = if *denied { "; not this one" } else { "" };
                writeln!(f, "sources   {sources}{not}")?;
            }
            if *client_address {
                writeln!(f, "source    the client's address")?;
            }
        }
        Ok(())
    }
}
