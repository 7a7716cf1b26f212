// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The number of files a process may open.

use anyhow::{Result, ensure};

/// Raises it as far as it goes without a privilege: to the hard limit.
///
/// # Errors
///
/// When the kernel refuses.
pub fn raise() -> Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls get a pointer to a live structure of their type.
    let result = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    };
    ensure!(
        result == 0,
        "raise the limit of open files: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}
