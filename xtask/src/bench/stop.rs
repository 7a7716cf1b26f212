// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ctrl-C ends the benchmark between two steps, so that everything it started
//! or mounted is removed as always.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};

/// Takes SIGINT and SIGTERM from now on. The tools in the foreground get
/// Ctrl-C from the terminal too and end by themselves.
pub fn listen() {
    let handler = note as extern "C" fn(libc::c_int);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is
        // async-signal-safe.
        unsafe {
            libc::signal(signal, handler as libc::sighandler_t);
        }
    }
}

/// Goes on unless the user asked to stop.
///
/// # Errors
///
/// When the user did.
pub fn check() -> Result<()> {
    if STOPPED.load(Ordering::Relaxed) {
        bail!("stopped by a signal: the lab is removed, no report is written");
    }
    Ok(())
}

extern "C" fn note(_signal: libc::c_int) {
    STOPPED.store(true, Ordering::Relaxed);
}

static STOPPED: AtomicBool = AtomicBool::new(false);
