// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Bounds that the verifier sees.
//!
//! The compiler leaves an `&` out where it knows the result already, or applies
//! it to one part of an expression. The verifiers of older kernels (6.1, for
//! one) do not follow such reasoning through copies and branches, and refuse
//! the access that comes of it.

use core::arch::asm;

/// `value & MASK`, as an instruction of this very place.
#[inline(always)]
pub fn masked<const MASK: u32>(value: usize) -> usize {
    let masked;
    // SAFETY: arithmetic on one register.
    unsafe {
        asm!(
            "{value} &= {mask}",
            value = inlateout(reg) value => masked,
            mask = const MASK,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    masked
}
