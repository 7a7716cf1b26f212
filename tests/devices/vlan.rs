// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A VLAN on a trunk that has a program as well: its frames are the VLAN's, whether
//! their tag stands in the packet or, as a card hands it over, beside it.

use std::{fs, net::Ipv4Addr};

use gateway_tests::{
    gateway::{Datapath, Gateway},
    netns::Netns,
    offload,
};

use crate::{modes, scene};

/// The client's address in the VLAN.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Bytes in each direction of a connection.
const HALF: u64 = 400_000;

fn vlan(netns: &Netns, trunk: &str, address: &str) {
    for command in [
        format!("link add link {trunk} name {trunk}.10 type vlan id 10"),
        format!("addr add {address} dev {trunk}.10"),
        format!("link set {trunk}.10 up"),
    ] {
        netns.ip(&command).expect("a VLAN");
    }
}

#[test]
fn a_connection_over_a_vlan_is_forwarded_wherever_its_tag_stands() {
    let Some(lab) = scene::lab() else { return };
    vlan(&lab.gateway, "wire", "10.77.0.1/24");
    vlan(&lab.client, "eth0", &format!("{CLIENT}/24"));
    lab.client
        .ip("route replace default via 10.77.0.1")
        .expect("a route by the VLAN");
    let services = modes::services(&lab);
    let v4 = |mode: &str| {
        let mut all = services.iter().filter(|it| it.vip.is_ipv4());
        *all.find(|it| it.mode == mode).expect("a service")
    };
    let services = [v4("dnat"), v4("snat")];
    let mut gateway = Gateway::new(&lab, Datapath::Ebpf, "").expect("prepare the agent");
    let bootstrap = gateway.bootstrap_file();
    let text = fs::read_to_string(&bootstrap).expect("the bootstrap");
    let both = text.replace("interfaces: [wire]", "interfaces: [wire, wire.10]");
    assert_ne!(both, text);
    fs::write(&bootstrap, both).expect("write");
    gateway
        .write("modes.yaml", &modes::yaml(&services))
        .expect("configure");
    gateway.start().expect("start the agent");
    let packets = |verdict: &str| {
        let status = gateway.status().expect("status");
        let counted = &status["datapath"]["report"]["verdicts"][verdict]["packets"];
        counted.as_u64().expect("counted")
    };

    for beside in [true, false] {
        for (netns, trunk) in [(&lab.client, "eth0"), (&lab.gateway, "wire")] {
            netns
                .run(|| offload::tags_beside_packets(trunk, beside))
                .expect("set offloads");
        }
        for service in services {
            let (passed, forwarded) = (packets("passed"), packets("forwarded"));
            let before = gateway
                .service_at(&service.vip.to_string())
                .expect("counters");
            let seen = modes::exchange(&lab, service, HALF, HALF);
            assert_eq!(seen == CLIENT, service.mode == "dnat", "{seen}");
            let after = gateway
                .service_at(&service.vip.to_string())
                .expect("counters");
            assert_eq!(after.flows, before.flows + 1, "{service:?}");
            let from_client = after.packets_in - before.packets_in;
            assert!(packets("forwarded") > forwarded + from_client, "both ways");
            // Each of them met the trunk's program first.
            let passed = packets("passed") - passed;
            assert!(passed >= from_client, "{passed} of {from_client} passed");
        }
    }
    assert_eq!(
        gateway.closed("", "").expect("status"),
        0,
        "the agent saw one"
    );
}
