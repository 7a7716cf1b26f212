// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What stands behind a host: Services with their EndpointSlices, and
//! ServiceEntries with their endpoints or WorkloadEntries.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    diagnostic::Reason,
    model::{Endpoint, HostPattern},
    resource::{Meta, Place, ResourceSet},
    translate::{Findings, hosts},
};

mod kubernetes;
mod service_entry;

/// Label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

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
                .push(kubernetes::service(service, &slices, findings));
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

    /// A name for `service` in the model: its host, with its namespace where
    /// another one defines the same host.
    pub fn cluster_host(&self, service: &Service<'_>) -> String {
        let same = |known: &&Service<'_>| known.host == service.host;
        if self.services.iter().filter(same).count() > 1 {
            format!("{}/{}", service.meta.id.namespace, service.host)
        } else {
            service.host.clone()
        }
    }

    /// The object that defines `host` without showing it to the gateway's
    /// namespace.
    pub fn hidden(&self, host: &str) -> Option<&'a Meta> {
        self.services
            .iter()
            .find(|service| service.host == host)
            .map(|service| service.meta)
    }

    /// A full name that begins like `host`, for a message.
    pub fn similar(&self, host: &str) -> Option<&str> {
        let first = host.split('.').next().unwrap_or(host);
        self.services
            .iter()
            .map(|service| service.host.as_str())
            .find(|known| known.split('.').next() == Some(first))
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

/// Whether `host` is one name, not a pattern.
fn is_exact(host: &str) -> bool {
    matches!(HostPattern::parse(host), Ok(HostPattern::Exact(_)))
}
