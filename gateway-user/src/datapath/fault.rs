// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where tests end the agent's work on the kernel: before any change of a map,
//! of a chunk of a ring, or of a link. Outside of tests there is nothing here.

/// Stands before every change; fails where a test has asked for it.
///
/// # Errors
/// In tests only.
#[cfg(not(test))]
#[inline(always)]
pub fn point() -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub use armed::{after, disarm, point};

#[cfg(test)]
mod armed {
    use std::{cell::Cell, io};

    thread_local! {
        /// Changes that still succeed; none: all of them.
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// Lets this thread make `changes` more changes and fails every one after.
    pub fn after(changes: u32) {
        LEFT.set(Some(changes));
    }

    /// Lets every change succeed again.
    pub fn disarm() {
        LEFT.set(None);
    }

    /// See the module.
    pub fn point() -> io::Result<()> {
        match LEFT.get() {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the test ends it here")),
            Some(left) => {
                LEFT.set(Some(left - 1));
                Ok(())
            }
        }
    }
}
