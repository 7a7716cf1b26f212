// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One read buffer per thread, borrowed for the length of one read: a
//! connection that waits holds no buffer at all.

use std::cell::Cell;

/// Its size: as much as one read takes at most.
pub(super) const LEN: usize = 256 * 1024;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Calls `f` with the buffer. What it contains is unspecified.
pub(super) fn with<T>(f: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with(|cell| {
        // Taken out, not borrowed: a nested call costs an allocation and cannot
        // panic.
        let mut buffer = cell.take();
        if buffer.len() < LEN {
            buffer.resize(LEN, 0);
        }
        let result = f(&mut buffer);
        cell.set(buffer);
        result
    })
}
