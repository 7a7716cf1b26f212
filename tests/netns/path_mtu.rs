// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Links that take less than the sender believes, behind the gateway and in
//! front of it.

use std::net::IpAddr;

use gateway_tests::{lab::Lab, netns::Netns};

use crate::{
    ipv6,
    modes::{self, Service},
    scene,
};

const MTU: u32 = 1_400;

/// The MTU that `netns` has learned for its way to `ip`.
pub fn learned(netns: &Netns, ip: IpAddr) -> Option<u32> {
    let route = netns.ip(&format!("route get {ip}")).expect("a route");
    let mut words = route.split_whitespace();
    words.find(|word| *word == "mtu")?;
    words.next()?.parse().ok()
}

/// Checks each service while a link of the gateway takes no more than [`MTU`]: its
/// own end alone, so that the other end offers what it always does.
fn each(lab: &Lab, link: &str, check: impl Fn(Service)) {
    ipv6::dual_stack(lab);
    let _decap = modes::answers_itself(lab);
    lab.gateway
        .ip(&format!("link set {link} mtu {MTU}"))
        .expect("a narrow link");
    let services = modes::services(lab);
    let _gateway = scene::serve(lab, &[("modes.yaml", modes::yaml(&services))]);
    for service in services {
        check(service);
    }
}

#[test]
fn a_client_learns_of_a_narrow_link_behind_the_gateway() {
    let Some(lab) = scene::lab() else { return };
    each(&lab, "pod1", |service| {
        modes::exchange(&lab, service, 8 * 1024 * 1024, 1);
        assert_eq!(
            learned(&lab.client, service.vip.ip()),
            Some(MTU - service.overhead()),
            "{service:?}"
        );
        // Datagrams: those with "do not fragment" are cut by the sender, which
        // knows by now.
        modes::datagrams(&lab, service, 200, 3_000, 1_000);
        lab.client.ip("route flush cache").expect("forget");
        lab.client.ip("-6 route flush cache").expect("forget");
    });
}

#[test]
fn a_backend_learns_of_a_narrow_link_in_front_of_the_gateway() {
    let Some(lab) = scene::lab() else { return };
    each(&lab, "wire", |service| {
        if service.mode == "dsr" {
            // Its answers do not go this way.
            return;
        }
        let seen = modes::exchange(&lab, service, 1, 8 * 1024 * 1024);
        assert_eq!(learned(&lab.backends[0], seen), Some(MTU), "{service:?}");
        lab.backends[0].ip("route flush cache").expect("forget");
        lab.backends[0].ip("-6 route flush cache").expect("forget");
    });
}
