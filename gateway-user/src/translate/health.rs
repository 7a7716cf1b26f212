// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Annotations that say how endpoints are probed.
//!
//! They stand on the object that defines a host (Service, ServiceEntry); those
//! of a DestinationRule for the host win over them, one by one; the bootstrap
//! fills in what neither says. With `.PORT` behind its name an annotation is
//! for that port of the host alone, and wins there.

use std::{
    collections::BTreeMap, fmt, ops::RangeInclusive, str::FromStr, sync::Arc, time::Duration,
};

use ::http::uri::{Authority, PathAndQuery};

use crate::{
    diagnostic::Reason,
    model::{
        Health, HealthDefaults, HostPattern, HttpProbe, Probe, ProbeProtocol, ProxyProtocol,
        Transport,
        health::{INTERVALS, PERCENTS, THRESHOLDS, TIMEOUTS},
    },
    resource::Meta,
    translate::{
        Findings,
        annotations::{self, suffix},
        duration,
    },
};

const PROBE: &str = "sluice.dev/health-probe";
const INTERVAL: &str = "sluice.dev/health-interval";
const TIMEOUT: &str = "sluice.dev/health-timeout";
const UNHEALTHY: &str = "sluice.dev/health-unhealthy-threshold";
const HEALTHY: &str = "sluice.dev/health-healthy-threshold";
const PANIC: &str = "sluice.dev/health-panic-percent";
const PORT: &str = "sluice.dev/health-port";
const HTTP_PATH: &str = "sluice.dev/health-http-path";
const HTTP_HOST: &str = "sluice.dev/health-http-host";
const HTTP_STATUS: &str = "sluice.dev/health-http-status";
const TLS_NAME: &str = "sluice.dev/health-tls-server-name";

/// Every annotation read here, as it is without a port.
pub const KEYS: &[&str] = &[
    PROBE,
    INTERVAL,
    TIMEOUT,
    UNHEALTHY,
    HEALTHY,
    PANIC,
    PORT,
    HTTP_PATH,
    HTTP_HOST,
    HTTP_STATUS,
    TLS_NAME,
];

/// Statuses that pass unless an annotation says otherwise: success and
/// redirects, as for a kubelet's probe.
const STATUSES: (u16, u16) = (200, 399);

/// What one object says.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    all: Values,
    ports: BTreeMap<u16, Values>,
}

/// What is said for a port or for all; what could not be used is absent.
#[derive(Clone, Debug, Default)]
struct Values {
    kind: Option<Kind>,
    interval: Option<Duration>,
    timeout: Option<Duration>,
    unhealthy: Option<u32>,
    healthy: Option<u32>,
    panic: Option<u8>,
    port: Option<u16>,
    path: Option<String>,
    host: Option<String>,
    statuses: Option<(u16, u16)>,
    server_name: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Off,
    Tcp,
    Http,
    Tls,
    Mqtt,
    Kafka,
}

/// How the endpoints of a cluster are judged, and which of them.
#[derive(Clone, Debug)]
pub struct Judged {
    /// How.
    pub health: Health,
    /// Whether also those that an EndpointSlice vouches for.
    pub vouched: bool,
}

/// One object's annotations for one port, or those for all.
struct Layer<'a> {
    meta: &'a Meta,
    values: &'a Values,
    /// Behind the names of its annotations.
    suffix: String,
}

impl Settings {
    /// Reads the annotations of an object, with findings.
    pub fn read(meta: &Meta, findings: &mut Findings) -> Self {
        let read = |suffix: &str| Values::read(meta, suffix, findings);
        let (all, ports) = annotations::by_port(meta, KEYS, read);
        Self { all, ports }
    }
}

