// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The less busy of two endpoints drawn at random (Mitzenmacher, "The Power of
//! Two Choices in Randomized Load Balancing", 2001): nearly as even as the
//! least busy of all, with no herd behaviour and no scan.
//!
//! "Busy" is what this thread has open, in relation to the endpoint's weight.

use super::Candidates;

/// Draws until the second endpoint is another one.
const REDRAWS: usize = 8;

pub(super) fn choose(candidates: &Candidates<'_>, rng: &mut fastrand::Rng) -> Option<usize> {
    let first = candidates.draw(rng)?;
    // Drawn by weight too, so that idle endpoints share in proportion to it; and
    // again when it is the same one, as long as there is likely to be another.
    let mut second = first;
    for _ in 0..REDRAWS {
        if second != first {
            break;
        }
        second = candidates.draw(rng)?;
    }
    let load = |index| {
        (
            u64::from(candidates.active(index)),
            candidates.weight(index),
        )
    };
    let ((first_active, first_weight), (second_active, second_weight)) =
        (load(first), load(second));
    // a / w < b / v without a division.
    Some(
        if second_active * first_weight < first_active * second_weight {
            second
        } else {
            first
        },
    )
}
