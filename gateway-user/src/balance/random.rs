// SPDX-License-Identifier: Apache-2.0 OR MIT
//! At random, in proportion to weight.

use super::Candidates;

pub(super) fn choose(candidates: &Candidates<'_>, rng: &mut fastrand::Rng) -> Option<usize> {
    candidates.draw(rng)
}
