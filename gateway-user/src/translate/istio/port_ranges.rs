// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Servers for a range of ports: `sluice.dev/port-ranges` of a Gateway.
//!
//! Istio's ports are single numbers. The annotation widens the server whose
//! port is the first one of a range; rules, Services and `match.port` go on
//! naming that first port.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    ops::RangeInclusive,
};

use gateway_common::port_range::MAX_PORT_RANGES;

use crate::{
    diagnostic::Reason,
    model::{ListenAddress, Transport},
    resource::{Object, istio::Gateway},
    translate::Findings,
};

/// Annotation with ranges, as `30000-39999, 50000-50099`.
pub const PORT_RANGES: &str = "sluice.dev/port-ranges";

/// The ranges of a Gateway by their first ports.
pub struct PortRanges(BTreeMap<u16, u16>);

impl PortRanges {
    /// Reads the annotation, with findings.
    pub fn read(gateway: &Object<Gateway>, findings: &mut Findings) -> Self {
        let mut ranges = BTreeMap::new();
        let meta = &gateway.meta;
        let Some(text) = meta.annotations.get(PORT_RANGES) else {
            return Self(ranges);
        };
        let place = || meta.annotation(PORT_RANGES);
        for item in text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
        {
            let Some(range) = parse(item) else {
                findings.error(
                    place(),
                    Reason::InvalidValue,
                    format!(
                        "{PORT_RANGES}: {item:?} is not FIRST-LAST with ports of 1 to 65535, the first one lower; it is ignored"
                    ),
                );
                continue;
            };
            let (first, last) = range.into_inner();
            let servers = gateway.spec.servers.iter();
            let mut ports = servers.filter_map(|server| server.port.as_ref()?.number);
            let why = if !ports.any(|number| number == u32::from(first)) {
                format!("no server of this Gateway has port {first}, with which {item} begins")
            } else {
                match ranges.entry(first) {
                    Entry::Vacant(free) => {
                        free.insert(last);
                        continue;
                    }
                    Entry::Occupied(_) => {
                        format!("{item} is another range that begins with {first}")
                    }
                }
            };
            findings.error(
                place(),
                Reason::InvalidValue,
                format!("{PORT_RANGES}: {why}; it is ignored"),
            );
        }
        Self(ranges)
    }

    /// The last port of the range that begins with `port`.
    pub fn last(&self, port: u16) -> Option<u16> {
        self.0.get(&port).copied()
    }
}

/// Ranges that servers have, by address and transport.
#[derive(Default)]
pub struct Taken(HashMap<(ListenAddress, Transport), Vec<(u16, u16)>>);

impl Taken {
    /// Why a server cannot have these ports, which are no other's as a whole: a
    /// range must not overlap another one. A single port may lie within one.
    pub fn refusal(
        &self,
        of: (ListenAddress, Transport),
        (first, last): (u16, u16),
    ) -> Option<String> {
        let taken = self.0.get(&of).filter(|_| first != last)?;
        if taken.contains(&(first, last)) {
            return None;
        }
        if let Some((from, to)) = taken
            .iter()
            .find(|(from, to)| *from <= last && first <= *to)
        {
            return Some(format!(
                "the range {first}-{last} overlaps {from}-{to}, which is another server's"
            ));
        }
        (taken.len() >= MAX_PORT_RANGES).then(|| {
            format!("there are {MAX_PORT_RANGES} ranges of this address and protocol already")
        })
    }

    /// Notes the ports of a server, if they are a range.
    pub fn take(&mut self, of: (ListenAddress, Transport), ports: (u16, u16)) {
        if ports.0 != ports.1 {
            self.0.entry(of).or_default().push(ports);
        }
    }
}

fn parse(item: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = item.split_once('-')?;
    // Not the signs that Rust takes.
    let port = |text: &str| {
        let text = text.trim();
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| digits)
    };
    let (first, last) = (port(first)?, port(last)?);
    (first > 0 && first < last).then_some(first..=last)
}
