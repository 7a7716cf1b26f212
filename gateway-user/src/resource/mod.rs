// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Configuration documents as typed shapes.
//!
//! A shape says which fields a kind has and of what type they are. It gives
//! them no meaning: names of enumerations, durations and hosts stay text, so
//! that `translate` can judge each one with its line.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

pub mod core;
pub mod istio;
pub mod lines;
pub mod meta;

pub use lines::{Lines, Node, Place, Step};
pub use meta::{Meta, Object, ObjectId, Opaque};

/// Everything the sources know, each kind in order of precedence: oldest
/// first, and where no creation time exists by (file path, document index).
#[derive(Clone, Debug, Default)]
pub struct ResourceSet {
    /// Istio Gateways.
    pub gateways: Vec<Arc<Object<istio::Gateway>>>,
    /// Istio VirtualServices.
    pub virtual_services: Vec<Arc<Object<istio::VirtualService>>>,
    /// Istio DestinationRules.
    pub destination_rules: Vec<Arc<Object<istio::DestinationRule>>>,
    /// Istio ServiceEntries.
    pub service_entries: Vec<Arc<Object<istio::ServiceEntry>>>,
    /// Istio WorkloadEntries.
    pub workload_entries: Vec<Arc<Object<istio::WorkloadEntry>>>,
    /// Istio AuthorizationPolicies.
    pub authorization_policies: Vec<Arc<Object<istio::AuthorizationPolicy>>>,
    /// Kubernetes Services.
    pub services: Vec<Arc<Object<core::Service>>>,
    /// Kubernetes EndpointSlices.
    pub endpoint_slices: Vec<Arc<Object<core::EndpointSlice>>>,
    /// Kubernetes Secrets.
    pub secrets: Vec<Arc<Object<core::Secret>>>,
    /// Contents of the files that Gateways name, or why they cannot be read.
    pub files: BTreeMap<PathBuf, Result<FileContents, String>>,
}

/// One resource of a known kind.
#[derive(Clone, Debug)]
pub enum Resource {
    /// networking.istio.io Gateway.
    Gateway(Arc<Object<istio::Gateway>>),
    /// networking.istio.io VirtualService.
    VirtualService(Arc<Object<istio::VirtualService>>),
    /// networking.istio.io DestinationRule.
    DestinationRule(Arc<Object<istio::DestinationRule>>),
    /// networking.istio.io ServiceEntry.
    ServiceEntry(Arc<Object<istio::ServiceEntry>>),
    /// networking.istio.io WorkloadEntry.
    WorkloadEntry(Arc<Object<istio::WorkloadEntry>>),
    /// security.istio.io AuthorizationPolicy.
    AuthorizationPolicy(Arc<Object<istio::AuthorizationPolicy>>),
    /// Service.
    Service(Arc<Object<core::Service>>),
    /// discovery.k8s.io EndpointSlice.
    EndpointSlice(Arc<Object<core::EndpointSlice>>),
    /// Secret.
    Secret(Arc<Object<core::Secret>>),
}

impl Resource {
    /// The kind's name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Gateway(_) => "Gateway",
            Self::VirtualService(_) => "VirtualService",
            Self::DestinationRule(_) => "DestinationRule",
            Self::ServiceEntry(_) => "ServiceEntry",
            Self::WorkloadEntry(_) => "WorkloadEntry",
            Self::AuthorizationPolicy(_) => "AuthorizationPolicy",
            Self::Service(_) => "Service",
            Self::EndpointSlice(_) => "EndpointSlice",
            Self::Secret(_) => "Secret",
        }
    }

    /// Name, labels and position.
    pub fn meta(&self) -> &Meta {
        match self {
            Self::Gateway(object) => &object.meta,
            Self::VirtualService(object) => &object.meta,
            Self::DestinationRule(object) => &object.meta,
            Self::ServiceEntry(object) => &object.meta,
            Self::WorkloadEntry(object) => &object.meta,
            Self::AuthorizationPolicy(object) => &object.meta,
            Self::Service(object) => &object.meta,
            Self::EndpointSlice(object) => &object.meta,
            Self::Secret(object) => &object.meta,
        }
    }
}

impl ResourceSet {
    /// Adds a resource after those of its kind.
    pub fn push(&mut self, resource: Resource) {
        match resource {
            Resource::Gateway(object) => self.gateways.push(object),
            Resource::VirtualService(object) => self.virtual_services.push(object),
            Resource::DestinationRule(object) => self.destination_rules.push(object),
            Resource::ServiceEntry(object) => self.service_entries.push(object),
            Resource::WorkloadEntry(object) => self.workload_entries.push(object),
            Resource::AuthorizationPolicy(object) => self.authorization_policies.push(object),
            Resource::Service(object) => self.services.push(object),
            Resource::EndpointSlice(object) => self.endpoint_slices.push(object),
            Resource::Secret(object) => self.secrets.push(object),
        }
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.gateways.len()
            + self.virtual_services.len()
            + self.destination_rules.len()
            + self.service_entries.len()
            + self.workload_entries.len()
            + self.authorization_policies.len()
            + self.services.len()
            + self.endpoint_slices.len()
            + self.secrets.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Bytes of a file a Gateway names. It may be a key: never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct FileContents(pub Arc<[u8]>);

impl std::fmt::Debug for FileContents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileContents({} bytes)", self.0.len())
    }
}
