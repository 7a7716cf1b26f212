// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Defaults, and what is refused.

use std::path::Path;

use super::Bootstrap;

fn parse(text: &str) -> Result<Bootstrap, String> {
    Bootstrap::parse(text, Path::new("gateway.yaml"))
        .map_err(|error| format!("{:#}", anyhow::Error::from(error)))
}

#[test]
fn nothing_written_is_the_default() {
    assert_eq!(parse(""), Ok(Bootstrap::default()));
    assert_eq!(parse("# only a comment\n"), Ok(Bootstrap::default()));
}

#[test]
fn the_shipped_file_states_the_defaults() {
    let text = include_str!("../../../config/gateway.yaml");
    assert_eq!(parse(text), Ok(Bootstrap::default()), "as shipped");
    // Every commented key, uncommented, must parse and be the default.
    let uncommented: String = text
        .lines()
        .map(|line| line.strip_prefix("#: ").unwrap_or(line))
        .fold(String::new(), |all, line| all + line + "\n");
    let mut stated = parse(&uncommented).expect("the commented keys parse");
    assert!(!stated.sources.is_empty(), "the example names a source");
    stated.sources.clear();
    assert_eq!(stated, Bootstrap::default());
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let error = parse("vips: [10.0.0.1]\nvipz: []\n").expect_err("refused");
    assert!(
        error.contains("vipz") && error.contains("line 2"),
        "{error}"
    );
}

#[test]
fn values_out_of_range_say_what_is_right() {
    for (text, expected) in [
        ("snat_ports: 80-90", "1024 to 65535"),
        ("snat_ports: 60000-65535", "apart from snat_ports"),
        ("handoff: {ports: 40000-61000}", "apart from snat_ports"),
        ("limits: {max_client_hello: 70000}", "512 to 65536"),
        ("vips: [0.0.0.0]", "unicast"),
        ("timeouts: {drain: soon}", "drain"),
        ("timeouts: {tcp_flow: 0s}", "1s to 365d"),
        ("timeouts: {udp_flow: 500ms}", "1s to 365d"),
        ("timeouts: {removed_endpoint: 2h}", "500ms to 1h"),
        ("attach: magic", "attach"),
        ("health: {interval: 10ms}", "100ms to 1h"),
        ("health: {interval: 1s, timeout: 2s}", "health.timeout"),
        ("health: {unhealthy_threshold: 0}", "1 to 100"),
        ("health: {panic_percent: 101}", "0 to 100"),
        ("health: {max_concurrent: 0}", "1 to 4096"),
        ("health: {probe: http}", "unknown variant `http`"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.contains(expected), "{text}: {error}");
    }
}
