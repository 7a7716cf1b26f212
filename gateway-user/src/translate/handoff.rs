// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Annotations that say which connections are handed to the kernel, and when.
//!
//! On a VirtualService they are for its rules, on a Service or ServiceEntry for
//! rules that lead there and say nothing themselves. A port behind the name
//! narrows it to that port: of the Gateway, or of the service.

use crate::{
    diagnostic::Reason,
    model::{
        HandoffPolicy,
        handoff::{HandoffAfter, HandoffChoice},
    },
    resource::Meta,
    translate::{Findings, annotations::suffix, duration, list},
};

const MODE: &str = "sluice.dev/handoff";
const BYTES: &str = "sluice.dev/handoff-after-bytes";
const AGE: &str = "sluice.dev/handoff-after-age";
const ROUND_TRIPS: &str = "sluice.dev/handoff-after-round-trips";

/// Every annotation read here, as it is without a port.
pub const KEYS: &[&str] = &[MODE, BYTES, AGE, ROUND_TRIPS];

/// What an object says of a port, with findings. What cannot be read is as if it
/// was not there.
pub fn at(meta: &Meta, port: u16, findings: &mut Findings) -> HandoffPolicy {
    read(meta, &suffix(port), findings).or(read(meta, "", findings))
}

fn read(meta: &Meta, suffix: &str, findings: &mut Findings) -> HandoffPolicy {
    let mode = value(meta, MODE, suffix, findings, |text| {
        let found = HandoffChoice::ALL.into_iter().find(|it| it.name() == text);
        found.ok_or_else(|| {
            let all = list(HandoffChoice::ALL.map(HandoffChoice::name));
            format!("{text:?} is not one of {all}")
        })
    });
    let after = HandoffAfter {
        bytes: value(meta, BYTES, suffix, findings, |text| {
            text.parse()
                .map_err(|_| format!("{text:?} is not a number of bytes"))
        }),
        age: value(meta, AGE, suffix, findings, duration::parse),
        round_trips: value(meta, ROUND_TRIPS, suffix, findings, |text| {
            text.parse()
                .map_err(|_| format!("{text:?} is not a number of round trips"))
        }),
    };
    HandoffPolicy {
        mode,
        after: (after != HandoffAfter::default()).then_some(after),
    }
}

fn value<T>(
    meta: &Meta,
    base: &str,
    suffix: &str,
    findings: &mut Findings,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let key = format!("{base}{suffix}");
    let text = meta.annotations.get(&key)?;
    match parse(text) {
        Ok(value) => Some(value),
        Err(wrong) => {
            findings.error(
                meta.annotation(&key),
                Reason::InvalidValue,
                format!("{key}: {wrong}; what the bootstrap says is used"),
            );
            None
        }
    }
}
