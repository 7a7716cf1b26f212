// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AuthorizationPolicies, as far as they are about addresses and ports.
//!
//! They hold for whole connections, before anything is read. A condition on
//! anything else is treated as Istio treats conditions on HTTP where there is
//! none: an ALLOW rule with it takes nobody, a DENY rule refuses as if it was
//! not there. Whatever cannot be told refuses.

use std::{collections::BTreeSet, ops::RangeInclusive};

use crate::{
    diagnostic::Reason,
    model::Sources,
    resource::{
        Meta, Object, Place, ResourceSet,
        istio::{
            AuthorizationPolicy,
            authorization_policy::{Condition, Operation, Rule, Source},
        },
    },
    translate::{Findings, Options, endpoints::includes, list, sources::networks},
};

/// Policies of this namespace are for all others as well; Istio's default.
const ROOT_NAMESPACE: &str = "istio-system";
/// Annotation of a policy that is only to be watched.
const DRY_RUN: &str = "istio.io/dry-run";

/// Every policy for this agent.
#[derive(Debug, Default)]
pub struct Authorization<'a> {
    policies: Vec<Policy<'a>>,
}

#[derive(Debug)]
struct Policy<'a> {
    namespace: &'a str,
    action: Action,
    rules: Vec<Compiled>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Allow,
    Deny,
}

/// A rule: some sources, where all of `when` and any of `to` fit the port.
#[derive(Debug)]
struct Compiled {
    sources: Sources,
    to: Vec<Ports>,
    when: Vec<Ports>,
}

/// A condition on the port of the listener; an empty list is none.
#[derive(Debug, Default)]
struct Ports {
    any_of: Vec<u16>,
    none_of: Vec<u16>,
}

impl Ports {
    fn fit(&self, port: u16) -> bool {
        (self.any_of.is_empty() || self.any_of.contains(&port)) && !self.none_of.contains(&port)
    }

    fn is_empty(&self) -> bool {
        self.any_of.is_empty() && self.none_of.is_empty()
    }
}

impl Compiled {
    /// Sources it matches at `ports`: at all of them for a rule that allows, at
    /// any of them for one that denies.
    fn at(&self, ports: &RangeInclusive<u16>, action: Action) -> Sources {
        let fits_at = |port: u16| {
            (self.to.is_empty() || self.to.iter().any(|ports| ports.fit(port)))
                && self.when.iter().all(|ports| ports.fit(port))
        };
        let is_for_any = self.to.iter().chain(&self.when).all(Ports::is_empty);
        let fits = is_for_any
            || match action {
                Action::Allow => ports.clone().all(fits_at),
                Action::Deny => ports.clone().any(fits_at),
            };
        if fits {
            self.sources.clone()
        } else {
            Sources::nobody()
        }
    }
}

impl<'a> Authorization<'a> {
    /// Reads the policies that select this agent.
    pub fn new(resources: &'a ResourceSet, options: &Options, findings: &mut Findings) -> Self {
        let policies = resources.authorization_policies.iter();
        Self {
            policies: policies
                .filter_map(|policy| Policy::new(policy, options, findings))
                .collect(),
        }
    }

    /// Who may connect to all of `ports` of an agent that acts for `namespaces`.
    pub fn sources(&self, namespaces: &BTreeSet<&str>, ports: &RangeInclusive<u16>) -> Sources {
        let of = |action: Action| {
            self.policies.iter().filter(move |policy| {
                policy.action == action
                    && (policy.namespace == ROOT_NAMESPACE || namespaces.contains(policy.namespace))
            })
        };
        let matched = |action: Action| {
            of(action)
                .flat_map(|policy| &policy.rules)
                .fold(Sources::nobody(), |all, rule| {
                    all.union(&rule.at(ports, action))
                })
        };
        let allowed = if of(Action::Allow).next().is_none() {
            Sources::everyone()
        } else {
            matched(Action::Allow)
        };
        allowed.intersection(&matched(Action::Deny).complement())
    }
}

