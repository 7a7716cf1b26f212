// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The report as `sluice status` prints it.

use std::fmt::Write;

use serde_json::Value;

use crate::telemetry::histogram::Times;

/// Renders the JSON of a [`super::Report`]; fields an older or newer agent
/// does not have are left out.
pub fn text(report: &Value) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_text(&mut out, report);
    out
}

fn write_text(out: &mut String, report: &Value) -> std::fmt::Result {
    writeln!(
        out,
        "sluice {}  generation {}  {}",
        word(&report["version"]),
        word(&report["generation"]),
        word(&report["readiness"])
    )?;
    let datapath = &report["datapath"];
    write!(out, "datapath   {}", word(&datapath["mode"]))?;
    let missing: Vec<&str> = items(&datapath["missing"])
        .filter_map(Value::as_str)
        .collect();
    if !missing.is_empty() {
        write!(out, " ({})", missing.join(", "))?;
    }
    writeln!(out)?;
    let kernel = &datapath["report"];
    write_interfaces(out, kernel)?;
    for table in ["verdicts", "drops"] {
        let counts: Vec<String> = kernel[table]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, count)| count["packets"].as_u64() != Some(0))
            .map(|(name, count)| format!("{name} {}", word(&count["packets"])))
            .collect();
        if !counts.is_empty() {
            writeln!(out, "  {table:<9} {}", counts.join("  "))?;
        }
    }
    let flows = &kernel["flows"];
    if !flows.is_null() {
        writeln!(
            out,
            "  flows     {} active, {} closing, {} half-open, {} slots",
            word(&flows["last_sweep"]["active"]),
            word(&flows["last_sweep"]["closing"]),
            word(&flows["half_open"]),
            word(&flows["capacity"])
        )?;
        let [removed, reset, released] = [
            "endpoint_removed",
            "reset_endpoint_gone",
            "released_endpoint_gone",
        ]
        .map(|key| flows[key].as_u64().unwrap_or(0));
        if removed + reset + released > 0 {
            writeln!(
                out,
                "  removed   endpoints: {removed} flows go on, {reset} were reset, {released} let go"
            )?;
        }
    }
    write_handed_off(out, &flows["handoff"])?;
    for service in items(&kernel["services"]) {
        let traffic = &service["traffic"];
        writeln!(
            out,
            "  service   {:<22} flows {}  refused {}  in {} packets {} bytes  out {} packets {} bytes",
            word(&service["destination"]),
            word(&traffic["flows"]),
            word(&traffic["refused"]),
            word(&traffic["packets_in"]),
            word(&traffic["bytes_in"]),
            word(&traffic["packets_out"]),
            word(&traffic["bytes_out"])
        )?;
    }
    for proxied in items(&kernel["proxied"]) {
        let destination = word(&proxied["destination"]);
        // The agent has no sockets for datagrams.
        let label = if destination.ends_with("/udp") {
            "unserved"
        } else {
            "proxied"
        };
        writeln!(
            out,
            "  {label:<9} {destination:<22} {}",
            word(&proxied["reason"])
        )?;
    }
    for warning in items(&kernel["warnings"]) {
        writeln!(out, "  warning   {}", word(warning))?;
    }
    writeln!(out, "listeners  {}", items(&report["listeners"]).count())?;
    for listener in items(&report["listeners"]) {
        writeln!(
            out,
            "  {:<26} {:<8} {}",
            word(&listener["listener"]),
            word(&listener["kind"]),
            word(&listener["origin"])
        )?;
    }
    let connections = &report["connections"];
    writeln!(
        out,
        "agent      {} open, {} accepted, {} bytes in, {} bytes out",
        word(&connections["active"]),
        word(&connections["opened"]),
        word(&connections["bytes_in"]),
        word(&connections["bytes_out"])
    )?;
    for closed in items(&connections["closed"]) {
        writeln!(
            out,
            "  {:<16} {:<18} {}",
            word(&closed["mode"]),
            word(&closed["reason"]),
            word(&closed["count"])
        )?;
    }
    let sources = counts(&connections["sources"]);
    if !sources.is_empty() {
        writeln!(out, "sources    {}", sources.join(", "))?;
    }
    write_handoffs(out, connections)?;
    write_health(out, report)?;
    for certificate in items(&report["certificates"]) {
        writeln!(
            out,
            "certificate {:<32} {} days left",
            word(&certificate["certificate"]),
            word(&certificate["days_left"])
        )?;
    }
    let findings = items(&report["diagnostics"]).count();
    writeln!(out, "diagnostics {findings}")?;
    for finding in items(&report["diagnostics"]) {
        writeln!(
            out,
            "  {}:{}: {}: {} [{}]",
            word(&finding["file"]),
            word(&finding["line"]),
            word(&finding["severity"]),
            word(&finding["message"]),
            word(&finding["reason"])
        )?;
    }
    Ok(())
}

