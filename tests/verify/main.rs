// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Loads every program of the object into the running kernel, attaches none,
//! and prints what the verifier made of it: one JSON object a line, which
//! `cargo xtask verify` holds against `gateway_tests::budget`.
//!
//! It is a program of its own because it also runs where there is no cargo: as
//! root of a virtual machine with another kernel.

use std::process::ExitCode;

use gateway_tests::skip;
use gateway_user::datapath::object::OBJECT;
use serde_json::json;

mod kernel;
mod object;
mod statistics;

use object::Prepared;
use statistics::Statistics;

/// Lines of the verifier's log that a refusal is reported with: what leads to
/// the instruction, and the complaint.
const LOG_TAIL: usize = 25;

fn main() -> ExitCode {
    if !skip::is_root() {
        skip::skipped("loading kernel programs needs root");
        return ExitCode::SUCCESS;
    }
    match object::prepare(OBJECT) {
        Ok(prepared) => {
            prepared.iter().for_each(report);
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{}", json!({"error": format!("{error:#}")}));
            ExitCode::FAILURE
        }
    }
}

fn report(prepared: &Prepared) {
    let name = &prepared.name;
    let line = match kernel::load(prepared) {
        Ok(loaded) => match Statistics::read(&loaded.log) {
            Some(Statistics {
                instructions,
                peak_states,
                stack,
            }) => json!({
                "program": name,
                "size": loaded.instructions,
                "walked": instructions,
                "peak_states": peak_states,
                "stack": stack,
            }),
            None => json!({
                "program": name,
                "error": "loads, but this kernel's verifier gives no statistics",
                "log": tail(&loaded.log),
            }),
        },
        Err(refused) => json!({
            "program": name,
            "error": refused.error.to_string(),
            "log": tail(&refused.log),
        }),
    };
    println!("{line}");
}

fn tail(log: &str) -> Vec<&str> {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL)..].to_vec()
}
