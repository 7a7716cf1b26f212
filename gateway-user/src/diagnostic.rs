// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Findings about the configuration: the only channel for an operator's
//! mistakes. They are collected, never thrown, and never silent.

use std::fmt;

use serde::Serialize;

use crate::origin::Origin;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Served, but perhaps not as meant.
    Warning,
    /// The thing named is not served.
    Error,
}

/// A kind of finding: a stable word for metrics, tests and `check --output json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reason {
    /// A file could not be read.
    Unreadable,
    /// Not YAML, or cut off.
    Syntax,
    /// A kind or API group this gateway does not know.
    UnknownKind,
    /// A field the kind does not have.
    UnknownField,
    /// A field of the kind that this gateway does not act on.
    UnsupportedField,
    /// A value outside what the field allows.
    InvalidValue,
    /// A required field is absent.
    MissingField,
    /// The same object is defined twice.
    DuplicateObject,
    /// Two servers or routes claim the same thing; the first is kept.
    Conflict,
    /// A host is claimed twice on one port.
    DuplicateHost,
    /// A rule that an earlier one makes unreachable.
    Shadowed,
    /// A named Gateway does not exist or is not selected by this agent.
    MissingGateway,
    /// The hosts of a route do not overlap those of the server.
    HostMismatch,
    /// A server without any route.
    NoRoute,
    /// A destination host that no Service or ServiceEntry defines.
    MissingDestination,
    /// A destination without the named subset.
    MissingSubset,
    /// A destination that has no endpoint.
    NoEndpoint,
    /// A certificate that is not there.
    MissingCertificate,
    /// A certificate or key that cannot be used.
    InvalidCertificate,
}

impl Reason {
    /// The word used in output and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Syntax => "syntax",
            Self::UnknownKind => "unknown-kind",
            Self::UnknownField => "unknown-field",
            Self::UnsupportedField => "unsupported-field",
            Self::InvalidValue => "invalid-value",
            Self::MissingField => "missing-field",
            Self::DuplicateObject => "duplicate-object",
            Self::Conflict => "conflict",
            Self::DuplicateHost => "duplicate-host",
            Self::Shadowed => "shadowed",
            Self::MissingGateway => "missing-gateway",
            Self::HostMismatch => "host-mismatch",
            Self::NoRoute => "no-route",
            Self::MissingDestination => "missing-destination",
            Self::MissingSubset => "missing-subset",
            Self::NoEndpoint => "no-endpoint",
            Self::MissingCertificate => "missing-certificate",
            Self::InvalidCertificate => "invalid-certificate",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// Where.
    pub origin: Origin,
    /// How bad.
    pub severity: Severity,
    /// What kind.
    pub reason: Reason,
    /// What, and what to do about it; one line, lower case, no final stop.
    pub message: String,
}

impl Diagnostic {
    /// A finding that keeps something from being served.
    pub fn error(origin: &Origin, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            origin: origin.clone(),
            severity: Severity::Error,
            reason,
            message: message.into(),
        }
    }

    /// A finding that changes how something is served.
    pub fn warning(origin: &Origin, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            origin: origin.clone(),
            severity: Severity::Warning,
            reason,
            message: message.into(),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(
            f,
            "{}: {severity}: {} [{}]",
            self.origin,
            self.message,
            self.reason.as_str()
        )
    }
}
