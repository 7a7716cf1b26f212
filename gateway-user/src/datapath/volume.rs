// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bytes of handed-off connections by server name, as counters that only grow.
//!
//! What a flow has moved is in its slot until the slot is given back. A round of
//! sweeps meets every slot once: its flow is open then, or has just been taken
//! away. So what the flows of a name have moved is what those have that were
//! taken away, and what those have that were open.

use std::collections::{BTreeMap, HashMap};

/// Names counted apart; those of further ones are counted together.
const NAMES: usize = 1_000;

/// Those of further ones.
const OTHER: &str = "other";
/// Connections without one.
const NONE: &str = "";

/// Bytes by server name.
#[derive(Debug, Default)]
pub struct Volume {
    names: HashMap<String, Counted>,
}

/// Bytes from clients, and to them.
type Bytes = [u64; 2];

#[derive(Debug, Default)]
struct Counted {
    /// Of flows that were taken away,
    ended: Bytes,
    /// of those found open in the round under way,
    open: Bytes,
    /// and all, as the last whole round had it.
    total: Bytes,
}

impl Volume {
    /// A flow is open, or was taken away, and has moved so many bytes.
    pub fn add(&mut self, sni: Option<&str>, bytes: Bytes, is_open: bool) {
        let counted = self.counted(sni.unwrap_or(NONE));
        let sum = if is_open {
            &mut counted.open
        } else {
            &mut counted.ended
        };
        for (sum, bytes) in sum.iter_mut().zip(bytes) {
            *sum = sum.saturating_add(bytes);
        }
    }

    fn counted(&mut self, name: &str) -> &mut Counted {
        let is_new = !self.names.contains_key(name);
        let name = if is_new && self.names.len() >= NAMES {
            OTHER
        } else {
            name
        };
        self.names.entry(name.to_owned()).or_default()
    }

    /// Every slot has been visited.
    pub fn finish_round(&mut self) {
        for counted in self.names.values_mut() {
            for way in 0..2 {
                let now = counted.ended[way].saturating_add(counted.open[way]);
                counted.total[way] = counted.total[way].max(now);
            }
            counted.open = Bytes::default();
        }
    }

    /// As the last whole round had it.
    pub fn totals(&self) -> BTreeMap<String, Bytes> {
        let names = self.names.iter();
        names
            .map(|(name, counted)| (name.clone(), counted.total))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{NAMES, OTHER, Volume};

    #[test]
    fn totals_only_grow_whatever_ends() {
        let mut volume = Volume::default();
        let total = |volume: &Volume, name: &str| volume.totals()[name];
        volume.add(Some("a.test"), [10, 100], true);
        volume.add(Some("a.test"), [1, 2], true);
        // Not before the round is over.
        assert_eq!(total(&volume, "a.test"), [0, 0]);
        volume.finish_round();
        assert_eq!(total(&volume, "a.test"), [11, 102]);
        // One has gone on and ended, the other stands still.
        volume.add(Some("a.test"), [20, 150], false);
        volume.add(Some("a.test"), [1, 2], true);
        volume.finish_round();
        assert_eq!(total(&volume, "a.test"), [21, 152]);
        volume.add(Some("a.test"), [1, 2], false);
        volume.add(None, [5, 5], true);
        volume.finish_round();
        assert_eq!(total(&volume, "a.test"), [21, 152]);
        assert_eq!(total(&volume, ""), [5, 5]);
        volume.finish_round();
        assert_eq!(total(&volume, ""), [5, 5]);
    }

    #[test]
    fn further_names_are_counted_together() {
        let mut volume = Volume::default();
        for number in 0..NAMES + 50 {
            volume.add(Some(&format!("n{number}.test")), [1, 2], false);
        }
        volume.finish_round();
        let totals = volume.totals();
        assert_eq!(totals.len(), NAMES + 1);
        assert_eq!(totals[OTHER], [50, 100]);
        assert_eq!(totals["n0.test"], [1, 2]);
    }
}
