// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Shapes of Kubernetes' own kinds.

pub mod endpoint_slice;
pub mod secret;
pub mod service;

pub use endpoint_slice::EndpointSlice;
pub use secret::Secret;
pub use service::Service;
