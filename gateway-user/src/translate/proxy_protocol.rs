// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether connections to endpoints begin with a PROXY header.
//!
//! The annotation stands on the Service or ServiceEntry that defines a host, and
//! with `.PORT` behind its name is for that port alone; `proxyProtocol` of a
//! DestinationRule for the host wins over it. What cannot be read costs the
//! destination its endpoints: one that takes a connection without the header may
//! hold the gateway for the client.

use crate::{
    diagnostic::Reason,
    model::ProxyProtocol,
    resource::{Meta, Place, istio::destination_rule},
    translate::{Findings, annotations::suffix, list},
};

const SEND: &str = "sluice.dev/send-proxy-protocol";

/// Every annotation read here, as it is without a port.
pub const KEYS: &[&str] = &[SEND];

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// None.
    Off,
    /// This one.
    Send(ProxyProtocol),
    /// One that cannot be sent.
    Unusable,
}

impl Header {
    /// The one to send.
    pub fn sent(self) -> Option<ProxyProtocol> {
        match self {
            Self::Send(version) => Some(version),
            Self::Off | Self::Unusable => None,
        }
    }
}

/// What an object's annotations say of a port, with findings.
pub fn at(meta: &Meta, port: u16, findings: &mut Findings) -> Option<Header> {
    let keys = [format!("{SEND}{}", suffix(port)), SEND.to_owned()];
    let key = keys
        .iter()
        .find(|key| meta.annotations.contains_key(*key))?;
    let text = meta.annotations.get(key)?;
    let version = |name: &str| ProxyProtocol::ALL.into_iter().find(|it| it.name() == name);
    Some(match (text.as_str(), version(text)) {
        ("off", _) => Header::Off,
        (_, Some(version)) => Header::Send(version),
        (_, None) => {
            let all = list(ProxyProtocol::ALL.map(ProxyProtocol::name));
            findings.error(
                meta.annotation(key),
                Reason::InvalidValue,
                format!(
                    "{key}: {text:?} is not one of off, {all}; until it is corrected, the destination has no endpoint"
                ),
            );
            Header::Unusable
        }
    })
}

/// What a traffic policy says; `place` is that of its field.
pub fn of_policy(
    shape: &destination_rule::ProxyProtocol,
    tunnels: bool,
    place: Place<'_>,
    findings: &mut Findings,
) -> Header {
    if tunnels {
        findings.error(
            place,
            Reason::Conflict,
            "proxyProtocol and tunnel exclude each other; the destination has no endpoint: remove one of them",
        );
        return Header::Unusable;
    }
    match shape.version.as_deref() {
        None | Some("V1") => Header::Send(ProxyProtocol::V1),
        Some("V2") => Header::Send(ProxyProtocol::V2),
        Some(other) => {
            findings.error(
                place.key("version"),
                Reason::InvalidValue,
                format!(
                    "{other:?} is not one of V1, V2; until it is corrected, the destination has no endpoint"
                ),
            );
            Header::Unusable
        }
    }
}
