// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two agents on one node, and agents of different layouts: one at a time, and
//! what is forwarded goes on whoever is refused.

use std::fs;

use gateway_tests::{backend::echo::Echo, client::raw, gateway::Gateway, lab::Lab};

use crate::{
    scene::{self, backend, serve, tcp, vip},
    upgrade::converse,
};

fn echo(lab: &Lab) -> (Echo, Gateway<'_>) {
    let echo = Echo::start(lab, 0, 7000, "").expect("echo");
    let yaml = tcp("echo", 31_400, &[backend(lab, 0, 7000)]);
    (echo, serve(lab, &[("echo.yaml", yaml)]))
}

/// What `sluice ARGS` says on its way out, which must be a refusal.
fn refused(gateway: &Gateway<'_>, args: &[&str]) -> String {
    let output = gateway.sluice(args).expect("start");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{args:?} went through: {text}");
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("sluice:"))
        .collect();
    assert_eq!(lines.len(), 1, "one line says it: {text}");
    lines[0].to_owned()
}

#[test]
fn a_second_agent_is_told_which_one_runs() {
    let Some(lab) = scene::lab() else { return };
    let (_echo, mut gateway) = echo(&lab);
    let first = gateway.process().expect("it runs").pid();
    let mut stream = raw::connect(&lab.client, vip(&lab, 31_400)).expect("connect");
    converse(&mut stream, "before");

    // With the same settings, with an admin address of its own, and with pins
    // of its own: the links of the node are still one agent's.
    let bootstrap = gateway.bootstrap_file();
    let text = fs::read_to_string(&bootstrap).expect("the bootstrap");
    let other = lab.dir().join("other.yaml");
    let elsewhere = text.replace("/bpf/sluice", "/bpf/other");
    assert_ne!(elsewhere, text);
    fs::write(&other, elsewhere).expect("write");
    let config = gateway.config_dir();
    let [bootstrap, other, config] =
        [&bootstrap, &other, &config].map(|path| path.to_str().expect("text"));
    for (bootstrap, admin) in [
        (bootstrap, "127.0.0.1:15000"),
        (bootstrap, "127.0.0.1:15001"),
        (other, "127.0.0.1:15001"),
    ] {
        let line = refused(
            &gateway,
            &[
                "run",
                "--bootstrap",
                bootstrap,
                "--config",
                config,
                "--datapath",
                "ebpf",
                "--admin",
                admin,
            ],
        );
        assert!(
            line.contains(&format!("another agent (pid {first})")),
            "{line}"
        );
        assert!(line.contains("stop it first"), "{line}");
    }
    // Neither are its programs, maps and addresses taken away under it.
    for bootstrap in [bootstrap, other] {
        let line = refused(&gateway, &["detach", "--bootstrap", bootstrap]);
        assert!(line.contains(&format!("(pid {first})")), "{line}");
    }
    converse(&mut stream, "after");

    // A lock ends with its process, however that ends.
    gateway.kill();
    gateway.start().expect("start at once");
    assert_ne!(gateway.process().expect("it runs").pid(), first);
    converse(&mut stream, "next");
}

#[test]
fn another_layout_is_refused_and_goes_on_forwarding() {
    let Some(lab) = scene::lab() else { return };
    let (_echo, mut gateway) = echo(&lab);
    let mut stream = raw::connect(&lab.client, vip(&lab, 31_400)).expect("connect");
    converse(&mut stream, "before");
    gateway.kill();

    let pins = lab.bpffs().join("sluice");
    let names = |path: &std::path::Path| -> Vec<String> {
        let entries = fs::read_dir(path).expect("the pins");
        let names = entries.map(|entry| entry.expect("a pin").file_name());
        names
            .map(|name| name.into_string().expect("text"))
            .collect()
    };
    let ours = pins.join(names(&pins).pop().expect("a layout"));
    let number: u32 = ours
        .file_name()
        .and_then(|name| name.to_str()?.strip_prefix('v')?.parse().ok())
        .expect("its number");
    for (other, words) in [
        (number - 1, ["older than", "sluice detach"]),
        (number + 1, ["newer than", "start the newer version again"]),
    ] {
        // Real pins: programs and maps at work, under another number.
        let elsewhere = pins.join(format!("v{other}"));
        fs::rename(&ours, &elsewhere).expect("rename");
        let error = format!("{:#}", gateway.start().expect_err("refused"));
        assert!(error.contains(&format!("layout v{other},")), "{error}");
        for word in words {
            assert!(error.contains(word), "{error}");
        }
        assert_eq!(names(&pins), [format!("v{other}")], "nothing is added");
        converse(&mut stream, "refused");
        let mut new = raw::connect(&lab.client, vip(&lab, 31_400)).expect("connect");
        converse(&mut new, "new");
        fs::rename(&elsewhere, &ours).expect("rename back");
    }
    gateway.start().expect("adopt");
    converse(&mut stream, "adopted");
}
