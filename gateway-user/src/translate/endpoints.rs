// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What stands behind a host: Services with their EndpointSlices, and
//! ServiceEntries with their endpoints or WorkloadEntries.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    diagnostic::Reason,
    model::{Endpoint, EndpointAddress},
    resource::{
        Meta, Object, Place, ResourceSet,
        core::{self, endpoint_slice},
        istio::{ServiceEntry, WorkloadEntry},
    },
    translate::{Findings, hosts, list},
};

/// Label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Annotation of a Service with the meaning of `exportTo`.
const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// Every known service.
#[derive(Debug, Default)]
pub struct Registry<'a> {
    services: Vec<Service<'a>>,
}

/// A host and its ports.
#[derive(Debug)]
pub struct Service<'a> {
    /// Full name, lower case.
    pub host: String,
    /// The object that defines it.
    pub meta: &'a Meta,
    /// TCP ports.
    pub ports: Vec<Port>,
    export_to: Vec<String>,
}

/// A port and the endpoints behind it.
#[derive(Debug)]
pub struct Port {
    /// Number, as destinations name it.
    pub number: u16,
    /// Endpoints with their labels.
    pub endpoints: Vec<Labelled>,
}

/// An endpoint and the labels by which subsets choose it.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl<'a> Registry<'a> {
    /// Reads every Service and ServiceEntry.
    pub fn new(resources: &'a ResourceSet, findings: &mut Findings) -> Self {
        let mut registry = Self::default();
        let mut sliced = BTreeSet::new();
        for service in &resources.services {
            let slices: Vec<_> = resources
                .endpoint_slices
                .iter()
                .enumerate()
                .filter(|(_, slice)| {
                    slice.meta.id.namespace == service.meta.id.namespace
                        && slice.meta.labels.get(SERVICE_NAME) == Some(&service.meta.id.name)
                })
                .inspect(|(index, _)| {
                    sliced.insert(*index);
                })
                .map(|(_, slice)| slice.as_ref())
                .collect();
            registry
                .services
                .push(kubernetes(service, &slices, findings));
        }
        for (index, slice) in resources.endpoint_slices.iter().enumerate() {
            if !sliced.contains(&index) {
                findings.warning(
                    slice.meta.place(),
                    Reason::MissingDestination,
                    format!(
                        "EndpointSlice {} belongs to no Service; set its label {SERVICE_NAME} to the name of one in namespace {}",
                        slice.meta.id, slice.meta.id.namespace
                    ),
                );
            }
        }
        for entry in &resources.service_entries {
            registry.entry(entry, resources, findings);
        }
        registry
    }

    /// The service that an object in `namespace` means by `host`, as seen from
    /// the gateway's namespace: its own first, then any that is visible.
    pub fn find(&self, host: &str, namespace: &str, gateway: &str) -> Option<&Service<'a>> {
        let visible = |service: &&Service<'a>| {
            service.host == host
                && hosts::exported(&service.export_to, &service.meta.id.namespace, gateway)
        };
        self.services
            .iter()
            .filter(visible)
            .find(|service| service.meta.id.namespace == namespace)
            .or_else(|| self.services.iter().find(visible))
    }

    /// A full name that begins like `host`, for a message.
    pub fn similar(&self, host: &str) -> Option<&str> {
        let first = host.split('.').next().unwrap_or(host);
        self.services
            .iter()
            .map(|service| service.host.as_str())
            .find(|known| known.split('.').next() == Some(first))
    }

    fn entry(
        &mut self,
        entry: &'a Object<ServiceEntry>,
        resources: &'a ResourceSet,
        findings: &mut Findings,
    ) {
        let spec = entry.meta.spec();
        let addresses = match addresses(entry, resources, findings) {
            Some(addresses) => addresses,
            None => Addresses::Unusable,
        };
        if entry.spec.hosts.is_empty() {
            findings.error(
                spec,
                Reason::MissingField,
                format!(
                    "ServiceEntry {} names no host; give it hosts",
                    entry.meta.id
                ),
            );
        }
        for (index, host) in entry.spec.hosts.iter().enumerate() {
            let place = spec.key("hosts").index(index);
            let host = host.to_ascii_lowercase();
            if host == "*" {
                findings.error(
                    place,
                    Reason::InvalidValue,
                    "the host * is not allowed here; name the service",
                );
                continue;
            }
            if let Some(first) = self.services.iter().find(|known| {
                known.host == host
                    && (known.meta.id.namespace == entry.meta.id.namespace
                        || host.ends_with(".svc.cluster.local"))
            }) {
                findings.warning(
                    place,
                    Reason::Conflict,
                    format!(
                        "{host} is already defined by {} at {}; endpoints given here are not used",
                        first.meta.id, first.meta.origin
                    ),
                );
                continue;
            }
            let ports = entry_ports(entry, &host, &addresses, findings);
            self.services.push(Service {
                host,
                meta: &entry.meta,
                ports,
                export_to: entry.spec.export_to.clone(),
            });
        }
    }
}

