// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Alignment of values on the stack.

/// A value that the compiler may build and copy in words of eight bytes.
/// Keys and addresses have an alignment of two bytes or one; without this they
/// would be copied piece by piece.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Aligned<T>(pub T);