impl Values {
    fn read(meta: &Meta, suffix: &str, findings: &mut Findings) -> Self {
        let mut reader = Reader {
            meta,
            suffix,
            findings,
        };
        Self {
            kind: reader.value(PROBE, |text| match text {
                "off" => Ok(Kind::Off),
                "tcp" => Ok(Kind::Tcp),
                "http" => Ok(Kind::Http),
                "tls" => Ok(Kind::Tls),
                "mqtt" => Ok(Kind::Mqtt),
                "kafka" => Ok(Kind::Kafka),
                _ => Err(format!(
                    "{text:?} is not one of off, tcp, http, tls, mqtt, kafka"
                )),
            }),
            interval: reader.value(INTERVAL, |text| within(text, &INTERVALS)),
            timeout: reader.value(TIMEOUT, |text| within(text, &TIMEOUTS)),
            unhealthy: reader.value(UNHEALTHY, |text| number(text, &THRESHOLDS)),
            healthy: reader.value(HEALTHY, |text| number(text, &THRESHOLDS)),
            panic: reader.value(PANIC, |text| number(text, &PERCENTS)),
            port: reader.value(PORT, |text| number(text, &(1..=u16::MAX))),
            path: reader.value(HTTP_PATH, |text| match PathAndQuery::try_from(text) {
                Ok(path) if text.starts_with('/') => Ok(path.as_str().to_owned()),
                _ => Err(format!("{text:?} is not a path that begins with /")),
            }),
            host: reader.value(HTTP_HOST, |text| match Authority::try_from(text) {
                Ok(host) if !text.contains('@') => Ok(host.as_str().to_owned()),
                _ => Err(format!("{text:?} is not a host name")),
            }),
            statuses: reader.value(HTTP_STATUS, statuses),
            server_name: reader.value(TLS_NAME, |text| match HostPattern::parse(text) {
                Ok(HostPattern::Exact(name)) => Ok(name),
                _ => Err(format!("{text:?} is not a DNS name")),
            }),
        }
    }
}

/// Whose endpoints are to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The host.
    pub host: &'a str,
    /// The port, as destinations name it.
    pub port: u16,
    /// What endpoints take on it. Probes are TCP: those of UDP have to be told
    /// their port.
    pub transport: Transport,
    /// What connections to them begin with.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// How endpoints are probed; `objects` are those that may say so, the one that
