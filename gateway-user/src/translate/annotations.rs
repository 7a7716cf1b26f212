// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Annotations under this gateway's own prefix that have no effect.

use crate::{
    diagnostic::Reason,
    resource::Object,
    translate::{
        Context, health,
        istio::{FORWARDING, PORT_RANGES},
        list,
    },
};

const PREFIX: &str = "sluice.dev/";

/// Names the annotations that nothing reads.
pub fn check(context: &mut Context<'_>) {
    let resources = context.resources;
    let route = [FORWARDING];
    let service: Vec<&str> = route.iter().chain(health::KEYS).copied().collect();
    unknown(context, &resources.gateways, "Gateway", &[PORT_RANGES]);
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
            let (base, _) = health::split(key);
            let base = if health::KEYS.contains(&base) {
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
