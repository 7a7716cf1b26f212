// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sluice's agent as a library: the binary, the tests and the tools share it.
//!
//! Data flows one way; nothing on the left imports anything to its right.
//!
//! ```text
//! source → resource → translate → model → compile → snapshot → reconcile → listener, conn, http, datapath
//!                        └→ diagnostic → check, log, status, admin
//! ```
//!
//! | room | job |
//! |---|---|
//! | [`source`] | watches files, emits complete resource sets |
//! | [`resource`] | YAML documents as typed shapes, no meaning |
//! | [`translate`] | resources to the model, with diagnostics |
//! | [`model`] | listeners, routes, clusters, certificates; no Istio word below |
//! | [`compile`] | the model to an immutable snapshot |
//! | [`snapshot`] | what the running agent reads |
//! | [`health`] | probes of endpoints; what is down is an input of compile |
//! | [`reconcile`] | the order in which a snapshot takes effect |
//! | [`datapath`] | kernel programs and maps |
//! | [`listener`], [`conn`], [`tls`], [`http`], [`balance`] | connections |
//! | [`proxy_header`] | the bytes that say to a backend who the client is |
//! | [`status`], [`admin`] | reports; they never change routing |

pub mod admin;
pub mod app;
pub mod balance;
pub mod bootstrap;
pub mod cli;
pub mod compile;
pub mod conn;
pub mod datapath;
pub mod diagnostic;
pub mod drain;
pub mod explain;
pub mod health;
pub mod http;
pub mod listener;
pub mod model;
pub mod origin;
pub mod proxy_header;
pub mod reconcile;
pub mod resource;
pub mod snapshot;
pub mod source;
pub mod status;
pub mod telemetry;
pub mod tls;
pub mod translate;
