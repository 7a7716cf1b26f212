// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Names of hosts, gateways and namespaces as Istio writes them.

use crate::{
    model::{HostPattern, hostname::HostPatternError},
    resource::ObjectId,
};

/// Domain of the cluster; Istio's default.
const CLUSTER_DOMAIN: &str = "svc.cluster.local";

/// A host of a server, and whose VirtualServices it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHost {
    /// Namespace of the VirtualServices; any when absent.
    pub namespace: Option<String>,
    /// The host.
    pub pattern: HostPattern,
}

impl ServerHost {
    /// Parses `[namespace/]host` of a Gateway in `own`.
    pub fn parse(text: &str, own: &str) -> Result<Self, HostPatternError> {
        let (namespace, host) = match text.split_once('/') {
            None => (None, text),
            Some(("*", host)) => (None, host),
            Some((".", host)) => (Some(own.to_owned()), host),
            Some(("", _)) => return Err(HostPatternError::Empty),
            Some((namespace, host)) => (Some(namespace.to_owned()), host),
        };
        Ok(Self {
            namespace,
            pattern: HostPattern::parse(host)?,
        })
    }
}

/// The full name of a host that an object in `namespace` writes: short names
/// belong to the namespace of that object.
pub fn full_name(host: &str, namespace: &str) -> String {
    let host = host.to_ascii_lowercase();
    if host.contains(['.', '*', ':']) || host.is_empty() {
        host
    } else {
        format!("{host}.{namespace}.{CLUSTER_DOMAIN}")
    }
}

/// The full name of a Service.
pub fn service_name(id: &ObjectId) -> String {
    format!("{}.{}.{CLUSTER_DOMAIN}", id.name, id.namespace).to_ascii_lowercase()
}

/// Patterns a VirtualService's host stands for: itself, and the full name of a
/// short one.
pub fn route_hosts(host: &str, namespace: &str) -> Result<Vec<HostPattern>, HostPatternError> {
    let pattern = HostPattern::parse(host)?;
    let full = HostPattern::parse(&full_name(host, namespace))?;
    Ok(if full == pattern {
        vec![pattern]
    } else {
        vec![pattern, full]
    })
}

/// The Gateway that an object in `namespace` calls `[namespace/]name`; nothing
/// for `mesh`, which means sidecars.
pub fn gateway(text: &str, namespace: &str) -> Option<ObjectId> {
    if text == "mesh" {
        return None;
    }
    let (namespace, name) = match text.split_once('/') {
        Some((".", name)) => (namespace, name),
        Some((namespace, name)) => (namespace, name),
        None => (namespace, text),
    };
    Some(ObjectId {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

/// Whether an object in `own` with this `exportTo` is seen from `from`.
pub fn exported<S: AsRef<str>>(export_to: &[S], own: &str, from: &str) -> bool {
    export_to.is_empty()
        || export_to.iter().any(|entry| match entry.as_ref().trim() {
            "*" => true,
            "." => own == from,
            "~" => false,
            namespace => namespace == from,
        })
}

/// The patterns of `all` that no other one covers.
pub fn widest(mut all: Vec<HostPattern>) -> Vec<HostPattern> {
    all.sort();
    all.dedup();
    let keep: Vec<bool> = all
        .iter()
        .map(|one| !all.iter().any(|other| other != one && other.covers(one)))
        .collect();
    let mut keep = keep.into_iter();
    all.retain(|_| keep.next().unwrap_or(true));
    all
}

#[cfg(test)]
mod tests {
    use super::{ServerHost, exported, full_name, gateway, widest};
    use crate::model::HostPattern;

    #[test]
    fn namespaces_of_server_hosts() {
        let cases = [
            ("a.example", None, "a.example"),
            ("*/a.example", None, "a.example"),
            ("./a.example", Some("own"), "a.example"),
            ("other/*.example", Some("other"), "*.example"),
            ("*/*", None, "*"),
        ];
        for (text, namespace, host) in cases {
            let parsed = ServerHost::parse(text, "own").expect(text);
            assert_eq!(parsed.namespace.as_deref(), namespace, "{text}");
            assert_eq!(parsed.pattern.to_string(), host, "{text}");
        }
        assert!(
            ServerHost::parse("/a", "own").is_err() && ServerHost::parse("a/b/c", "own").is_err()
        );
    }

    #[test]
    fn short_names_belong_to_the_writer() {
        assert_eq!(full_name("Web", "shop"), "web.shop.svc.cluster.local");
        assert_eq!(full_name("web.other", "shop"), "web.other");
        assert_eq!(full_name("*", "shop"), "*");
    }

    #[test]
    fn gateways_are_named_with_or_without_namespace() {
        assert_eq!(gateway("mesh", "a"), None);
        assert_eq!(gateway("g", "a").expect("named").to_string(), "a/g");
        assert_eq!(gateway("b/g", "a").expect("named").to_string(), "b/g");
    }

    #[test]
    fn export_to_names_who_sees_an_object() {
        for (list, from, seen) in [
            (&[][..], "b", true),
            (&["*"][..], "b", true),
            (&["."][..], "b", false),
            (&["."][..], "a", true),
            (&["~"][..], "a", false),
            (&["c", "b"][..], "b", true),
        ] {
            assert_eq!(exported(list, "a", from), seen, "{list:?} from {from}");
        }
    }

    #[test]
    fn covered_patterns_are_left_out() {
        let patterns = ["a.b", "*.b", "*.a.b", "c"].map(|p| HostPattern::parse(p).expect(p));
        let kept: Vec<String> = widest(patterns.to_vec())
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(kept, ["c", "*.b"]);
    }
}
