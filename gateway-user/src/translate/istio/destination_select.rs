// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which DestinationRules are for a service.

use crate::{
    model::HostPattern,
    translate::{
        hosts,
        istio::destination_rule::{Policies, Rule},
    },
};

/// Namespace whose exported rules are for every service.
const ROOT_NAMESPACE: &str = "istio-system";

impl<'a> Policies<'a> {
    /// Rules for a service as seen by a gateway: those of the gateway's
    /// namespace, else those the service's namespace exports, else those the
    /// root namespace exports; within one level those of the most specific
    /// host, oldest first.
    pub(super) fn select(&self, host: &str, service: &str, gateway: &str) -> Vec<&Rule<'a>> {
        let Ok(wanted) = HostPattern::parse(host) else {
            return Vec::new();
        };
        let covering = self.covering(&wanted);
        let is_from = |level: usize, rule: &Rule<'a>| {
            let exported = |namespace: &str| {
                rule.meta.id.namespace == namespace
                    && hosts::exported(rule.export_to, namespace, gateway)
            };
            match level {
                0 => rule.meta.id.namespace == gateway,
                1 => exported(service),
                _ => exported(ROOT_NAMESPACE),
            }
        };
        for level in 0..3 {
            let of_level = covering.iter().filter(|rule| is_from(level, rule));
            let matching: Vec<&Rule<'a>> = of_level.copied().collect();
            let Some(best) = matching.iter().map(|rule| specificity(&rule.host)).max() else {
                continue;
            };
            return matching
                .into_iter()
                .filter(|rule| specificity(&rule.host) == best)
                .collect();
        }
        Vec::new()
    }

    /// Rules whose hosts include `wanted`, in order of precedence.
    fn covering(&self, wanted: &HostPattern) -> Vec<&Rule<'a>> {
        let exact = match wanted {
            HostPattern::Exact(host) => self.exact.get(host),
            _ => None,
        };
        let covers = |index: &&usize| self.rules[**index].host.covers(wanted);
        let patterns = self.patterns.iter().filter(covers);
        let mut found: Vec<usize> = exact
            .into_iter()
            .flatten()
            .chain(patterns)
            .copied()
            .collect();
        found.sort_unstable();
        found.into_iter().map(|index| &self.rules[index]).collect()
    }
}

fn specificity(host: &HostPattern) -> usize {
    match host {
        HostPattern::Exact(_) => usize::MAX,
        HostPattern::Suffix(suffix) => suffix.len(),
        HostPattern::Any => 0,
    }
}
