// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The less busy of two endpoints drawn at random (Mitzenmacher, "The Power of
//! Two Choices in Randomized Load Balancing", 2001): nearly as even as the
//! least busy of all, with no herd behaviour and no scan.
//!
//! "Busy" is what this thread has open, in relation to the endpoint's weight.

use super::Candidates;

pub(super) fn choose(candidates: &Candidates<'_>, rng: &mut fastrand::Rng) -> Option<usize> {
    let first = candidates.draw(rng)?;
    // Drawn by weight, so that idle endpoints also share in proportion to it.
    let second = candidates.draw(rng)?;
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
