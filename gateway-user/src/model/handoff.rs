// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether connections of a route leave the agent for the kernel, and when.

use std::{fmt, time::Duration};

/// What a route says; what it does not is the bootstrap's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandoffPolicy {
    /// Whether its connections are handed off.
    pub mode: Option<HandoffChoice>,
    /// When; all of the bootstrap's are replaced if there is any.
    pub after: Option<HandoffAfter>,
}

/// Whether connections are handed off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandoffChoice {
    /// They stay with the agent.
    Off,
    /// Those that can be.
    Auto,
    /// The same, and the log says of each attempt how it ended.
    AlwaysLog,
}

/// When a connection is worth it: once any of these is reached. Without any it
/// never is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandoffAfter {
    /// Bytes both ways.
    pub bytes: Option<u64>,
    /// Time since it was accepted.
    pub age: Option<Duration>,
    /// Times that the backend has answered; a TLS handshake counts.
    pub round_trips: Option<u32>,
}

impl HandoffChoice {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Off, Self::Auto, Self::AlwaysLog];

    /// The word in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Auto => "auto",
            Self::AlwaysLog => "always-log",
        }
    }
}

impl HandoffAfter {
    /// Whether a connection has come that far.
    pub fn is_reached(&self, bytes: u64, age: Duration, round_trips: u32) -> bool {
        self.bytes.is_some_and(|least| bytes >= least)
            || self.age.is_some_and(|least| age >= least)
            || self.round_trips.is_some_and(|least| round_trips >= least)
    }
}

impl HandoffPolicy {
    /// This, completed by what another object says.
    pub fn or(self, other: Self) -> Self {
        Self {
            mode: self.mode.or(other.mode),
            after: self.after.or(other.after),
        }
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for HandoffPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = self
            .mode
            .map_or("as the bootstrap says", |mode| mode.name());
        f.write_str(mode)?;
        let Some(after) = self.after else {
            return Ok(());
        };
        let parts = [
            after.bytes.map(|bytes| format!("{bytes} bytes")),
            after.age.map(|age| format!("{age:?}")),
            after
                .round_trips
                .map(|number| format!("{number} round trips")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        write!(f, ", after {}", parts.join(" or "))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{HandoffAfter, HandoffChoice, HandoffPolicy};

    #[test]
    fn any_threshold_will_do_and_none_is_never() {
        let second = Duration::from_secs(1);
        let after = HandoffAfter {
            bytes: Some(100),
            age: Some(second),
            round_trips: Some(3),
        };
        assert!(!after.is_reached(99, Duration::from_millis(999), 2));
        assert!(after.is_reached(100, Duration::ZERO, 0));
        assert!(after.is_reached(0, second, 0));
        assert!(after.is_reached(0, Duration::ZERO, 3));
        assert!(!HandoffAfter::default().is_reached(u64::MAX, Duration::MAX, u32::MAX));
    }

    #[test]
    fn it_is_told_as_it_was_said() {
        let route = HandoffPolicy {
            mode: Some(HandoffChoice::AlwaysLog),
            after: None,
        };
        let service = HandoffPolicy {
            mode: Some(HandoffChoice::Off),
            after: Some(HandoffAfter {
                age: Some(Duration::from_secs(5)),
                round_trips: Some(2),
                ..HandoffAfter::default()
            }),
        };
        let both = route.or(service);
        assert_eq!(both.to_string(), "always-log, after 5s or 2 round trips");
        assert!(!both.is_empty() && HandoffPolicy::default().is_empty());
    }
}
