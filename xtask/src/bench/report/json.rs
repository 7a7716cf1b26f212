// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The run as `bench.json`, for programs: every round of every contender.

use anyhow::{Context, Result};

use crate::bench::sample::Run;

/// The text of `bench.json`.
///
/// # Errors
///
/// When a value has no JSON form.
pub fn render(run: &Run) -> Result<String> {
    let mut text = serde_json::to_string_pretty(run).context("write the run as JSON")?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::bench::{report::sketch, sample::Run};

    #[test]
    fn a_run_is_read_back_as_it_was() {
        let mut run = sketch::run(vec![sketch::comparison("l4-bulk", &[("direct", 1.5e9)])]);
        run.skipped.push(("idle".to_owned(), "why".to_owned()));
        let text = render(&run).unwrap();
        assert_eq!(serde_json::from_str::<Run>(&text).unwrap(), run);
    }
}
