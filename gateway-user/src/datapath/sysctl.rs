// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernel settings the datapath depends on. One that cannot be written is a
//! warning that names it: containers often have them read-only, and set right.

use std::{
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

/// Lets the node forward at all.
pub fn enable_forwarding() -> Vec<String> {
    set(&["net", "ipv4", "ip_forward"], "1")
        .into_iter()
        .collect()
}

/// Lets the node forward IPv6. A forwarding interface ignores router
/// advertisements unless told otherwise (`accept_ra`, ip-sysctl.rst), and would
/// lose the default route it may have from one: those that take them go on.
pub fn enable_ipv6_forwarding() -> Vec<String> {
    let forwarding = ["net", "ipv6", "conf", "all", "forwarding"];
    let mut warnings = Vec::new();
    let is_on = fs::read_to_string(path(&forwarding)).is_ok_and(|value| value.trim() == "1");
    if !is_on && let Ok(interfaces) = fs::read_dir(path(&["net", "ipv6", "conf"])) {
        for interface in interfaces.flatten() {
            let file = interface.path().join("accept_ra");
            if fs::read_to_string(&file).is_ok_and(|value| value.trim() == "1") {
                warnings.extend(write(&file, "2"));
            }
        }
    }
    warnings.extend(set(&forwarding, "1"));
    warnings
}

/// Whether the node forwards packets of a family. IPv6 is switched on, as whoever
/// asks needs it: a node that is no IPv6 router stays none until then.
pub fn forwards(is_ipv6: bool) -> bool {
    let key: &[&str] = if is_ipv6 {
        for warning in enable_ipv6_forwarding() {
            tracing::warn!("{warning}");
        }
        &["net", "ipv6", "conf", "all", "forwarding"]
    } else {
        &["net", "ipv4", "ip_forward"]
    };
    fs::read_to_string(path(key)).is_ok_and(|value| value.trim() == "1")
}

/// Lets an interface take and send forwarded packets, and lets the stack send
/// those that were rewritten before they reach it, because the next hop's MAC
/// is not known yet: their source may be an address of this node.
pub fn enable_interface(interface: &str) -> Vec<String> {
    let of = |interface, key| ["net", "ipv4", "conf", interface, key];
    let mut warnings = Vec::new();
    for key in ["forwarding", "accept_local"] {
        warnings.extend(set(&of(interface, key), "1"));
    }
    // The greater of both is in force (ip-sysctl.rst); strict (1) refuses
    // sources that would not be answered on the same interface, loose (2) not.
    let strict = ["all", interface]
        .iter()
        .filter_map(|interface| fs::read_to_string(path(&of(interface, "rp_filter"))).ok())
        .filter_map(|value| value.trim().parse::<u8>().ok())
        .max();
    if strict == Some(1) {
        warnings.extend(set(&of(interface, "rp_filter"), "2"));
    }
    warnings
}

/// Lets an interface answer neighbour solicitations for proxied addresses, at
/// once.
pub fn enable_proxy(interface: &str) -> Vec<String> {
    let keys = [
        ["net", "ipv6", "conf", interface, "proxy_ndp"],
        ["net", "ipv6", "neigh", interface, "proxy_delay"],
    ];
    let set = |(key, value): (&[&str; 5], &str)| set(key, value);
    keys.iter().zip(["1", "0"]).filter_map(set).collect()
}

/// Keeps the kernel from giving SNAT ports to sockets.
pub fn reserve_ports(ports: &RangeInclusive<u16>) -> Vec<String> {
    let key = ["net", "ipv4", "ip_local_reserved_ports"];
    let reserved = fs::read_to_string(path(&key)).unwrap_or_default();
    match with_range(&reserved, ports) {
        Some(ranges) => set(&key, &ranges).into_iter().collect(),
        None => Vec::new(),
    }
}

/// The list with `ports` added; none when it covers them already.
fn with_range(reserved: &str, ports: &RangeInclusive<u16>) -> Option<String> {
    let reserved = reserved.trim();
    let covered = reserved
        .split(',')
        .filter_map(parse)
        .any(|range| range.contains(ports.start()) && range.contains(ports.end()));
    if covered {
        return None;
    }
    let ours = format!("{}-{}", ports.start(), ports.end());
    Some(if reserved.is_empty() {
        ours
    } else {
        format!("{reserved},{ours}")
    })
}

fn parse(range: &str) -> Option<RangeInclusive<u16>> {
    let (start, end) = range.split_once('-').unwrap_or((range, range));
    Some(start.trim().parse().ok()?..=end.trim().parse().ok()?)
}

fn path(key: &[&str]) -> PathBuf {
    let mut path = PathBuf::from("/proc/sys");
    path.extend(key);
    path
}

/// Writes a value that is not there yet; the warning when that fails.
fn set(key: &[&str], value: &str) -> Option<String> {
    let path = path(key);
    let before = fs::read_to_string(&path);
    if before.is_ok_and(|before| before.trim() == value) {
        return None;
    }
    write(&path, value)
}

fn write(path: &Path, value: &str) -> Option<String> {
    match fs::write(path, value) {
        Ok(()) => {
            tracing::info!(sysctl = %path.display(), value, "set");
            None
        }
        Err(error) => Some(format!(
            "cannot set {} to {value} ({error}): set it on the node",
            path.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::with_range;

    #[test]
    fn ranges_are_added_to_what_is_reserved() {
        let cases = [
            ("\n", Some("61000-65535")),
            ("8080,9148\n", Some("8080,9148,61000-65535")),
            ("61000-65535\n", None),
            ("8080,60000-65535", None),
            ("61001-65535", Some("61001-65535,61000-65535")),
            ("garbage", Some("garbage,61000-65535")),
        ];
        for (reserved, expected) in cases {
            assert_eq!(
                with_range(reserved, &(61_000..=65_535)).as_deref(),
                expected,
                "{reserved:?}"
            );
        }
    }
}
