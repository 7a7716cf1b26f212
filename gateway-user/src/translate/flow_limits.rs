// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Annotations that limit the new flows of forwarded listeners.
//!
//! They stand where those for sources do, and are narrowed to a port in the same
//! way. Where several objects say something, the strictest holds.

use std::{collections::BTreeMap, ops::RangeInclusive};

use crate::{
    diagnostic::Reason,
    model::{
        FlowLimits, ListenerKind, SynCookies,
        flow_limits::{COUNTS, RATES},
    },
    resource::{Meta, Object, istio::Gateway},
    translate::{Context, Findings, annotations, istio::gateway::Bind, sources::gateway_ports},
};

const RATE: &str = "sluice.dev/source-rate";
const BURST: &str = "sluice.dev/source-burst";
const FLOWS: &str = "sluice.dev/source-flows";
const HALF_OPEN: &str = "sluice.dev/half-open";
const SYN_COOKIES: &str = "sluice.dev/syn-cookies";

/// Every annotation read here, as it is without a port.
pub const KEYS: &[&str] = &[RATE, BURST, FLOWS, HALF_OPEN, SYN_COOKIES];

/// What one object says.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    all: FlowLimits,
    ports: BTreeMap<u16, FlowLimits>,
}

impl Settings {
    /// Reads the annotations of an object, with findings.
    pub fn read(meta: &Meta, findings: &mut Findings) -> Self {
        let read = |suffix: &str| limits(meta, suffix, findings);
        let (all, ports) = annotations::by_port(meta, KEYS, read);
        Self { all, ports }
    }

    /// The same for a Gateway, whose servers have the ports.
    pub fn of_gateway(gateway: &Object<Gateway>, findings: &mut Findings) -> Self {
        annotations::check_ports(KEYS, &gateway.meta, &gateway_ports(gateway), findings);
        Self::read(&gateway.meta, findings)
    }

    /// The limits of a port.
    pub fn at(&self, port: u16) -> FlowLimits {
        match self.ports.get(&port) {
            Some(own) => own.or(self.all),
            None => self.all,
        }
    }
}

/// The limits of a listener. Only forwarded ones have any.
pub fn of_bind(context: &mut Context<'_>, bind: &Bind<'_>, kind: &ListenerKind) -> FlowLimits {
    let forwards = match kind {
        // The agent relays those that begin with a PROXY header.
        ListenerKind::Forward(route) => context.header_of(route).is_none(),
        _ => false,
    };
    for server in bind.servers.iter().filter(|_| !forwards) {
        if server.limits != FlowLimits::default() {
            context.findings.warning(
                server.place,
                Reason::UnsupportedField,
                format!(
                    "sluice.dev/source-rate, source-burst, source-flows, half-open and syn-cookies have no effect on port {}: its connections end in the agent, which limits.max_connections of the bootstrap is for",
                    bind.port
                ),
            );
        }
    }
    if forwards {
        bind.servers[0].limits
    } else {
        FlowLimits::default()
    }
}

/// What cannot be read is as if it was not there.
fn limits(meta: &Meta, suffix: &str, findings: &mut Findings) -> FlowLimits {
    let mut number = |base: &str, range: &RangeInclusive<u32>| {
        let key = format!("{base}{suffix}");
        let text = meta.annotations.get(&key)?;
        let number = text.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            findings.error(
                meta.annotation(&key),
                Reason::InvalidValue,
                format!(
                    "{key}: {text:?} is not a number from {} to {}; the limit of the bootstrap is used",
                    range.start(),
                    range.end()
                ),
            );
        }
        number
    };
    let mut limits = FlowLimits {
        source_rate: number(RATE, &RATES),
        source_burst: number(BURST, &RATES),
        source_flows: number(FLOWS, &COUNTS),
        half_open: number(HALF_OPEN, &COUNTS),
        syn_cookies: None,
    };
    let key = format!("{SYN_COOKIES}{suffix}");
    if let Some(text) = meta.annotations.get(&key) {
        let all = [SynCookies::Off, SynCookies::Auto, SynCookies::Always];
        limits.syn_cookies = all.into_iter().find(|it| it.name() == text);
        if limits.syn_cookies.is_none() {
            findings.error(
                meta.annotation(&key),
                Reason::InvalidValue,
                format!(
                    "{key}: {text:?} is not one of off, auto, always; that of the bootstrap is used"
                ),
            );
        }
    }
    limits
}
