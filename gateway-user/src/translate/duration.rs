// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Durations as Istio writes them: `5s`, `250ms`, `1h30m`, `1.5s`.

use std::time::Duration;

/// Longest duration accepted: a year.
const MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// The duration, or what is wrong with the text. `0s` is zero.
pub fn parse(text: &str) -> Result<Duration, String> {
    let refuse = || format!("{text:?} is not a duration such as 5s, 250ms or 1h30m");
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(refuse());
    }
    while !rest.is_empty() {
        let number_len = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(refuse)?;
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let seconds_per_unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(refuse()),
        };
        let number: f64 = number.parse().map_err(|_| refuse())?;
        let part = Duration::try_from_secs_f64(number * seconds_per_unit).map_err(|_| refuse())?;
        total = total.saturating_add(part);
        rest = tail;
    }
    if total > MAX {
        return Err(format!("{text} is longer than a year"));
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::parse;

    #[test]
    fn units_add_up() {
        for (text, ms) in [
            ("5s", 5_000),
            ("250ms", 250),
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "5", "s", "-1s", "1d", "1..5s", "5 s", "99999999999h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