impl<'a> Policy<'a> {
    fn new(
        policy: &'a Object<AuthorizationPolicy>,
        options: &Options,
        findings: &mut Findings,
    ) -> Option<Self> {
        let Object { meta, spec } = policy;
        let everybody = || Compiled {
            sources: Sources::everyone(),
            to: Vec::new(),
            when: Vec::new(),
        };
        let refusing = || {
            Some(Self {
                namespace: &meta.id.namespace,
                action: Action::Deny,
                rules: vec![everybody()],
            })
        };
        if spec.unreadable {
            findings.error(
                meta.place(),
                Reason::InvalidValue,
                format!(
                    "AuthorizationPolicy {} cannot be read, and might be for every listener: all connections are refused until it is corrected or removed",
                    meta.id
                ),
            );
            return refusing();
        }
        let place = meta.spec();
        if spec.target_ref.is_some() || !spec.target_refs.is_empty() {
            findings.warning(
                place.key(if spec.target_ref.is_some() { "targetRef" } else { "targetRefs" }),
                Reason::UnsupportedField,
                format!(
                    "AuthorizationPolicy {} is for the objects it names, none of which this gateway serves; use a selector for its labels",
                    meta.id
                ),
            );
            return None;
        }
        if let Some(selector) = &spec.selector
            && !includes(&options.labels, &selector.match_labels)
        {
            return None;
        }
        if meta
            .annotations
            .get(DRY_RUN)
            .is_some_and(|value| value == "true")
        {
            findings.warning(
                meta.annotation(DRY_RUN),
                Reason::UnsupportedField,
                format!("AuthorizationPolicy {} is a dry run: it has no effect here, not even in the log", meta.id),
            );
            return None;
        }
        let action = match spec.action.as_deref() {
            None | Some("ALLOW") => Action::Allow,
            Some("DENY") => Action::Deny,
            Some("AUDIT") => {
                findings.not_acted_on(place.key("action"), "action AUDIT");
                return None;
            }
            Some(other) => {
                findings.error(
                    place.key("action"),
                    Reason::UnsupportedField,
                    format!(
                        "action {other} of AuthorizationPolicy {} is not one of ALLOW, DENY, AUDIT: all connections to its gateways are refused",
                        meta.id
                    ),
                );
                return refusing();
            }
        };
        // What was meant as a narrower selector or as rules.
        let unknown = place.unknown_fields_here();
        if !unknown.is_empty() {
            findings.error(
                place,
                Reason::UnknownField,
                format!(
                    "AuthorizationPolicy {} has the unknown {}, so that nobody knows whom it is for: all connections to its gateways are refused; correct or remove that field",
                    meta.id,
                    unknown.join(", ")
                ),
            );
            return refusing();
        }
        let rules = spec.rules.iter().enumerate().filter_map(|(index, rule)| {
            let place = place.key("rules").index(index);
            Reader {
                meta,
                action,
                findings: &mut *findings,
                unsupported: Vec::new(),
            }
            .rule(rule, place)
        });
        let rules = rules.collect();
        Some(Self {
            namespace: &meta.id.namespace,
            action,
            rules,
        })
    }
}

/// Reads one rule.
struct Reader<'f, 'm> {
    meta: &'m Meta,
    action: Action,
    findings: &'f mut Findings,
    /// Conditions that cannot be told here.
    unsupported: Vec<String>,
}

impl Reader<'_, '_> {
    fn rule(mut self, rule: &Rule, place: Place<'_>) -> Option<Compiled> {
        let unknown = place.unknown_fields();
        self.unsupported
            .extend(unknown.into_iter().map(str::to_owned));
        let mut sources = if rule.from.is_empty() {
            Sources::everyone()
        } else {
            Sources::nobody()
        };
        for (index, from) in rule.from.iter().enumerate() {
            let place = place.key("from").index(index).key("source");
            sources = sources.union(&self.source(&from.source, place));
        }
        let mut to = Vec::new();
        for (index, one) in rule.to.iter().enumerate() {
            let place = place.key("to").index(index).key("operation");
            to.push(self.operation(&one.operation, place));
        }
        let mut when = Vec::new();
        for (index, condition) in rule.when.iter().enumerate() {
            let place = place.key("when").index(index);
            let (of, ports) = self.condition(condition, place);
            sources = sources.intersection(&of);
            when.extend(ports);
        }
        if !self.unsupported.is_empty() {
            let effect = match self.action {
                Action::Allow => "the rule allows nobody",
                Action::Deny => "the rule denies without it",
            };
            let conditions = list(&self.unsupported);
            self.findings.error(
                place,
                Reason::UnsupportedField,
                format!(
                    "a rule of AuthorizationPolicy {} has conditions that this gateway cannot tell: {conditions}; {effect}. Addresses and ports it can",
                    self.meta.id
                ),
            );
            if self.action == Action::Allow {
                return None;
            }
        }
        Some(Compiled { sources, to, when })
    }

