// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What limits count, when the agent ends flows and when it ends itself.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use super::{
    Datapath,
    lab::{BACKEND, Lab, VIP, eventually},
    run, snapshot,
};
use crate::{
    datapath::{DatapathConfig, config::Protection, detach, flows::monotonic_ns},
    model::{FlowLimits, ForwardingMode, SynCookies},
};

const SECOND: u64 = 1_000_000_000;

fn sweep_at(datapath: &mut Datapath, now: u64) {
    datapath
        .sweeper
        .sweep(&mut datapath.maps, &mut datapath.peers, now)
        .expect("to sweep");
}

#[test]
fn half_open_flows_are_counted_across_agents_until_they_expire() {
    let Some(lab) = Lab::new() else { return };
    let config = DatapathConfig {
        protection: Protection {
            max_half_open: 3,
            defaults: FlowLimits {
                syn_cookies: Some(SynCookies::Off),
                ..FlowLimits::default()
            },
            ..Protection::default()
        },
        ..lab.config()
    };
    // Nobody has this address.
    let services = snapshot(1, &[(80, "10.2.0.99:8080", ForwardingMode::Auto)]);
    let mut datapath = run(Datapath::open(config.clone())).expect("to open");
    run(datapath.apply(&services)).expect("to apply");
    let clients: Vec<_> = (0..5)
        .map(|_| {
            lab.inside("c", || {
                let to: SocketAddr = format!("{VIP}:80").parse().expect("an address");
                TcpStream::connect_timeout(&to, Duration::from_millis(500)).is_ok()
            })
        })
        .collect();
    for client in clients {
        assert!(!client.join().expect("no panic"));
    }
    eventually("two are refused", || {
        datapath.report().drops["half_open_full"].packets >= 2
    });
    assert_eq!(datapath.report().flows.half_open, 3);

    drop(datapath);
    let mut datapath = run(Datapath::open(config.clone())).expect("to adopt");
    assert_eq!(datapath.report().flows.half_open, 3);
    sweep_at(&mut datapath, monotonic_ns() + 230 * SECOND);
    assert_eq!(datapath.report().flows.half_open, 3);
    sweep_at(&mut datapath, monotonic_ns() + 250 * SECOND);
    assert_eq!(datapath.report().flows.half_open, 0);
    assert!(datapath.flows().next().is_none());
    drop(datapath);
    run(detach(&config)).expect("to detach");
}

#[test]
fn flows_of_a_source_are_counted_across_agents_until_they_expire() {
    let Some(lab) = Lab::new() else { return };
    let config = DatapathConfig {
        protection: Protection {
            defaults: FlowLimits {
                source_flows: Some(2),
                ..FlowLimits::default()
            },
            ..Protection::default()
        },
        ..lab.config()
    };
    lab.echo(8080);
    let services = snapshot(1, &[(80, &format!("{BACKEND}:8080"), ForwardingMode::Auto)]);
    let mut datapath = run(Datapath::open(config.clone())).expect("to open");
    run(datapath.apply(&services)).expect("to apply");
    let connect = || lab.connect(&format!("{VIP}:80"));
    let refused = || {
        let connected = lab.inside("c", || {
            let to: SocketAddr = format!("{VIP}:80").parse().expect("an address");
            TcpStream::connect_timeout(&to, Duration::from_millis(500)).is_ok()
        });
        !connected.join().expect("no panic")
    };
    let idle = [connect(), connect()];
    assert!(refused());
    drop(datapath);
    assert!(refused(), "without an agent");
    let mut datapath = run(Datapath::open(config.clone())).expect("to adopt");
    run(datapath.apply(&services)).expect("to apply");
    assert!(refused(), "adopted");
    sweep_at(&mut datapath, monotonic_ns() + 8_000 * SECOND);
    assert!(datapath.flows().next().is_none(), "expired");
    let again = [connect(), connect()];
    assert!(refused());
    drop((idle, again));
    drop(datapath);
    run(detach(&config)).expect("to detach");
}
