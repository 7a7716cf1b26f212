// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An agent that is told to stop while it relays, and another one that starts
//! meanwhile: what is quiet becomes the kernel's, what is not is relayed to its
//! end, and every connection is recorded once.

use std::{thread, time::Duration};

use gateway_tests::{
    admin,
    backend::echo::Echo,
    checked::{Connection, Plan, Server, Style},
    gateway::Datapath,
    wait,
};

use crate::{
    handoff_records::{Client, flows, of, record},
    scene::{self, backend, passthrough, serve_with, vip},
};

const DEADLINE: Duration = Duration::from_secs(15);

#[test]
fn an_agent_that_drains_hands_off_what_is_quiet_while_the_next_one_starts() {
    let Some(lab) = scene::lab() else { return };
    let _echo = Echo::start(&lab, 0, 7000, "").expect("echo");
    let server = Server::start(&lab, 1, 7001).expect("server");
    let files = [
        (
            "quiet.yaml",
            passthrough("quiet", 443, "quiet.test", &[backend(&lab, 0, 7000)]),
        ),
        (
            "busy.yaml",
            passthrough("busy", 8443, "busy.test", &[backend(&lab, 1, 7001)]),
        ),
    ];
    // Far from any threshold.
    let bootstrap = "handoff: {mode: auto, after_bytes: 1000000000, after_age: null}\n";
    let mut gateway = serve_with(&lab, Datapath::Ebpf, bootstrap, &files);

    let mut quiet: Vec<Client> = (0..3).map(|_| Client::open(&lab, "quiet.test")).collect();
    for client in &mut quiet {
        client.rounds(2);
    }
    let busy = 8;
    thread::scope(|scope| {
        let connections: Vec<_> = (0..busy)
            .map(|number| {
                let plan = Plan {
                    seed: 900 + number,
                    // All of them end in good order.
                    style: Style::nth(number % 4),
                    bytes: [3_000_000, 3_000_000],
                    pause: 1_500 + number as u16 * 300,
                };
                let connection = Connection::open(&lab.client, vip(&lab, 8443), "busy.test", plan)
                    .expect("open");
                scope.spawn(move || connection.run())
            })
            .collect();
        wait::until_true("the agent has all", DEADLINE, || {
            gateway
                .status()
                .is_ok_and(|status| status["connections"]["active"] == 3 + busy)
        })
        .expect("accepted");
        let mut old = gateway.part().expect("it runs");
        old.signal(libc::SIGTERM).expect("signal");
        wait::until_true("it drains", DEADLINE, || {
            admin::fetch(&lab.gateway, gateway.admin(), "/readyz")
                .is_ok_and(|answer| answer.status == 503)
        })
        .expect("the drain shows");
        // The port of its admin endpoints is given up as well.
        gateway.start().expect("the next agent beside it");
        wait::until_true("the quiet ones are the kernel's", DEADLINE, || {
            flows(&gateway, &["--sni", "quiet.test", "--state", "active"]).len() == 3
        })
        .expect("handed off");
        for client in &mut quiet {
            client.rounds(2);
        }
        // New ones are the new agent's.
        let mut new = Client::open(&lab, "quiet.test");
        new.rounds(1);
        new.finish();
        assert!(record(&mut gateway, new.address).contains("path=\"copy\""));
        for connection in connections {
            connection
                .join()
                .expect("a client thread")
                .expect("every byte arrives");
        }
        let status = old.wait(DEADLINE).expect("ends by itself");
        assert!(status.success(), "{status}: {}", old.log_tail(5));
    });
    wait::until_true("every server has finished", DEADLINE, || {
        server.good() == busy || !server.bad().is_empty()
    })
    .expect("servers finish");
    assert_eq!(server.bad(), Vec::<String>::new());

    for client in &mut quiet {
        client.rounds(2);
        client.finish();
        assert!(record(&mut gateway, client.address).contains("path=\"handoff\""));
        assert_eq!(of(&mut gateway, client.address).len(), 1);
    }
    // Whichever way each of the others went.
    let recorded = wait::until("a record of each", DEADLINE, || {
        let log = gateway.process()?.log();
        let count = log
            .lines()
            .filter(|line| line.contains("sni=\"busy.test\"") && line.contains("reason=\"done\""))
            .count() as u64;
        anyhow::ensure!(count >= busy, "{count} of {busy}");
        Ok(Some(count))
    });
    assert_eq!(recorded.expect("recorded"), busy);
}