/// Where the endpoints of a ServiceEntry come from.
enum Addresses<'a> {
    /// Written out, or selected.
    Entries(
        Vec<(
            &'a WorkloadEntry,
            &'a BTreeMap<String, String>,
            EndpointAddress,
        )>,
    ),
    /// The hosts of the entry themselves, resolved.
    Hosts,
    /// None that can be used.
    Unusable,
}

fn addresses<'a>(
    entry: &'a Object<ServiceEntry>,
    resources: &'a ResourceSet,
    findings: &mut Findings,
) -> Option<Addresses<'a>> {
    let spec = entry.meta.spec();
    let place = spec.key("resolution");
    let dns = match entry.spec.resolution.as_deref().unwrap_or("NONE") {
        "STATIC" => false,
        "DNS" => true,
        "DNS_ROUND_ROBIN" => {
            findings.warning(
                place,
                Reason::UnsupportedField,
                "DNS_ROUND_ROBIN is treated as DNS: every address is an endpoint",
            );
            true
        }
        "NONE" => {
            findings.error(
                place,
                Reason::UnsupportedField,
                format!(
                    "ServiceEntry {} has resolution NONE, which needs the client's original destination; a gateway has none: use STATIC or DNS",
                    entry.meta.id
                ),
            );
            return None;
        }
        other => {
            findings.error(
                place,
                Reason::UnsupportedField,
                format!("resolution {other} is not supported; use STATIC or DNS"),
            );
            return None;
        }
    };
    let selected: Vec<(Place<'_>, &WorkloadEntry, &BTreeMap<String, String>)> = match &entry
        .spec
        .workload_selector
    {
        Some(selector) => {
            if !entry.spec.endpoints.is_empty() {
                findings.error(
                    spec.key("workloadSelector"),
                    Reason::InvalidValue,
                    "endpoints and workloadSelector exclude each other; only endpoints are used",
                );
                written(entry)
            } else if selector.labels.is_empty() {
                findings.error(
                    spec.key("workloadSelector"),
                    Reason::InvalidValue,
                    "a workloadSelector without labels selects nothing; give it labels",
                );
                Vec::new()
            } else {
                resources
                    .workload_entries
                    .iter()
                    .filter(|workload| {
                        workload.meta.id.namespace == entry.meta.id.namespace
                            && includes(&workload.spec.labels, &selector.labels)
                    })
                    .map(|workload| (workload.meta.spec(), &workload.spec, &workload.spec.labels))
                    .collect()
            }
        }
        None => {
            if entry.spec.endpoints.is_empty() && dns {
                return Some(Addresses::Hosts);
            }
            written(entry)
        }
    };
    Some(Addresses::Entries(
        selected
            .into_iter()
            .filter_map(|(place, workload, labels)| {
                let address = address(workload, dns, place, findings)?;
                Some((workload, labels, address))
            })
            .collect(),
    ))
}

fn written(
    entry: &Object<ServiceEntry>,
) -> Vec<(Place<'_>, &WorkloadEntry, &BTreeMap<String, String>)> {
    let place = entry.meta.spec().key("endpoints");
    entry
        .spec
        .endpoints
        .iter()
        .enumerate()
        .map(|(index, workload)| (place.index(index), workload, &workload.labels))
        .collect()
}

