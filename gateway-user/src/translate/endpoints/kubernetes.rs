// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Services with their EndpointSlices.

use std::collections::BTreeMap;

use crate::{
    diagnostic::Reason,
    model::{Endpoint, EndpointAddress, Transport},
    resource::{
        Object,
        core::{self, endpoint_slice},
    },
    translate::{
        Findings, annotations,
        endpoints::{Labelled, Port, Service, is_exact, port_number},
        flow_limits, handoff, health, hosts, list, proxy_protocol, source_address, sources,
    },
};

/// Annotation of a Service with the meaning of `exportTo`.
const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// A Service and the endpoints of its slices.
pub fn service<'a>(
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
        let transport = match port.protocol.as_deref() {
            None | Some("TCP") => Transport::Tcp,
            Some("UDP") => Transport::Udp,
            Some(_) => continue,
        };
        let Some(number) = port_number(port.port, place.key("port"), findings) else {
            continue;
        };
        let (endpoints, leaving) = match &external {
            Some(name) => (
                vec![Labelled {
                    endpoint: Endpoint {
                        address: EndpointAddress::Dns(name.clone()),
                        port: number,
                        weight: 1,
                        probed: false,
                    },
                    labels: BTreeMap::new(),
                    vouched: false,
                }],
                Vec::new(),
            ),
            None => {
                let name = port.name.as_deref().unwrap_or("");
                sliced(slices, name, transport, findings)
            }
        };
        ports.push(Port {
            number,
            transport,
            endpoints,
            leaving,
        });
    }
    let export_to = service
        .meta
        .annotations
        .get(EXPORT_TO)
        .map(|text| text.split(',').map(|part| part.trim().to_owned()).collect())
        .unwrap_or_default();
    let health = health::Settings::read(&service.meta, findings);
    let known: Vec<u16> = ports.iter().map(|port| port.number).collect();
    for keys in [
        health::KEYS,
        sources::KEYS,
        flow_limits::KEYS,
        handoff::KEYS,
        proxy_protocol::KEYS,
        source_address::KEYS,
    ] {
        annotations::check_ports(keys, &service.meta, &known, findings);
    }
    Service {
        host: hosts::service_name(&service.meta.id),
        meta: &service.meta,
        ports,
        health,
        sources: sources::Settings::of_service(service, findings),
        limits: flow_limits::Settings::read(&service.meta, findings),
        export_to,
    }
}

/// Ready endpoints; when there is none, those that terminate but still serve
/// (Kubernetes KEP-1669). And all others: they are there, and may have
/// connections to finish.
fn sliced(
    slices: &[&Object<core::EndpointSlice>],
    name: &str,
    transport: Transport,
    findings: &mut Findings,
) -> (Vec<Labelled>, Vec<Labelled>) {
    let mut ready = Vec::new();
    let mut leaving = Vec::new();
    let mut others = Vec::new();
    for slice in slices {
        let Some(port) = slice_port(slice, name, transport, findings) else {
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
                &mut others
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
                        probed: false,
                    },
                    labels: slice.meta.labels.clone(),
                    vouched: conditions.ready.is_some(),
                });
            }
        }
    }
    if ready.is_empty() {
        (leaving, others)
    } else {
        others.append(&mut leaving);
        (ready, others)
    }
}

fn slice_port(
    slice: &Object<core::EndpointSlice>,
    name: &str,
    transport: Transport,
    findings: &mut Findings,
) -> Option<u16> {
    let matching = |port: &&endpoint_slice::Port| {
        port.name.as_deref().unwrap_or("") == name
            && port
                .protocol
                .as_deref()
                .unwrap_or("TCP")
                .eq_ignore_ascii_case(transport.name())
    };
    let place = slice.meta.place().key("ports");
    match slice.spec.ports.iter().find(matching) {
        Some(port) => port_number(port.port, place, findings),
        // Services with a port for UDP that no route uses are common; a route
        // that does is told of its missing endpoints.
        None if transport == Transport::Udp => None,
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
