// SPDX-License-Identifier: Apache-2.0 OR MIT
//! In turn, in proportion to weight, spread evenly: the smooth weighted round
//! robin of nginx (each turn every endpoint gains its weight, the richest is
//! taken and pays the sum).

use super::Candidates;

/// What every endpoint has gained; empty until the first turn.
#[derive(Debug, Default)]
pub(super) struct Turn {
    gained: Vec<i64>,
}

pub(super) fn choose(
    candidates: &Candidates<'_>,
    turn: &mut Turn,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    let count = candidates.endpoints.len();
    if turn.gained.len() != count {
        // A random start: threads that begin together do not all take the
        // first endpoint first.
        turn.gained = vec![0; count];
        if let Some(start) = candidates.draw(rng) {
            turn.gained[start] = 1;
        }
    }
    let mut total = 0;
    let mut best: Option<usize> = None;
    for index in 0..count {
        let weight = i64::try_from(candidates.weight(index)).unwrap_or(i64::MAX);
        if weight == 0 {
            continue;
        }
        total += weight;
        turn.gained[index] += weight;
        if best.is_none_or(|best| turn.gained[index] > turn.gained[best]) {
            best = Some(index);
        }
    }
    let best = best?;
    turn.gained[best] -= total;
    Some(best)
}