fn address(
    workload: &WorkloadEntry,
    dns: bool,
    place: Place<'_>,
    findings: &mut Findings,
) -> Option<EndpointAddress> {
    let Some(address) = workload.address.as_deref().filter(|text| !text.is_empty()) else {
        findings.error(
            place,
            Reason::MissingField,
            "an endpoint needs an address; it is not used",
        );
        return None;
    };
    let place = place.key("address");
    if address.starts_with("unix:") {
        findings.error(
            place,
            Reason::UnsupportedField,
            "unix sockets are not supported as endpoints; give an IP address",
        );
        return None;
    }
    match address.parse::<IpAddr>() {
        Ok(ip) => Some(EndpointAddress::Ip(ip)),
        Err(_) if dns && is_exact(address) => {
            Some(EndpointAddress::Dns(address.to_ascii_lowercase()))
        }
        Err(_) => {
            let advice = if dns {
                "it is neither an IP address nor a name"
            } else {
                "with resolution STATIC it must be an IP address; use DNS for names"
            };
            findings.error(
                place,
                Reason::InvalidValue,
                format!("the address {address:?} is not used: {advice}"),
            );
            None
        }
    }
}

fn is_exact(host: &str) -> bool {
    matches!(
        crate::model::HostPattern::parse(host),
        Ok(crate::model::HostPattern::Exact(_))
    )
}

fn entry_ports(
    entry: &Object<ServiceEntry>,
    host: &str,
    addresses: &Addresses<'_>,
    findings: &mut Findings,
) -> Vec<Port> {
    let place = entry.meta.spec().key("ports");
    let mut ports: Vec<Port> = Vec::new();
    for (index, port) in entry.spec.ports.iter().enumerate() {
        let place = place.index(index);
        let Some(number) = port_number(port.number, place.key("number"), findings) else {
            continue;
        };
        if ports.iter().any(|known| known.number == number) {
            findings.error(
                place.key("number"),
                Reason::InvalidValue,
                format!("port {number} is given twice; the first is kept"),
            );
            continue;
        }
        if port
            .protocol
            .as_deref()
            .is_some_and(|p| p.eq_ignore_ascii_case("udp"))
        {
            continue;
        }
        let target = match port.target_port {
            Some(_) => match port_number(port.target_port, place.key("targetPort"), findings) {
                Some(target) => target,
                None => continue,
            },
            None => number,
        };
        let endpoints = match addresses {
            Addresses::Unusable => Vec::new(),
            Addresses::Hosts if is_exact(host) => vec![Labelled {
                endpoint: Endpoint {
                    address: EndpointAddress::Dns(host.to_owned()),
                    port: target,
                    weight: 1,
                },
                labels: BTreeMap::new(),
            }],
            Addresses::Hosts => {
                findings.error(
                    place,
                    Reason::InvalidValue,
                    format!("{host} cannot be resolved; give endpoints"),
                );
                Vec::new()
            }
            Addresses::Entries(entries) => entries
                .iter()
                .filter_map(|(workload, labels, address)| {
                    let own = port.name.as_ref().and_then(|name| workload.ports.get(name));
                    let target = match own {
                        None => target,
                        Some(own) => match u16::try_from(*own) {
                            Ok(own) if own != 0 => own,
                            _ => {
                                findings.error(
                                    place,
                                    Reason::InvalidValue,
                                    format!("an endpoint of {host} has port {own} under this name; ports are 1 to 65535"),
                                );
                                return None;
                            }
                        },
                    };
                    Some(Labelled {
                        endpoint: Endpoint {
                            address: address.clone(),
                            port: target,
                            weight: workload.weight.unwrap_or(1).max(1),
                        },
                        labels: (*labels).clone(),
                    })
                })
                .collect(),
        };
        ports.push(Port { number, endpoints });
    }
    ports
}

