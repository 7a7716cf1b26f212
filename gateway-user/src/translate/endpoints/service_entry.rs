// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ServiceEntries, with endpoints of their own or selected WorkloadEntries.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    diagnostic::Reason,
    model::{Endpoint, EndpointAddress, Transport},
    resource::{
        Object, Place, ResourceSet,
        istio::{ServiceEntry, WorkloadEntry},
    },
    translate::{
        Findings, annotations,
        endpoints::{Labelled, Port, Registry, Service, includes, is_exact, port_number},
        flow_limits, handoff, health, proxy_protocol, source_address, sources,
    },
};

impl<'a> Registry<'a> {
    /// Adds the hosts of a ServiceEntry that no other object defines.
    pub(super) fn entry(
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
        let health = health::Settings::read(&entry.meta, findings);
        let sources = sources::Settings::read(&entry.meta, findings);
        let limits = flow_limits::Settings::read(&entry.meta, findings);
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
            if let Some(first) = self.named(&host).find(|known| {
                known.meta.id.namespace == entry.meta.id.namespace
                    || host.ends_with(".svc.cluster.local")
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
            let known: Vec<u16> = ports.iter().map(|port| port.number).collect();
            for keys in [
                health::KEYS,
                sources::KEYS,
                flow_limits::KEYS,
                handoff::KEYS,
                proxy_protocol::KEYS,
                source_address::KEYS,
            ] {
                annotations::check_ports(keys, &entry.meta, &known, findings);
            }
            self.add(Service {
                host,
                meta: &entry.meta,
                ports,
                health: health.clone(),
                sources: sources.clone(),
                limits: limits.clone(),
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
        let transport = match port.protocol.as_deref() {
            Some(protocol) if protocol.eq_ignore_ascii_case("udp") => Transport::Udp,
            _ => Transport::Tcp,
        };
        if ports
            .iter()
            .any(|known| (known.number, known.transport) == (number, transport))
        {
            findings.error(
                place.key("number"),
                Reason::InvalidValue,
                format!("port {number} is given twice; the first is kept"),
            );
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
                    probed: false,
                },
                labels: BTreeMap::new(),
                vouched: false,
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
                            probed: false,
                        },
                        labels: (*labels).clone(),
                        vouched: false,
                    })
                })
                .collect(),
        };
        ports.push(Port {
            number,
            transport,
            endpoints,
            leaving: Vec::new(),
        });
    }
    ports
}
