// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Host patterns and how they match, overlap and rank.
//!
//! A wildcard is a leading `*.` and matches any number of labels, never the
//! apex (Istio host semantics; the Gateway API agrees for HTTP hosts).

use std::fmt;

/// A host a listener or a route answers for. Always lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// One name.
    Exact(String),
    /// Every name that ends in this suffix, which starts with a dot.
    Suffix(String),
    /// Every name, and no name at all.
    Any,
}

/// Why a string is not a host pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    /// Nothing there.
    #[error("a host must not be empty")]
    Empty,
    /// A star anywhere but as the whole first label.
    #[error("a wildcard stands only for whole leading labels, as in *.example.com")]
    Wildcard,
    /// Not the syntax of RFC 1123.
    #[error("{0:?} is not a DNS name")]
    NotDns(String),
}

impl HostPattern {
    /// Parses `example.com`, `*.example.com` or `*`.
    ///
    /// # Errors
    /// When the text is none of these.
    pub fn parse(text: &str) -> Result<Self, HostPatternError> {
        let text = text.to_ascii_lowercase();
        if text.is_empty() {
            return Err(HostPatternError::Empty);
        }
        if text == "*" {
            return Ok(Self::Any);
        }
        let (name, wildcard) = match text.strip_prefix('*') {
            Some(rest) => (
                rest.strip_prefix('.').ok_or(HostPatternError::Wildcard)?,
                true,
            ),
            None => (text.as_str(), false),
        };
        if name.contains('*') {
            return Err(HostPatternError::Wildcard);
        }
        if !is_dns_name(name) {
            return Err(HostPatternError::NotDns(text));
        }
        Ok(if wildcard {
            Self::Suffix(format!(".{name}"))
        } else {
            Self::Exact(text)
        })
    }

    /// Whether a lower-case `name` is covered.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Suffix(suffix) => name.len() > suffix.len() && name.ends_with(suffix.as_str()),
            Self::Any => true,
        }
    }

    /// The names both patterns cover, or nothing.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        if other.covers(self) {
            Some(self.clone())
        } else if self.covers(other) {
            Some(other.clone())
        } else {
            None
        }
    }

    /// Whether every name `other` covers is covered by `self`.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::Any) => false,
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Exact(_), Self::Suffix(_)) => false,
            (Self::Suffix(_), Self::Exact(name)) => self.matches(name),
            (Self::Suffix(a), Self::Suffix(b)) => b.ends_with(a.as_str()),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// RFC 1123 section 2.1, with the underscore that real zones use.
pub fn is_dns_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

#[cfg(test)]
mod tests {
    use super::{HostPattern, HostPatternError};

    fn pattern(text: &str) -> HostPattern {
        HostPattern::parse(text).expect("a valid pattern")
    }

    #[test]
    fn wildcard_spans_labels_but_not_the_apex() {
        let wild = pattern("*.foo.com");
        assert!(wild.matches("a.foo.com") && wild.matches("a.b.foo.com"));
        assert!(
            !wild.matches("foo.com") && !wild.matches("barfoo.com") && !wild.matches(".foo.com")
        );
    }

    #[test]
    fn intersection_is_the_narrower_pattern() {
        let cases = [
            ("*.foo.com", "a.foo.com", Some("a.foo.com")),
            ("a.foo.com", "*.foo.com", Some("a.foo.com")),
            ("*.com", "*.foo.com", Some("*.foo.com")),
            ("*", "foo.com", Some("foo.com")),
            ("*.foo.com", "foo.com", None),
            ("a.com", "b.com", None),
        ];
        for (a, b, expected) in cases {
            assert_eq!(
                pattern(a).intersect(&pattern(b)),
                expected.map(pattern),
                "{a} and {b}"
            );
        }
    }

    #[test]
    fn stars_inside_are_refused() {
        for text in ["a.*.com", "*foo.com", "*.*.com"] {
            assert_eq!(
                HostPattern::parse(text),
                Err(HostPatternError::Wildcard),
                "{text}"
            );
        }
        assert!(HostPattern::parse("a..b").is_err() && HostPattern::parse("-a.com").is_err());
    }
}