fn kubernetes<'a>(
    service: &'a Object<core::Service>,
    slices: &[&'a Object<core::EndpointSlice>],
    findings: &mut Findings,
) -> Service<'a> {
    let place = service.meta.spec().key("ports");
    let external = match service.spec.kind.as_deref() {
        Some("ExternalName") => {
            let name = service
                .spec
                .external_name
                .as_deref()
                .filter(|name| is_exact(name));
            if name.is_none() {
                findings.error(
                    service.meta.spec().key("externalName"),
                    Reason::InvalidValue,
                    format!(
                        "Service {} needs an externalName that is a DNS name",
                        service.meta.id
                    ),
                );
            }
            name.map(str::to_ascii_lowercase)
        }
        _ => None,
    };
    let mut ports = Vec::new();
    for (index, port) in service.spec.ports.iter().enumerate() {
        let place = place.index(index);
        if port
            .protocol
            .as_deref()
            .is_some_and(|protocol| protocol != "TCP")
        {
            continue;
        }
        let Some(number) = port_number(port.port, place.key("port"), findings) else {
            continue;
        };
        let endpoints = match &external {
            Some(name) => vec![Labelled {
                endpoint: Endpoint {
                    address: EndpointAddress::Dns(name.clone()),
                    port: number,
                    weight: 1,
                },
                labels: BTreeMap::new(),
            }],
            None => sliced(slices, port.name.as_deref().unwrap_or(""), findings),
        };
        ports.push(Port { number, endpoints });
    }
    let export_to = service
        .meta
        .annotations
        .get(EXPORT_TO)
        .map(|text| text.split(',').map(|part| part.trim().to_owned()).collect())
        .unwrap_or_default();
    Service {
        host: hosts::service_name(&service.meta.id),
        meta: &service.meta,
        ports,
        export_to,
    }
}

/// Ready endpoints; when there is none, those that terminate but still serve
/// (Kubernetes KEP-1669).
fn sliced(
    slices: &[&Object<core::EndpointSlice>],
    name: &str,
    findings: &mut Findings,
) -> Vec<Labelled> {
    let mut ready = Vec::new();
    let mut leaving = Vec::new();
    for slice in slices {
        let Some(port) = slice_port(slice, name, findings) else {
            continue;
        };
        for (index, endpoint) in slice.spec.endpoints.iter().enumerate() {
            let place = slice.meta.place().key("endpoints").index(index);
            let conditions = &endpoint.conditions;
            let is_ready = conditions.ready.unwrap_or(true);
            let is_leaving =
                conditions.serving.unwrap_or(is_ready) && conditions.terminating.unwrap_or(false);
            let into = if is_ready {
                &mut ready
            } else if is_leaving {
                &mut leaving
            } else {
                continue;
            };
            for address in &endpoint.addresses {
                let address = match slice.spec.address_type.as_deref() {
                    Some("FQDN") if is_exact(address) => {
                        EndpointAddress::Dns(address.to_ascii_lowercase())
                    }
                    _ => match address.parse() {
                        Ok(ip) => EndpointAddress::Ip(ip),
                        Err(_) => {
                            findings.error(
                                place.key("addresses"),
                                Reason::InvalidValue,
                                format!("{address:?} is not an address; it is not used"),
                            );
                            continue;
                        }
                    },
                };
                into.push(Labelled {
                    endpoint: Endpoint {
                        address,
                        port,
                        weight: 1,
                    },
                    labels: slice.meta.labels.clone(),
                });
            }
        }
    }
    if ready.is_empty() { leaving } else { ready }
}

fn slice_port(
    slice: &Object<core::EndpointSlice>,
    name: &str,
    findings: &mut Findings,
) -> Option<u16> {
    let matching = |port: &&endpoint_slice::Port| {
        port.name.as_deref().unwrap_or("") == name
            && port.protocol.as_deref().unwrap_or("TCP") == "TCP"
    };
    let place = slice.meta.place().key("ports");
    match slice.spec.ports.iter().find(matching) {
        Some(port) => port_number(port.port, place, findings),
        None => {
            findings.warning(
                place,
                Reason::NoEndpoint,
                format!(
                    "EndpointSlice {} has no TCP port named {name:?} of its Service; it has {}",
                    slice.meta.id,
                    list(
                        slice
                            .spec
                            .ports
                            .iter()
                            .map(|port| format!("{:?}", port.name.as_deref().unwrap_or("")))
                    )
                ),
            );
            None
        }
    }
}

/// A port from 1 to 65535.
pub fn port_number(number: Option<u32>, place: Place<'_>, findings: &mut Findings) -> Option<u16> {
    match number {
        None => {
            findings.error(place, Reason::MissingField, "a port needs a number");
            None
        }
        Some(number) => match u16::try_from(number) {
            Ok(port) if port != 0 => Some(port),
            _ => {
                findings.error(
                    place,
                    Reason::InvalidValue,
                    format!("{number} is not a port; ports are 1 to 65535"),
                );
                None
            }
        },
    }
}

/// Whether `labels` has every one of `wanted`.
pub fn includes(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}
