// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Atomic operations on words of map values.
//!
//! `core::sync::atomic` leaves out 32-bit words and everything that returns the
//! old value on the BPF target, which has both since its version 3; the
//! compiler's intrinsics give them. All are full barriers where they return a
//! value (Linux `Documentation/bpf/linux-notes.rst`).

use core::intrinsics::{self, AtomicOrdering::SeqCst};

/// Replaces `old` by `new`; the value found when it was another one.
///
/// # Safety
///
/// `word` is an aligned word of a map value, written by atomic operations only.
#[inline(always)]
pub unsafe fn compare_exchange(word: *mut u32, old: u32, new: u32) -> Result<(), u32> {
    // SAFETY: by the caller's promise.
    let (found, _) =
        unsafe { intrinsics::atomic_cxchg::<_, { SeqCst }, { SeqCst }>(word, old, new) };
    if found == old { Ok(()) } else { Err(found) }
}

/// Stores `new` and returns the value before.
///
/// # Safety
///
/// As for [`compare_exchange`].
#[inline(always)]
pub unsafe fn swap(word: *mut u32, new: u32) -> u32 {
    // SAFETY: by the caller's promise.
    unsafe { intrinsics::atomic_xchg::<_, { SeqCst }>(word, new) }
}

/// Replaces `old` by `new` in a word of 64 bits; the value found when it was
/// another one.
///
/// # Safety
///
/// As for [`compare_exchange`].
#[inline(always)]
pub unsafe fn compare_exchange64(word: *mut u64, old: u64, new: u64) -> Result<(), u64> {
    // SAFETY: by the caller's promise.
    let (found, _) =
        unsafe { intrinsics::atomic_cxchg::<_, { SeqCst }, { SeqCst }>(word, old, new) };
    if found == old { Ok(()) } else { Err(found) }
}

/// Sets `bits` and returns the value before.
///
/// # Safety
///
/// As for [`compare_exchange`].
#[inline(always)]
pub unsafe fn fetch_or(word: *mut u32, bits: u32) -> u32 {
    // SAFETY: by the caller's promise.
    unsafe { intrinsics::atomic_or::<_, _, { SeqCst }>(word, bits) }
}

/// Adds to a counter.
///
/// # Safety
///
/// As for [`compare_exchange`].
#[inline(always)]
pub unsafe fn add(word: *mut u64, value: u64) {
    // SAFETY: by the caller's promise.
    unsafe {
        intrinsics::atomic_xadd::<_, _, { intrinsics::AtomicOrdering::Relaxed }>(word, value)
    };
}