/// One line an interface; below it what was dropped, why it is attached as it
/// is, and who else is there.
fn write_interfaces(out: &mut String, kernel: &Value) -> std::fmt::Result {
    for interface in items(&kernel["interfaces"]) {
        let drops: Vec<(&str, u64)> = interface["drops"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(reason, packets)| (reason.as_str(), packets.as_u64().unwrap_or(0)))
            .collect();
        writeln!(
            out,
            "  interface {:<16} {:<4} {:<11} driver {:<10} program {:<5} drops {}",
            word(&interface["name"]),
            word(&interface["role"]),
            word(&interface["mode"]),
            word(&interface["driver"]),
            word(&interface["program_id"]),
            drops.iter().map(|(_, packets)| packets).sum::<u64>()
        )?;
        // Every pod interface has the same reason.
        if interface["role"] == "wire" && !interface["reason"].is_null() {
            writeln!(out, "            {}", word(&interface["reason"]))?;
        }
        for (reason, packets) in drops {
            writeln!(out, "            {reason} {packets}")?;
        }
        for other in items(&interface["others"]) {
            writeln!(out, "            not alone: {}", word(other))?;
        }
    }
    Ok(())
}

/// Nothing when nothing is probed; of the endpoints those that are not up.
fn write_health(out: &mut String, report: &Value) -> std::fmt::Result {
    let health = &report["health"];
    let all: Vec<&Value> = items(&health["targets"]).collect();
    if all.is_empty() {
        return Ok(());
    }
    let count = |verdict| all.iter().filter(|one| one["verdict"] == verdict).count();
    writeln!(
        out,
        "health     {} endpoints probed, {} up, {} down",
        all.len(),
        count("up"),
        count("down")
    )?;
    for target in all.iter().filter(|one| one["verdict"] != "up") {
        writeln!(
            out,
            "  {:<9} {:<22} for {} s  {}  {}",
            word(&target["verdict"]),
            word(&target["address"]),
            word(&target["for_s"]),
            word(&target["last"]),
            word(&target["probe"])
        )?;
    }
    for cluster in items(&report["impaired"]) {
        let panic = cluster["panic"].as_bool() == Some(true);
        writeln!(
            out,
            "  cluster   {}: {} in use, {} down{}",
            word(&cluster["cluster"]),
            word(&cluster["used"]),
            items(&cluster["down"]).count(),
            if panic {
                "; so few are up that all are used"
            } else {
                ""
            }
        )?;
    }
    Ok(())
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Connections that the kernel has taken over, if there are or were any.
fn write_handed_off(out: &mut String, handoff: &Value) -> std::fmt::Result {
    let ended = counts(&handoff["ended"]);
    let active = handoff["active"].as_u64().unwrap_or(0);
    if active == 0 && ended.is_empty() {
        return Ok(());
    }
    write!(
        out,
        "  handoff   {active} open, {} labels",
        word(&handoff["labels"])
    )?;
    if !ended.is_empty() {
        write!(out, "; ended {}", ended.join(", "))?;
    }
    writeln!(out)
}

/// What became of connections that could be handed to the kernel, if any could.
fn write_handoffs(out: &mut String, connections: &Value) -> std::fmt::Result {
    let counts = counts(&connections["handoff"]);
    if counts.is_empty() {
        return Ok(());
    }
    write!(out, "handoffs   {}", counts.join(", "))?;
    let holds: Option<Times> = serde_json::from_value(connections["handoff_holds"].clone()).ok();
    if let Some(holds) = holds.filter(|holds| holds.count() > 0) {
        let within = |share| match holds.quantile(share) {
            Some(bound) => format!("{} us", (bound * 1e6).round()),
            None => "more than 10 ms".to_owned(),
        };
        write!(
            out,
            "; half held for up to {}, 99 of 100 for up to {}",
            within(0.5),
            within(0.99)
        )?;
    }
    writeln!(out)
}

/// Counts by name, those that are not 0.
fn counts(counts: &Value) -> Vec<String> {
    let counts = counts.as_object().into_iter().flatten();
    counts
        .filter(|(_, count)| count.as_u64().is_some_and(|count| count > 0))
        .map(|(what, count)| format!("{what} {}", word(count)))
        .collect()
}

/// A value as it is printed; a dash for none.
pub(super) fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
