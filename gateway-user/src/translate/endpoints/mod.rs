// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What stands behind a host: Services with their EndpointSlices, and
//! ServiceEntries with their endpoints or WorkloadEntries.

use std::collections::{BTreeMap, HashMap};

use crate::{
    diagnostic::Reason,
    model::{Endpoint, HostPattern, Transport},
    resource::{Meta, Object, ObjectId, Place, ResourceSet, core::EndpointSlice},
    translate::{Findings, flow_limits, health, hosts, sources},
};

mod kubernetes;
mod service_entry;

/// Label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Namespace and name of a Service.
type ServiceId<'a> = (&'a str, &'a str);

/// Every known service.
#[derive(Debug, Default)]
pub struct Registry<'a> {
    services: Vec<Service<'a>>,
    /// Positions in `services` by host.
    by_host: HashMap<String, Vec<usize>>,
    /// The first host with each first label, for messages.
    by_label: HashMap<String, usize>,
}

/// A host and its ports.
#[derive(Debug)]
pub struct Service<'a> {
    /// Full name, lower case.
    pub host: String,
    /// The object that defines it.
    pub meta: &'a Meta,
    /// Ports; one number may stand for TCP and for UDP.
    pub ports: Vec<Port>,
    /// How its endpoints are to be probed.
    pub health: health::Settings,
    /// Which clients it is for.
    pub sources: sources::Settings,
    /// Limits of new flows.
    pub limits: flow_limits::Settings,
    export_to: Vec<String>,
}

/// A port and the endpoints behind it.
#[derive(Debug)]
pub struct Port {
    /// Number, as destinations name it.
    pub number: u16,
    /// What carries it.
    pub transport: Transport,
    /// Endpoints with their labels.
    pub endpoints: Vec<Labelled>,
    /// Those that take no new connection, see [`crate::model::Cluster::leaving`].
    pub leaving: Vec<Labelled>,
}

/// An endpoint and the labels by which subsets choose it.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// An EndpointSlice says whether it is ready.
    pub vouched: bool,
}

impl<'a> Registry<'a> {
    /// Reads every Service and ServiceEntry.
    pub fn new(resources: &'a ResourceSet, findings: &mut Findings) -> Self {
        let mut registry = Self::default();
        let mut slices: BTreeMap<ServiceId<'a>, Vec<&'a Object<EndpointSlice>>> = BTreeMap::new();
        for slice in &resources.endpoint_slices {
            if let Some(name) = slice.meta.labels.get(SERVICE_NAME) {
                let id = (slice.meta.id.namespace.as_str(), name.as_str());
                slices.entry(id).or_default().push(slice);
            }
        }
        for service in &resources.services {
            let id = (
                service.meta.id.namespace.as_str(),
                service.meta.id.name.as_str(),
            );
            let own = slices.get(&id).map_or(&[][..], Vec::as_slice);
            registry.add(kubernetes::service(service, own, findings));
        }
        for slice in &resources.endpoint_slices {
            let namespace = &slice.meta.id.namespace;
            let belongs = slice.meta.labels.get(SERVICE_NAME).is_some_and(|name| {
                let is_its = |service: &Service<'_>| {
                    let id = &service.meta.id;
                    id.name == *name && id.namespace == *namespace
                };
                let host = hosts::service_name(&ObjectId {
                    namespace: namespace.clone(),
                    name: name.clone(),
                });
                registry.named(&host).any(is_its)
            });
            if !belongs {
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

    fn add(&mut self, service: Service<'a>) {
        let index = self.services.len();
        let host = &service.host;
        self.by_host.entry(host.clone()).or_default().push(index);
        self.by_label
            .entry(first_label(host).to_owned())
            .or_insert(index);
        self.services.push(service);
    }

    /// Those that define `host`, in order of precedence.
    fn named(&self, host: &str) -> impl Iterator<Item = &Service<'a>> {
        let places = self.by_host.get(host).map_or(&[][..], Vec::as_slice);
        places.iter().map(|place| &self.services[*place])
    }

    /// The service that an object in `namespace` means by `host`, as seen from
    /// the gateway's namespace: its own first, then any that is visible.
    pub fn find(&self, host: &str, namespace: &str, gateway: &str) -> Option<&Service<'a>> {
        let visible = || {
            self.named(host).filter(|service| {
                hosts::exported(&service.export_to, &service.meta.id.namespace, gateway)
            })
        };
        visible()
            .find(|service| service.meta.id.namespace == namespace)
            .or_else(|| visible().next())
    }

    /// A name for `service` in the model: its host, with its namespace where
    /// another one defines the same host.
    pub fn cluster_host(&self, service: &Service<'_>) -> String {
        if self.named(&service.host).count() > 1 {
            format!("{}/{}", service.meta.id.namespace, service.host)
        } else {
            service.host.clone()
        }
    }

    /// The object that defines `host` without showing it to the gateway's
    /// namespace.
    pub fn hidden(&self, host: &str) -> Option<&'a Meta> {
        self.named(host).next().map(|service| service.meta)
    }

    /// A full name that begins like `host`, for a message.
    pub fn similar(&self, host: &str) -> Option<&str> {
        let place = self.by_label.get(first_label(host))?;
        Some(&self.services[*place].host)
    }
}

fn first_label(host: &str) -> &str {
    host.split('.').next().unwrap_or(host)
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
