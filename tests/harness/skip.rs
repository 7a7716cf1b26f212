// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests that cannot run here say so; in CI that is a failure.

/// Whether this process may make namespaces and load kernel programs.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Whether skips count as failures.
pub fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// Reports that a test did not run.
///
/// # Panics
///
/// In CI, where a skip is a failure.
pub fn skipped(reason: &str) {
    assert!(!in_ci(), "SKIPPED in CI: {reason}");
    eprintln!("SKIPPED: {reason}");
}
