// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Instructions that the processor executed in the kernel for this thread, where
//! it can count them. Virtual machines often cannot.

use perf_event::{Builder, Counter, events::Hardware};

/// Two counters: around runs of the empty program, and around those measured.
/// What a system call costs is in both.
pub struct Executed(Result<[Counter; 2], String>);

impl Executed {
    pub fn new() -> Self {
        let counter = || {
            let mut builder = Builder::new().kind(Hardware::INSTRUCTIONS);
            builder.include_kernel();
            builder.build()
        };
        let pair = counter().and_then(|first| Ok([first, counter()?]));
        Self(pair.map_err(|error| format!("the processor's counters are not available: {error}")))
    }

    /// Why nothing is counted, if so.
    pub fn missing(&self) -> Option<&str> {
        self.0.as_ref().err().map(String::as_str)
    }

    /// Starts from zero.
    pub fn reset(&mut self) {
        for counter in self.0.iter_mut().flatten() {
            counter.reset().unwrap();
        }
    }

    /// Runs the empty program.
    pub fn empty<T>(&mut self, run: impl FnOnce() -> T) -> T {
        self.counted(0, run)
    }

    /// Runs the program that is measured.
    pub fn measured<T>(&mut self, run: impl FnOnce() -> T) -> T {
        self.counted(1, run)
    }

    /// By how many the measured runs differ from the empty ones since the last
    /// reset.
    pub fn difference(&mut self) -> Option<f64> {
        let [empty, measured] = self.0.as_mut().ok()?;
        Some(measured.read().unwrap() as f64 - empty.read().unwrap() as f64)
    }

    fn counted<T>(&mut self, index: usize, run: impl FnOnce() -> T) -> T {
        let Ok(counters) = &mut self.0 else {
            return run();
        };
        counters[index].enable().unwrap();
        let result = run();
        counters[index].disable().unwrap();
        result
    }
}
