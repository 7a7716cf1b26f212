// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `sluice trace` prints: pure.

use std::{fmt::Write, net::SocketAddr};

use serde_json::Value;

use crate::datapath::{
    Destination,
    report::{DecisionReport, TraceReport, TraceStep},
};

/// Adds what a running agent says of the destination, by its `/status`: which
/// resource made the listener, and why a forwarded one is not in the kernel.
pub fn add_agent(report: &mut TraceReport, status: &Value) {
    let kernel = &status["datapath"]["report"];
    let to = report.to.to_string();
    let mut add = |missing, text| {
        report.steps.push(TraceStep {
            step: "agent",
            missing,
            text,
        });
    };
    let listener = listener(status, report.to);
    match listener {
        Some(listener) => add(
            false,
            format!(
                "{to} is a listener of kind {} ({})",
                text_of(&listener["kind"]),
                text_of(&listener["origin"])
            ),
        ),
        None => add(
            true,
            format!("{to} is no listener of the configuration in force"),
        ),
    }
    for proxied in items(&kernel["proxied"]).filter(|one| one["destination"] == *to) {
        add(
            true,
            format!(
                "{to} is not forwarded in the kernel: {}",
                text_of(&proxied["reason"])
            ),
        );
    }
    let backend = report.backend.map(|backend| backend.to_string());
    for cluster in items(&status["impaired"]) {
        let down: Vec<&str> = items(&cluster["down"]).filter_map(Value::as_str).collect();
        if backend.as_deref().is_some_and(|one| down.contains(&one)) {
            add(
                true,
                format!(
                    "probes find {} of {} down",
                    backend.as_deref().unwrap_or_default(),
                    text_of(&cluster["cluster"])
                ),
            );
        }
    }
}

/// The listener of a destination: the one on its address, else on any.
fn listener(status: &Value, to: Destination) -> Option<&Value> {
    let any = Destination {
        address: SocketAddr::from(([0, 0, 0, 0], to.address.port())),
        ..to
    };
    let any = any.to_string().replacen("0.0.0.0", "*", 1);
    let named = |name: &str| items(&status["listeners"]).find(|one| one["listener"] == *name);
    named(&to.to_string()).or_else(|| named(&any))
}

/// One finding a line, what is missing marked, and the verdict last.
pub fn text(report: &TraceReport) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_text(&mut out, report);
    out
}

fn write_text(out: &mut String, report: &TraceReport) -> std::fmt::Result {
    for TraceStep {
        step,
        missing,
        text,
    } in &report.steps
    {
        let mark = if *missing { '!' } else { ' ' };
        writeln!(out, "{mark} {step}: {text}")?;
    }
    let mark = if report.delivered { ' ' } else { '!' };
    write!(out, "{mark} verdict: {}", report.verdict)?;
    if let Some(reason) = report.reason {
        write!(out, " as {reason}")?;
    }
    if let (Some(backend), true) = (report.backend, report.delivered) {
        write!(out, ", {} reaches {backend}", report.from)?;
    }
    writeln!(out)
}

/// A decision on one line.
pub fn line(decision: &DecisionReport) -> String {
    let DecisionReport {
        age_ns: _,
        interface,
        protocol,
        from,
        to,
        packet,
        verdict,
        reason,
        service,
        backend,
        source,
        client,
        bytes,
    } = decision;
    let mut line = format!("{interface} {from} > {to}/{protocol} {bytes} bytes: {verdict}");
    // Writing to a String cannot fail.
    let _ = match (reason, backend, client, source) {
        (Some(reason), ..) => write!(line, " as {reason}"),
        (None, Some(backend), Some(client), _) => {
            write!(line, " to {client}, an answer of {backend} for {service}")
        }
        (None, Some(backend), None, Some(source)) => {
            write!(line, " to {backend} from {source}")
        }
        _ => Ok(()),
    };
    if *packet == "new" {
        line.push_str(", a new flow");
    }
    line
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text_of(value: &Value) -> String {
    super::text::word(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{add_agent, text};
    use crate::datapath::{
        Destination,
        report::{TraceReport, TraceStep},
    };

    fn report(to: &str) -> TraceReport {
        TraceReport {
            from: "192.0.2.7:40000".parse().expect("an address"),
            to: Destination::from(to.parse::<std::net::SocketAddr>().expect("an address")),
            verdict: "steered",
            reason: None,
            delivered: true,
            backend: None,
            source: None,
            steps: vec![TraceStep {
                step: "service",
                missing: false,
                text: "not forwarded".to_owned(),
            }],
        }
    }

    #[test]
    fn the_agent_says_what_is_configured() {
        let status = json!({
            "listeners": [
                {"listener": "*:443", "kind": "tls", "origin": "a.yaml:7"},
                {"listener": "10.97.0.1:80", "kind": "forward", "origin": "b.yaml:1"},
            ],
            "datapath": {"report": {"proxied": [
                {"destination": "10.97.0.1:80", "reason": "local-backend"},
            ]}},
        });
        for (to, expected) in [
            (
                "10.97.0.1:443",
                "  service: not forwarded\n\
                 \x20 agent: 10.97.0.1:443 is a listener of kind tls (a.yaml:7)\n\
                 \x20 verdict: steered\n",
            ),
            (
                "10.97.0.1:80",
                "  service: not forwarded\n\
                 \x20 agent: 10.97.0.1:80 is a listener of kind forward (b.yaml:1)\n\
                 ! agent: 10.97.0.1:80 is not forwarded in the kernel: local-backend\n\
                 \x20 verdict: steered\n",
            ),
            (
                "[fd97::1]:443",
                "  service: not forwarded\n\
                 \x20 agent: [fd97::1]:443 is a listener of kind tls (a.yaml:7)\n\
                 \x20 verdict: steered\n",
            ),
            (
                "10.97.0.1:9",
                "  service: not forwarded\n\
                 ! agent: 10.97.0.1:9 is no listener of the configuration in force\n\
                 \x20 verdict: steered\n",
            ),
        ] {
            let mut report = report(to);
            add_agent(&mut report, &status);
            assert_eq!(text(&report), expected);
        }
    }

    #[test]
    fn a_drop_names_its_reason() {
        let dropped = TraceReport {
            verdict: "dropped",
            reason: Some("no_route"),
            delivered: false,
            ..report("10.97.0.1:80")
        };
        assert!(text(&dropped).ends_with("! verdict: dropped as no_route\n"));
    }
}
