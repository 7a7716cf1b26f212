// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Annotations under this gateway's own prefix: those that have no effect, and
//! those that a port behind their name narrows to it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    diagnostic::Reason,
    resource::{Meta, Object},
    translate::{
        Context, Findings, flow_limits, handoff, health,
        istio::{FORWARDING, PORT_RANGES},
        list, proxy_protocol, source_address, sources,
    },
};

const PREFIX: &str = "sluice.dev/";

/// Names the annotations that nothing reads.
pub fn check(context: &mut Context<'_>) {
    let resources = context.resources;
    let route = [&[FORWARDING][..], handoff::KEYS].concat();
    let service: Vec<&str> = route
        .iter()
        .chain(health::KEYS)
        .chain(sources::KEYS)
        .chain(flow_limits::KEYS)
        .chain(proxy_protocol::KEYS)
        .chain(source_address::KEYS)
        .copied()
        .collect();
    let gateway = [&[PORT_RANGES][..], sources::KEYS, flow_limits::KEYS].concat();
    unknown(context, &resources.gateways, "Gateway", &gateway);
    unknown(
        context,
        &resources.virtual_services,
        "VirtualService",
        &route,
    );
    unknown(
        context,
        &resources.destination_rules,
        "DestinationRule",
        health::KEYS,
    );
    unknown(
        context,
        &resources.service_entries,
        "ServiceEntry",
        &service,
    );
    unknown(context, &resources.workload_entries, "WorkloadEntry", &[]);
    unknown(
        context,
        &resources.authorization_policies,
        "AuthorizationPolicy",
        &[],
    );
    unknown(context, &resources.services, "Service", &service);
    unknown(context, &resources.endpoint_slices, "EndpointSlice", &[]);
    unknown(context, &resources.secrets, "Secret", &[]);
}

fn unknown<T, O: AsRef<Object<T>>>(
    context: &mut Context<'_>,
    objects: &[O],
    kind: &str,
    known: &[&str],
) {
    for meta in objects.iter().map(|object| &object.as_ref().meta) {
        for key in meta.annotations.keys() {
            let (base, _) = split(key);
            let with_ports = [
                health::KEYS,
                sources::KEYS,
                flow_limits::KEYS,
                handoff::KEYS,
                proxy_protocol::KEYS,
                source_address::KEYS,
            ];
            let base = if with_ports.iter().any(|keys| keys.contains(&base)) {
                base
            } else {
                key
            };
            if !key.starts_with(PREFIX) || known.contains(&base) {
                continue;
            }
            let advice = if known.is_empty() {
                format!("a {kind} has none that does")
            } else {
                let short = known.iter().map(|key| key.trim_start_matches(PREFIX));
                format!("a {kind} has, after {PREFIX}: {}", list(short))
            };
            context.findings.warning(
                meta.annotation(key),
                Reason::UnknownField,
                format!("annotation {key} has no effect here; {advice}"),
            );
        }
    }
}

/// Names those of `keys` for ports that the object does not have.
pub fn check_ports(keys: &[&str], meta: &Meta, known: &[u16], findings: &mut Findings) {
    for key in meta.annotations.keys() {
        let (base, port) = split(key);
        if keys.contains(&base)
            && let Some(port) = port
            && !known.contains(&port)
        {
            findings.warning(
                meta.annotation(key),
                Reason::UnsupportedField,
                format!(
                    "{key} has no effect: {} has no port {port}; it has {}",
                    meta.id,
                    list(known)
                ),
            );
        }
    }
}

/// What an object's annotations say for all ports, and for each port that one of
/// `keys` names; `read` gets what stands behind the names.
pub fn by_port<T>(
    meta: &Meta,
    keys: &[&str],
    mut read: impl FnMut(&str) -> T,
) -> (T, BTreeMap<u16, T>) {
    let ports: BTreeSet<u16> = meta
        .annotations
        .keys()
        .map(|key| split(key))
        .filter(|(base, _)| keys.contains(base))
        .filter_map(|(_, port)| port)
        .collect();
    let all = read("");
    let ports = ports.into_iter().map(|port| (port, read(&suffix(port))));
    (all, ports.collect())
}

/// The name of an annotation and the port behind it.
pub fn split(key: &str) -> (&str, Option<u16>) {
    match key
        .rsplit_once('.')
        .map(|(base, port)| (base, port.parse()))
    {
        Some((base, Ok(port))) if port != 0 => (base, Some(port)),
        _ => (key, None),
    }
}

/// What stands behind the name of an annotation for a port.
pub fn suffix(port: u16) -> String {
    format!(".{port}")
}