/// wins first.
pub fn judged(
    objects: &[(&Meta, &Settings)],
    defaults: &HealthDefaults,
    Asked {
        host,
        port,
        transport,
        proxy_protocol,
    }: Asked<'_>,
    findings: &mut Findings,
) -> Option<Judged> {
    fn first<T: Clone>(layers: &[Layer<'_>], value: impl Fn(&Values) -> &Option<T>) -> Option<T> {
        layers.iter().find_map(|layer| value(layer.values).clone())
    }
    let layers = &layers(objects, port);
    let asked = first(layers, |one| &one.kind);
    let kind = asked.unwrap_or(if defaults.probe_tcp {
        Kind::Tcp
    } else {
        Kind::Off
    });
    let probe_port = first(layers, |one| &one.port);
    if transport == Transport::Udp && probe_port.is_none() {
        only_udp(layers, port, kind, findings);
        return None;
    }
    without_effect(layers, asked, kind, findings);
    let protocol = match kind {
        Kind::Off => return None,
        Kind::Tcp => ProbeProtocol::Tcp,
        Kind::Http => {
            let (status_from, status_to) = first(layers, |one| &one.statuses).unwrap_or(STATUSES);
            ProbeProtocol::Http(HttpProbe {
                path: first(layers, |one| &one.path).unwrap_or_else(|| "/".to_owned()),
                host: first(layers, |one| &one.host).unwrap_or_else(|| host.to_owned()),
                status_from,
                status_to,
            })
        }
        Kind::Tls => ProbeProtocol::Tls {
            server_name: first(layers, |one| &one.server_name).unwrap_or_else(|| host.to_owned()),
        },
        Kind::Mqtt => ProbeProtocol::Mqtt,
        Kind::Kafka => ProbeProtocol::Kafka,
    };
    let interval = first(layers, |one| &one.interval).unwrap_or(defaults.interval);
    let mut timeout = first(layers, |one| &one.timeout).unwrap_or(defaults.timeout);
    if timeout > interval {
        timeout = interval;
        let by = layers.iter().find(|layer| layer.values.timeout.is_some());
        if let Some(Layer { meta, suffix, .. }) = by {
            let key = format!("{TIMEOUT}{suffix}");
            findings.warning(
                meta.annotation(&key),
                Reason::InvalidValue,
                format!("{key} is longer than the interval; {interval:?} is used"),
            );
        }
    }
    Some(Judged {
        health: Health {
            probe: Arc::new(Probe {
                protocol,
                port: probe_port,
                // Another port is for probes, which nobody passes on.
                proxy_protocol: proxy_protocol.filter(|_| probe_port.is_none()),
                interval,
                timeout,
                unhealthy_threshold: first(layers, |one| &one.unhealthy)
                    .unwrap_or(defaults.unhealthy_threshold),
                healthy_threshold: first(layers, |one| &one.healthy)
                    .unwrap_or(defaults.healthy_threshold),
            }),
            panic_percent: first(layers, |one| &one.panic).unwrap_or(defaults.panic_percent),
        },
        vouched: asked.is_some(),
    })
}

/// Every object's annotations for the port before its others.
fn layers<'a>(objects: &[(&'a Meta, &'a Settings)], port: u16) -> Vec<Layer<'a>> {
    let mut layers = Vec::new();
    for &(meta, Settings { all, ports }) in objects {
        if let Some(values) = ports.get(&port) {
            let suffix = suffix(port);
            layers.push(Layer {
                meta,
                values,
                suffix,
            });
        }
        layers.push(Layer {
            meta,
            values: all,
            suffix: String::new(),
        });
    }
    layers
}

/// Says that a port that is asked for by name cannot be probed.
fn only_udp(layers: &[Layer<'_>], port: u16, kind: Kind, findings: &mut Findings) {
    let by = layers.iter().find(|layer| layer.values.kind.is_some());
    if let Some(Layer { meta, suffix, .. }) = by
        && kind != Kind::Off
    {
        let key = format!("{PROBE}{suffix}");
        findings.warning(
            meta.annotation(&key),
            Reason::UnsupportedField,
            format!("{key} has no effect for UDP port {port}: name a TCP port of the endpoints with {PORT}.{port}"),
        );
    }
}

/// Names annotations that the probe in force does not use.
fn without_effect(layers: &[Layer<'_>], asked: Option<Kind>, kind: Kind, findings: &mut Findings) {
    // Beside those for single ports, others may be for another port's probe.
    let by_port = layers.iter().any(|layer| !layer.suffix.is_empty());
    for Layer { meta, suffix, .. } in layers {
        if by_port && suffix.is_empty() {
            continue;
        }
        for base in KEYS {
            let key = format!("{base}{suffix}");
            if !meta.annotations.contains_key(&key) {
                continue;
            }
            let why = match (*base, kind) {
                (PROBE, _) => continue,
                // Said on purpose; the rest waits for it to be on again.
                (_, Kind::Off) if asked.is_some() => continue,
                (_, Kind::Off) => format!("nothing is probed; add {PROBE}"),
                (HTTP_PATH | HTTP_HOST | HTTP_STATUS, kind) if kind != Kind::Http => {
                    format!("it is for {PROBE}: http")
                }
                (TLS_NAME, kind) if kind != Kind::Tls => format!("it is for {PROBE}: tls"),
                _ => continue,
            };
            findings.warning(
                meta.annotation(&key),
                Reason::UnsupportedField,
                format!("{key} has no effect: {why}"),
            );
        }
    }
}

struct Reader<'a> {
    meta: &'a Meta,
    suffix: &'a str,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    fn value<T>(&mut self, base: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let key = format!("{base}{}", self.suffix);
        let text = self.meta.annotations.get(&key)?;
        parse(text)
            .inspect_err(|problem| {
                self.findings.warning(
                    self.meta.annotation(&key),
                    Reason::InvalidValue,
                    format!("{key}: {problem}; the default is used"),
                );
            })
            .ok()
    }
}

fn number<T>(text: &str, range: &RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + fmt::Display,
{
    let (least, most) = (range.start(), range.end());
    let outside = || format!("{text:?} is not a number from {least} to {most}");
    let number: T = text.parse().map_err(|_| outside())?;
    if range.contains(&number) {
        Ok(number)
    } else {
        Err(outside())
    }
}

fn within(text: &str, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let value = duration::parse(text)?;
    if range.contains(&value) {
        return Ok(value);
    }
    let (least, most) = (range.start(), range.end());
    Err(format!("{text:?} is not between {least:?} and {most:?}"))
}

/// `200` or `200-299`.
fn statuses(text: &str) -> Result<(u16, u16), String> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| number(text, &(200..=599)).ok();
    match (status(from), status(to)) {
        (Some(from), Some(to)) if from <= to => Ok((from, to)),
        _ => Err(format!("{text:?} is not a status or range such as 200-399")),
    }
}
