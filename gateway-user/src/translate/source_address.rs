// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The annotation that says whose address the connections to a service come from.
//!
//! It stands on a Service or ServiceEntry. A port behind the name narrows it to
//! that port.

use crate::{
    diagnostic::Reason,
    model::SourceAddress,
    resource::Meta,
    translate::{Findings, annotations::suffix, list},
};

const ADDRESS: &str = "sluice.dev/source-address";

/// Every annotation read here, as it is without a port.
pub const KEYS: &[&str] = &[ADDRESS];

/// What an object says of a port, with findings. What cannot be read is as if it
/// was not there.
pub fn at(meta: &Meta, port: u16, findings: &mut Findings) -> SourceAddress {
    [suffix(port), String::new()]
        .iter()
        .find_map(|suffix| read(meta, &format!("{ADDRESS}{suffix}"), findings))
        .unwrap_or_default()
}

fn read(meta: &Meta, key: &str, findings: &mut Findings) -> Option<SourceAddress> {
    let text = meta.annotations.get(key)?;
    let found = SourceAddress::ALL.into_iter().find(|it| it.name() == text);
    if found.is_none() {
        let all = list(SourceAddress::ALL.map(SourceAddress::name));
        findings.error(
            meta.annotation(key),
            Reason::InvalidValue,
            format!("{key}: {text:?} is not one of {all}; the node's address is used"),
        );
    }
    found
}
