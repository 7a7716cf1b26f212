// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Resources to the model: the rules of the configuration languages, and every
//! finding about what an operator wrote.
//!
//! Pure: no input but the resources and [`Options`], no clock, no failure as a
//! whole. What is wrong removes only itself. Where an omission would let
//! traffic reach a rule it was kept from, the place is held by a refusal
//! instead: an HTTP rule without a usable action answers 500, a connection rule
//! without a usable destination closes.
//!
//! | file | job |
//! |---|---|
//! | `annotations` | annotations of this gateway that it does not know |
//! | `flow_limits` | annotations that limit new flows |
//! | `sources` | annotations that say which client addresses may connect |
//! | `health` | annotations that say how endpoints are probed |
//! | `proxy_protocol` | whether connections to endpoints begin with a PROXY header |
//! | `hosts` | `[namespace/]host`, short names, visibility |
//! | `endpoints` | Services, EndpointSlices, ServiceEntries: what stands behind a host |
//! | `certificates` | Secrets and files to pairs that belong together |
//! | `istio` | Gateways, VirtualServices, DestinationRules, AuthorizationPolicies |

use std::collections::BTreeMap;

use crate::{
    diagnostic::{Diagnostic, Reason},
    model::{Certificate, CertificateId, Cluster, ClusterId, HealthDefaults, Model},
    resource::{Place, ResourceSet},
};

mod annotations;
mod certificates;
mod duration;
mod endpoints;
mod flow_limits;
mod handoff;
mod health;
mod hosts;
mod istio;
mod proxy_protocol;
mod source_address;
mod sources;
#[cfg(test)]
mod tests;

/// What the agent knows of itself.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Its labels; a Gateway's selector must fit them.
    pub labels: BTreeMap<String, String>,
    /// Its namespace, in which Secrets and private DestinationRules are looked
    /// up. Without one, that of each Gateway.
    pub namespace: Option<String>,
    /// The time, in seconds since the Unix epoch, against which certificates
    /// are judged. Without it they never expire.
    pub now_s: Option<i64>,
    /// Certificates of the previous model. One whose new contents cannot be
    /// used stays in use.
    pub last_good: BTreeMap<CertificateId, Certificate>,
    /// How endpoints are probed where no annotation says so.
    pub health: HealthDefaults,
}

/// The model and every finding, sorted by file and line.
pub fn translate(resources: &ResourceSet, options: &Options) -> (Model, Vec<Diagnostic>) {
    let mut findings = Findings::default();
    let registry = endpoints::Registry::new(resources, &mut findings);
    let policies = istio::Policies::new(resources, &mut findings);
    let candidates = istio::Candidates::new(resources);
    let authorization = istio::Authorization::new(resources, options, &mut findings);
    let mut context = Context {
        resources,
        options,
        candidates: &candidates,
        registry: &registry,
        policies: &policies,
        authorization: &authorization,
        clusters: BTreeMap::new(),
        certificates: BTreeMap::new(),
        findings,
    };
    annotations::check(&mut context);
    let listeners = istio::listeners(&mut context);
    let Context {
        clusters,
        certificates,
        findings: Findings(mut diagnostics),
        ..
    } = context;
    // A rule that serves several listeners yields its findings once for each.
    diagnostics.sort();
    diagnostics.dedup();
    (
        Model {
            listeners,
            clusters,
            certificates,
        },
        diagnostics,
    )
}

/// What every step reads, and what it adds to.
struct Context<'a> {
    resources: &'a ResourceSet,
    options: &'a Options,
    candidates: &'a istio::Candidates<'a>,
    registry: &'a endpoints::Registry<'a>,
    policies: &'a istio::Policies<'a>,
    authorization: &'a istio::Authorization<'a>,
    clusters: BTreeMap<ClusterId, Cluster>,
    certificates: BTreeMap<CertificateId, Certificate>,
    findings: Findings,
}

impl<'a> Context<'a> {
    /// The namespace for which a Gateway in `gateway` acts.
    fn namespace<'b>(&'b self, gateway: &'b str) -> &'b str {
        self.options.namespace.as_deref().unwrap_or(gateway)
    }
}

/// Findings as they come.
#[derive(Debug, Default)]
struct Findings(Vec<Diagnostic>);

impl Findings {
    fn error(&mut self, place: Place<'_>, reason: Reason, message: impl Into<String>) {
        self.0
            .push(Diagnostic::error(&place.origin(), reason, message));
    }

    fn warning(&mut self, place: Place<'_>, reason: Reason, message: impl Into<String>) {
        self.0
            .push(Diagnostic::warning(&place.origin(), reason, message));
    }

    /// A field that is known, present and without effect.
    fn not_acted_on(&mut self, place: Place<'_>, field: &str) {
        self.warning(
            place,
            Reason::UnsupportedField,
            format!("{field} is not acted on by this gateway; remove it or do without its effect"),
        );
    }
}

/// Joins names for a message.
fn list<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items
        .into_iter()
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}
