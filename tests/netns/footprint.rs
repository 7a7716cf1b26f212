// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the agent costs: time to start, memory. Times are printed, not
//! asserted; memory is asserted.

use std::time::Instant;

use gateway_tests::{
    backend::echo::Echo,
    client::raw,
    gateway::{Datapath, Gateway, resident_bytes},
};

use crate::scene::{self, backend, passthrough, serve, tcp, vip};

#[test]
fn becomes_ready_with_100_resources() {
    let Some(lab) = scene::lab() else { return };
    let mut gateway = Gateway::new(&lab, Datapath::Ebpf, "").expect("prepare");
    // 34 times a Gateway, a VirtualService and a ServiceEntry.
    for number in 0..34 {
        let name = format!("s{number}");
        let yaml = if number % 2 == 0 {
            tcp(&name, 20_000 + number, &[backend(&lab, 0, 7000)])
        } else {
            let host = format!("{name}.example.com");
            passthrough(&name, 443, &host, &[backend(&lab, 1, 7000)])
        };
        gateway
            .write(&format!("{name}.yaml"), &yaml)
            .expect("write");
    }
    let start = Instant::now();
    gateway.start().expect("start");
    let took = start.elapsed();
    println!("ready after {took:?} with 102 resources");
    let status = gateway.status().expect("status");
    let listeners = status["listeners"].as_array().map(Vec::len);
    assert_eq!(listeners, Some(18), "17 forwarded ports and 443");
}

#[test]
fn idle_memory_is_small_and_forwarded_flows_add_none() {
    let Some(lab) = scene::lab() else { return };
    let _echo = Echo::start(&lab, 0, 7000, "").expect("echo");
    let yaml = tcp("echo", 31_400, &[backend(&lab, 0, 7000)]);
    let mut gateway = serve(&lab, &[("echo.yaml", yaml)]);
    let pid = gateway.process().expect("running").pid();
    let idle = resident_bytes(pid).expect("memory");
    let flows: Vec<_> = (0..500)
        .map(|_| raw::connect(&lab.client, vip(&lab, 31_400)).expect("connect"))
        .collect();
    let busy = resident_bytes(pid).expect("memory");
    let counters = gateway.service(31_400).expect("counters");
    assert_eq!(counters.flows, 500);
    println!(
        "resident memory: {:.1} MB idle, {:.1} MB with {} forwarded flows",
        idle as f64 / 1e6,
        busy as f64 / 1e6,
        flows.len()
    );
    assert!(
        idle < 40_000_000,
        "{idle} bytes idle, the contract is 40 MB"
    );
    // The report of the flows costs a little; the flows must not.
    assert!(busy < idle + 2_000_000, "{idle} to {busy} bytes");
}
