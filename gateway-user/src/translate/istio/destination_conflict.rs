// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DestinationRules of one namespace for one host: the oldest is kept, later
//! ones only add subsets and fill in an absent policy. What of them has no
//! effect is named, which Istio does not do.

use std::collections::HashMap;

use crate::{
    diagnostic::Reason,
    resource::{Object, ResourceSet, istio::DestinationRule},
    translate::{Findings, hosts},
};

/// Names what later rules say in vain.
pub fn check(resources: &ResourceSet, findings: &mut Findings) {
    let mut by_host: HashMap<(&str, String), Vec<&Object<DestinationRule>>> = HashMap::new();
    for later in &resources.destination_rules {
        let Some(host) = host(later) else { continue };
        let namespace = later.meta.id.namespace.as_str();
        let same = by_host.entry((namespace, host)).or_default();
        for earlier in same.iter() {
            compare(earlier, later, findings);
        }
        same.push(later);
    }
}

/// The full name of the host a rule is for, if it is for any gateway.
fn host(rule: &Object<DestinationRule>) -> Option<String> {
    let host = rule.spec.host.as_deref().filter(|host| !host.is_empty())?;
    let used = rule.spec.workload_selector.is_none();
    used.then(|| hosts::full_name(host, &rule.meta.id.namespace))
}

fn compare(
    earlier: &Object<DestinationRule>,
    later: &Object<DestinationRule>,
    findings: &mut Findings,
) {
    let place = later.meta.spec();
    let first = format!(
        "DestinationRule {} at {}",
        earlier.meta.id, earlier.meta.origin
    );
    if earlier.spec.traffic_policy.is_some() && later.spec.traffic_policy.is_some() {
        findings.warning(
            place.key("trafficPolicy"),
            Reason::Conflict,
            format!("{first} already has a trafficPolicy for this host; this one has no effect"),
        );
    }
    for (index, subset) in later.spec.subsets.iter().enumerate() {
        let is_taken = earlier
            .spec
            .subsets
            .iter()
            .any(|known| known.name.is_some() && known.name == subset.name);
        if is_taken {
            findings.warning(
                place.key("subsets").index(index),
                Reason::Conflict,
                format!(
                    "{first} already defines subset {} of this host; this one has no effect",
                    subset.name.as_deref().unwrap_or_default()
                ),
            );
        }
    }
}
