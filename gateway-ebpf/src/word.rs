// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Words of a packet.
//!
//! Headers follow 14 bytes of Ethernet, so their words are not aligned. The
//! kernel allows such accesses to packets on all machines that can do them; the
//! compiler, left to itself, goes byte by byte, and when told that unaligned
//! access is fine it does the same on the stack, where the verifier refuses it.

use core::arch::asm;

/// Reads 16 bits at `base + OFFSET`.
///
/// # Safety
///
/// The two bytes were compared with the end of the packet's data.
#[inline(always)]
pub unsafe fn load_u16<const OFFSET: usize>(base: *const u8) -> u16 {
    let value: u64;
    // SAFETY: by the caller's promise.
    unsafe {
        asm!(
            "{value} = *(u16 *)({base} + {offset})",
            value = out(reg) value,
            base = in(reg) base,
            offset = const OFFSET,
            options(nostack, readonly, preserves_flags),
        );
    }
    value as u16
}

/// Reads 32 bits at `base + OFFSET`.
///
/// # Safety
///
/// The four bytes were compared with the end of the packet's data.
#[inline(always)]
pub unsafe fn load_u32<const OFFSET: usize>(base: *const u8) -> u32 {
    let value: u64;
    // SAFETY: by the caller's promise.
    unsafe {
        asm!(
            "{value} = *(u32 *)({base} + {offset})",
            value = out(reg) value,
            base = in(reg) base,
            offset = const OFFSET,
            options(nostack, readonly, preserves_flags),
        );
    }
    value as u32
}

/// Reads 64 bits at `base + OFFSET`.
///
/// # Safety
///
/// The eight bytes were compared with the end of the packet's data.
#[inline(always)]
pub unsafe fn load_u64<const OFFSET: usize>(base: *const u8) -> u64 {
    let value: u64;
    // SAFETY: by the caller's promise.
    unsafe {
        asm!(
            "{value} = *(u64 *)({base} + {offset})",
            value = out(reg) value,
            base = in(reg) base,
            offset = const OFFSET,
            options(nostack, readonly, preserves_flags),
        );
    }
    value
}

/// Writes 16 bits at `base + OFFSET`.
///
/// # Safety
///
/// The two bytes were compared with the end of the packet's data.
#[inline(always)]
pub unsafe fn store_u16<const OFFSET: usize>(base: *mut u8, value: u16) {
    // SAFETY: by the caller's promise.
    unsafe {
        asm!(
            "*(u16 *)({base} + {offset}) = {value}",
            value = in(reg) u64::from(value),
            base = in(reg) base,
            offset = const OFFSET,
            options(nostack, preserves_flags),
        );
    }
}

/// Writes 32 bits at `base + OFFSET`.
///
/// # Safety
///
/// The four bytes were compared with the end of the packet's data.
#[inline(always)]
pub unsafe fn store_u32<const OFFSET: usize>(base: *mut u8, value: u32) {
    // SAFETY: by the caller's promise.
    unsafe {
        asm!(
            "*(u32 *)({base} + {offset}) = {value}",
            value = in(reg) u64::from(value),
            base = in(reg) base,
            offset = const OFFSET,
            options(nostack, preserves_flags),
        );
    }
}

/// Writes 64 bits at `base + OFFSET`.
///
/// # Safety
///
/// The eight bytes were compared with the end of the packet's data.
#[inline(always)]
pub unsafe fn store_u64<const OFFSET: usize>(base: *mut u8, value: u64) {
    // SAFETY: by the caller's promise.
    unsafe {
        asm!(
            "*(u64 *)({base} + {offset}) = {value}",
            value = in(reg) value,
            base = in(reg) base,
            offset = const OFFSET,
            options(nostack, preserves_flags),
        );
    }
}
