// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! What limits count: flows that are half-open, and those of each source.
//!
//! A flow is counted once, when it is made. Its slot says so, and whoever takes
//! that away, by one atomic operation, subtracts it: a program when the flow has
//! opened or ended, or the agent when it ends a flow.

use core::ptr;

use gateway_common::{
    flow::FlowSlot,
    guard::{HALF_OPEN_NODE, half_open_index},
    limit::SourceId,
    settings::Settings,
    source_flows::{self, NO_PLACE, PLACES, SourceBucket, Spot},
};

use crate::{
    atomic,
    maps::{HALF_OPEN, SOURCE_FLOWS, TAKEN_PLACE},
    mask::masked,
};

/// Attempts at a place that other CPUs change at the same time.
const TRIES: u32 = 2;

/// Half-open flows at an index, `half_open_index` of `gateway_common::guard`.
#[inline(always)]
pub fn half_open(index: u32) -> u32 {
    HALF_OPEN.get_ptr_mut(index).map_or(0, |count| {
        // SAFETY: the look-up returned it, not null, and elements of an array
        // stay.
        let count = unsafe { ptr::read_volatile(count) };
        // An agent that was killed at the wrong instant may have left it one
        // too low.
        if count < 0 { 0 } else { count as u32 }
    })
}

/// Flows of a source.
#[inline(always)]
pub fn of_source(source: &SourceId, settings: &Settings) -> u32 {
    let spot = spot(source, settings);
    let Some(bucket) = SOURCE_FLOWS.get_ptr_mut(spot.bucket) else {
        return 0;
    };
    for at in 0..PLACES {
        let word = load(bucket, at);
        if spot.is_at(word) {
            return source_flows::flows(word);
        }
    }
    0
}

/// Counts the new flow in a slot that the caller has claimed: as half-open, if it
/// is, and for its source at the place that was taken. A function of its own: the
/// caller's stack is full.
#[inline(never)]
pub fn begin(slot: *mut FlowSlot, service_id: u32, is_half_open: bool) {
    let place = taken_place();
    if is_half_open {
        add_half_open(service_id, 1);
    }
    // SAFETY: `slot` is an element of the slot array; nobody else uses it.
    unsafe {
        (*slot).half_open = u32::from(is_half_open);
        (*slot).source_place = place;
    }
}

/// The place that was taken on this CPU, if any, which from now on is the caller's
/// to keep.
#[inline(always)]
fn taken_place() -> u32 {
    TAKEN_PLACE.get_ptr_mut(0).map_or(NO_PLACE, |taken| {
        // SAFETY: the look-up returned it, not null, for this CPU alone; the
        // programs run with migration off and do not interrupt themselves.
        unsafe { ptr::replace(taken, NO_PLACE) }
    })
}

/// Takes a place for one more flow of a source, unless it has `most`: false then.
/// Where the places are all others', or others take them all the time, the flow
/// is not counted. Goes with the packet to the next program, which gives it to the
/// flow it makes, or back.
#[inline(always)]
pub fn take_place(source: &SourceId, settings: &Settings, most: u32) -> bool {
    let Ok(place) = find_place(spot(source, settings), most) else {
        return false;
    };
    if let Some(taken) = TAKEN_PLACE.get_ptr_mut(0) {
        // SAFETY: as in `taken_place`.
        unsafe { *taken = place };
    }
    true
}

/// Gives back the place that was taken, if no flow has it. A function of its own,
/// as [`begin`].
#[inline(never)]
pub fn give_back() {
    subtract(taken_place());
}

/// The flow in a slot is not half-open any more.
#[inline(always)]
pub fn opened(slot: *mut FlowSlot) {
    // SAFETY: `slot` is an element of the slot array; the word is aligned and
    // changed by atomic operations only while the flow lives.
    let (counted, service_id) = unsafe {
        (
            atomic::swap(&raw mut (*slot).half_open, 0),
            (*slot).service_id,
        )
    };
    if counted != 0 {
        add_half_open(service_id, -1);
    }
}

/// The flow in a slot does not count for its source any more.
#[inline(always)]
pub fn ended(slot: *mut FlowSlot) {
    // SAFETY: as in `opened`.
    let kept = unsafe { atomic::swap(&raw mut (*slot).source_place, NO_PLACE) };
    subtract(kept);
}

/// One less at a place.
#[inline(always)]
fn subtract(kept: u32) {
    let Some((bucket, place)) = source_flows::whereabouts(kept) else {
        return;
    };
    if let Some(bucket) = SOURCE_FLOWS.get_ptr_mut(bucket) {
        // SAFETY: as in `load`; the flow was counted here, so the lower half
        // of the word is at least one.
        unsafe { atomic::add(word(bucket, place), u64::MAX) };
    }
}

#[inline(always)]
fn spot(source: &SourceId, settings: &Settings) -> Spot {
    Spot::of(
        source,
        settings.limits.source_key,
        settings.limits.source_buckets,
    )
}

/// One more in the place of a source, or in a free one; an error when it has `most`.
#[inline(always)]
fn find_place(spot: Spot, most: u32) -> Result<u32, ()> {
    let Some(bucket) = SOURCE_FLOWS.get_ptr_mut(spot.bucket) else {
        return Ok(NO_PLACE);
    };
    for _ in 0..TRIES {
        // Not an `Option`: the verifier refuses the copy of what is not in it.
        let (mut chosen, mut old, mut new) = (PLACES, 0, 0);
        for at in 0..PLACES {
            let found = load(bucket, at);
            if spot.is_at(found) {
                if source_flows::flows(found) >= most {
                    return Err(());
                }
                (chosen, old, new) = (at, found, found + 1);
                break;
            }
            if chosen == PLACES && source_flows::flows(found) == 0 {
                (chosen, old, new) = (at, found, spot.first());
            }
        }
        if chosen == PLACES {
            return Ok(NO_PLACE);
        }
        // SAFETY: as in `load`; words are changed by atomic operations only.
        if unsafe { atomic::compare_exchange64(word(bucket, chosen), old, new) }.is_ok() {
            return Ok(source_flows::place(spot.bucket, chosen));
        }
    }
    Ok(NO_PLACE)
}

#[inline(always)]
fn load(bucket: *mut SourceBucket, at: u32) -> u64 {
    // SAFETY: `bucket` is an element of the array, which stays; `word` keeps to
    // its places.
    unsafe { ptr::read_volatile(word(bucket, at)) }
}

#[inline(always)]
fn word(bucket: *mut SourceBucket, at: u32) -> *mut u64 {
    // SAFETY: the place is one of the bucket's.
    unsafe {
        (&raw mut (*bucket).words)
            .cast::<u64>()
            .add(masked::<{ PLACES - 1 }>(at as usize))
    }
}

#[inline(always)]
fn add_half_open(service_id: u32, value: i64) {
    for index in [HALF_OPEN_NODE, half_open_index(service_id)] {
        if let Some(count) = HALF_OPEN.get_ptr_mut(index) {
            // SAFETY: the look-up returned it, not null, and elements of an
            // array stay; the agent changes them by atomic operations too.
            unsafe { atomic::add(count.cast::<u64>(), value as u64) };
        }
    }
}