    fn source(&mut self, source: &Source, place: Place<'_>) -> Sources {
        for (name, given) in [
            ("principals", &source.principals),
            ("notPrincipals", &source.not_principals),
            ("requestPrincipals", &source.request_principals),
            ("notRequestPrincipals", &source.not_request_principals),
            ("namespaces", &source.namespaces),
            ("notNamespaces", &source.not_namespaces),
            ("serviceAccounts", &source.service_accounts),
            ("notServiceAccounts", &source.not_service_accounts),
            ("trustDomains", &source.trust_domains),
            ("notTrustDomains", &source.not_trust_domains),
        ] {
            if given.is_some() {
                self.unsupported.push(name.to_owned());
            }
        }
        // Without a proxy in front that is trusted, both mean the peer.
        let blocks = [
            ("ipBlocks", &source.ip_blocks, true),
            ("remoteIpBlocks", &source.remote_ip_blocks, true),
            ("notIpBlocks", &source.not_ip_blocks, false),
            ("notRemoteIpBlocks", &source.not_remote_ip_blocks, false),
        ];
        if self.unsupported.is_empty() && blocks.iter().all(|(_, list, _)| list.is_empty()) {
            // Perhaps a list whose entries were forgotten: not everyone.
            self.unsupported.push("an empty source".to_owned());
        }
        blocks
            .into_iter()
            .filter(|(_, blocks, _)| !blocks.is_empty())
            .fold(Sources::everyone(), |all, (name, blocks, is_in)| {
                all.intersection(&self.blocks(blocks, is_in, place.key(name)))
            })
    }

    /// Addresses in `blocks`, or those not in them. A block that cannot be read
    /// stands for all or none, so that the rule refuses more.
    fn blocks(&mut self, blocks: &[String], is_in: bool, place: Place<'_>) -> Sources {
        let texts = blocks.iter().map(String::as_str);
        let (sources, complete) = networks(texts, place, self.findings);
        let matched = if is_in { sources } else { sources.complement() };
        match self.action {
            _ if complete => matched,
            Action::Deny => Sources::everyone(),
            Action::Allow if is_in => matched,
            Action::Allow => Sources::nobody(),
        }
    }

    fn operation(&mut self, operation: &Operation, place: Place<'_>) -> Ports {
        for (name, given) in [
            ("hosts", &operation.hosts),
            ("notHosts", &operation.not_hosts),
            ("methods", &operation.methods),
            ("notMethods", &operation.not_methods),
            ("paths", &operation.paths),
            ("notPaths", &operation.not_paths),
        ] {
            if given.is_some() {
                self.unsupported.push(name.to_owned());
            }
        }
        let Operation {
            ports, not_ports, ..
        } = operation;
        if self.unsupported.is_empty() && ports.is_empty() && not_ports.is_empty() {
            self.unsupported.push("an empty operation".to_owned());
        }
        self.ports(ports, not_ports, place.key("ports"))
    }

    fn condition(&mut self, condition: &Condition, place: Place<'_>) -> (Sources, Option<Ports>) {
        let Condition {
            key,
            values,
            not_values,
        } = condition;
        if values.is_empty() && not_values.is_empty() {
            self.unsupported.push(format!("{key} without values"));
            return (Sources::everyone(), None);
        }
        match key.as_str() {
            "source.ip" | "remote.ip" => {
                let mut sources = Sources::everyone();
                for (values, is_in) in [(values, true), (not_values, false)] {
                    if !values.is_empty() {
                        sources = sources.intersection(&self.blocks(values, is_in, place));
                    }
                }
                (sources, None)
            }
            "destination.port" => (
                Sources::everyone(),
                Some(self.ports(values, not_values, place)),
            ),
            _ => {
                self.unsupported.push(key.clone());
                (Sources::everyone(), None)
            }
        }
    }

    /// A condition on ports. One that is no number makes the rule one that
    /// cannot be told.
    fn ports(&mut self, any_of: &[String], none_of: &[String], place: Place<'_>) -> Ports {
        let mut read = |texts: &[String]| -> Option<Vec<u16>> {
            let mut ports = Vec::new();
            for text in texts {
                match text.parse::<u16>() {
                    Ok(port) if port != 0 => ports.push(port),
                    _ => {
                        self.findings.error(
                            place,
                            Reason::InvalidValue,
                            format!("{text:?} is not a port; ports are 1 to 65535"),
                        );
                        return None;
                    }
                }
            }
            Some(ports)
        };
        match (read(any_of), read(none_of)) {
            (Some(any_of), Some(none_of)) => Ports { any_of, none_of },
            _ => {
                self.unsupported.push("ports".to_owned());
                Ports::default()
            }
        }
    }
}
