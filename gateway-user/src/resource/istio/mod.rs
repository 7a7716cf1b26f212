// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Shapes of networking.istio.io and security.istio.io; v1, v1beta1 and v1alpha3
//! are the same.

pub mod authorization_policy;
pub mod destination_rule;
pub mod gateway;
pub mod service_entry;
pub mod virtual_service;
pub mod workload_entry;

pub use authorization_policy::AuthorizationPolicy;
pub use destination_rule::DestinationRule;
pub use gateway::Gateway;
pub use service_entry::ServiceEntry;
pub use virtual_service::VirtualService;
pub use workload_entry::WorkloadEntry;
