// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Annotations under this gateway's own prefix that have no effect.

use crate::{
    diagnostic::Reason,
    resource::Meta,
    translate::{Context, istio::FORWARDING},
};

const PREFIX: &str = "sluice.dev/";

/// Names the annotations that nothing reads.
pub fn check(context: &mut Context<'_>) {
    let resources = context.resources;
    let read = resources
        .virtual_services
        .iter()
        .map(|object| &object.meta)
        .chain(resources.service_entries.iter().map(|object| &object.meta))
        .chain(resources.services.iter().map(|object| &object.meta));
    let unread = resources
        .gateways
        .iter()
        .map(|object| &object.meta)
        .chain(
            resources
                .destination_rules
                .iter()
                .map(|object| &object.meta),
        )
        .chain(resources.workload_entries.iter().map(|object| &object.meta))
        .chain(resources.endpoint_slices.iter().map(|object| &object.meta))
        .chain(resources.secrets.iter().map(|object| &object.meta));
    read.for_each(|meta| unknown(context, meta, &[FORWARDING]));
    unread.for_each(|meta| unknown(context, meta, &[]));
}

fn unknown(context: &mut Context<'_>, meta: &Meta, known: &[&str]) {
    for key in meta.annotations.keys() {
        if key.starts_with(PREFIX) && !known.contains(&key.as_str()) {
            context.findings.warning(
                meta.annotation(key),
                Reason::UnknownField,
                format!("annotation {key} has no effect here; only {FORWARDING} of a VirtualService, Service or ServiceEntry has one"),
            );
        }
    }
}
