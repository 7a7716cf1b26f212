// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Source ports towards backends, of which there are few here.

use std::time::Duration;

use gateway_tests::{backend::echo::Echo, gateway::Datapath, wait};

use crate::{
    handoff_records::{Client, flows},
    scene::{self, backend, passthrough, serve_with},
};

/// A connection that was ended by its client keeps its port towards its backend for
/// a minute (TIME_WAIT).
#[test]
fn ports_that_one_backend_has_used_up_are_there_for_another() {
    let Some(lab) = scene::lab() else { return };
    let _busy = Echo::start(&lab, 0, 7000, "").expect("echo");
    // At the same address: the gateway's towards both is one, too.
    let _calm = Echo::start(&lab, 0, 7001, "").expect("echo");
    let names = ["busy", "calm"].map(|name| (name, format!("{name}.yaml"), format!("{name}.test")));
    let files: Vec<(&str, String)> = (7000..)
        .zip(&names)
        .map(|(port, (name, file, host))| {
            let yaml = passthrough(name, 443, host, &[backend(&lab, 0, port)]);
            (file.as_str(), yaml)
        })
        .collect();
    let bootstrap = "handoff: {ports: 51000-51007, after_bytes: 4096}\n";
    let gateway = serve_with(&lab, Datapath::Ebpf, bootstrap, &files);
    // Shorter than any threshold.
    for _ in 0..64 {
        Client::open(&lab, "busy.test").finish();
    }
    assert_eq!(flows(&gateway, &["--kind", "handoff"]).len(), 0);
    let mut calm = Client::open(&lab, "calm.test");
    calm.rounds(20);
    wait::until_true("it is handed off", Duration::from_secs(20), || {
        flows(&gateway, &["--sni", "calm.test", "--kind", "handoff"]).len() == 1
    })
    .expect("handed off");
    calm.rounds(1);
    calm.finish();
}
