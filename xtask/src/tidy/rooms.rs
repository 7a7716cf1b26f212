// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rooms of the agent and what each may import: data flows one way, and nothing
//! on the left imports anything to its right. Tests may import what they like.

use super::{Finding, source::Source};

/// A room and the rooms it may import; its own files it always may.
struct Room {
    name: &'static str,
    imports: &'static [&'static str],
}

const ROOMS: &[Room] = &[
    // Configuration, left to right.
    room("origin", &[]),
    room("diagnostic", &[]),
    room("resource", &[]),
    room("source", &["resource"]),
    room("model", &[]),
    room("translate", &["resource", "model"]),
    room("snapshot", &["model"]),
    room("compile", &["model", "snapshot", "tls"]),
    // What is said to backends.
    room("proxy_header", &["model"]),
    // What observes the world beside the configuration.
    room("health", &["model", "proxy_header"]),
    // What reads a snapshot.
    room("balance", &["model", "snapshot"]),
    room("datapath", &["model", "snapshot"]),
    room("drain", &[]),
    room("telemetry", &[]),
    room("tls", &["model", "snapshot"]),
    room(
        "http",
        &[
            "model",
            "snapshot",
            "balance",
            "proxy_header",
            "telemetry",
            "drain",
        ],
    ),
    room(
        "conn",
        &[
            "model",
            "snapshot",
            "balance",
            // To hand connections over.
            "datapath",
            "http",
            "proxy_header",
            "tls",
            "telemetry",
            "drain",
        ],
    ),
    // Its workers put together what each thread needs.
    room(
        "listener",
        &[
            "model",
            "snapshot",
            "balance",
            "http",
            "conn",
            "telemetry",
            "drain",
        ],
    ),
    // What brings it into effect and reports.
    room(
        "reconcile",
        &[
            "model",
            "snapshot",
            "compile",
            "listener",
            "datapath",
            "drain",
            "telemetry",
        ],
    ),
    room(
        "explain",
        &["model", "snapshot", "http", "conn", "datapath", "telemetry"],
    ),
    room(
        "status",
        &["model", "snapshot", "datapath", "health", "telemetry"],
    ),
    room(
        "admin",
        &[
            "model",
            "snapshot",
            "status",
            "explain",
            "datapath",
            "health",
            "telemetry",
        ],
    ),
    room(
        "bootstrap",
        &["model", "datapath", "conn", "http", "listener"],
    ),
];

/// May import everything: they put the rooms together.
const ROOTS: &[&str] = &["app", "main", "cli", "lib"];
/// May be imported by every room.
const LEAVES: &[&str] = &["origin", "diagnostic"];

/// Imports that go the wrong way.
pub fn check(source: &Source) -> Vec<Finding> {
    let Some(name) = room_of(source) else {
        return Vec::new();
    };
    if ROOTS.contains(&name.as_str()) {
        return Vec::new();
    }
    let Some(room) = ROOMS.iter().find(|room| room.name == name) else {
        return vec![Finding {
            line: 1,
            message: format!(
                "room `{name}` is not in xtask/src/tidy/rooms.rs: say what it may import"
            ),
        }];
    };
    imports(source)
        .into_iter()
        .filter(|(_, target)| {
            *target != room.name
                && !LEAVES.contains(&target.as_str())
                && !room.imports.contains(&target.as_str())
                && (ROOTS.contains(&target.as_str())
                    || ROOMS.iter().any(|other| other.name == target))
        })
        .map(|(line, target)| Finding {
            line,
            message: format!("room `{name}` must not import `{target}`: data flows one way"),
        })
        .collect()
}

/// The room a file belongs to: the first part of its path under the agent's
/// `src`.
fn room_of(source: &Source) -> Option<String> {
    let path = source.path.strip_prefix("gateway-user/src").ok()?;
    let first = path.iter().next()?.to_str()?;
    Some(first.trim_end_matches(".rs").to_owned())
}

/// First names after `crate::`, with the line of each; groups are opened.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut text = String::new();
    let mut starts = Vec::new();
    for (line, code) in source.shipped() {
        starts.push((text.len(), line));
        text.push_str(code);
        text.push('\n');
    }
    let line_at = |at: usize| {
        let index = starts.partition_point(|(start, _)| *start <= at);
        starts[index.saturating_sub(1)].1
    };
    for (at, _) in text.match_indices("crate::") {
        let from = at + "crate::".len();
        match text.as_bytes().get(from) {
            Some(b'{') => {
                for (offset, name) in group(&text[from..]) {
                    found.push((line_at(from + offset), name));
                }
            }
            _ => found.push((line_at(at), word(&text[from..]))),
        }
    }
    found
}

/// First names of the members of `{a::b, c::{d, e}, f}`, with their offsets.
fn group(text: &str) -> Vec<(usize, String)> {
    let mut names = Vec::new();
    let mut depth = 0_usize;
    let mut fresh = false;
    for (offset, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => {
                depth += 1;
                fresh = depth == 1;
            }
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            b',' if depth == 1 => fresh = true,
            b' ' | b'\n' => {}
            _ if fresh => {
                names.push((offset, word(&text[offset..])));
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

fn word(text: &str) -> String {
    text.chars()
        .take_while(|character| character.is_alphanumeric() || *character == '_')
        .collect()
}

const fn room(name: &'static str, imports: &'static [&'static str]) -> Room {
    Room { name, imports }
}
