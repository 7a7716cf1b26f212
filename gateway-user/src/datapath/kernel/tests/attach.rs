// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `auto` makes of a network card: the devices of the lab are virtual, so
//! one of them is passed off as a card.

use std::{collections::BTreeMap, time::Duration};

use gateway_tests::{foreign::Foreign, netns::Netns, wait};

use super::{Datapath, lab::Lab, programs_at, run};
use crate::datapath::{
    AttachMode, DatapathConfig,
    attach::Attachments,
    bpffs::Pins,
    detach,
    interfaces::{Interface, Role, interfaces},
    report::InterfaceReport,
};

/// Attaches to `wire0` as an agent does that has just started.
fn attach(datapath: &mut Datapath, config: &DatapathConfig, mode: AttachMode) -> InterfaceReport {
    let all = interfaces(&mut datapath.netlink).expect("the interfaces");
    let card = Interface {
        is_virtual: false,
        ..all["wire0"].clone()
    };
    let wanted = BTreeMap::from([("wire0".to_owned(), (card, Role::Wire))]);
    let mut attachments = Attachments::new(Pins::new(&config.bpffs).links(), mode);
    let (changed, failed) =
        attachments.follow(&mut datapath.ebpf, &mut datapath.netlink, &wanted, None);
    assert!(changed && failed.is_empty(), "{failed:?}");
    attachments.report().remove(0)
}

#[test]
fn auto_takes_xdp_of_a_card_unless_somebody_has_it() {
    let Some(lab) = Lab::new() else { return };
    let config = DatapathConfig {
        pod_interfaces: Vec::new(),
        ..lab.config()
    };
    let mut datapath = run(Datapath::open(config.clone())).expect("to open");
    let auto = AttachMode::Auto;

    let other = Foreign::xdp("their_xdp").expect("a program");
    let link = other.link_xdp(&Netns::host(), "wire0").expect("to attach");
    let wire = attach(&mut datapath, &config, auto);
    let name = format!("XDP program their_xdp (id {})", other.id().expect("an id"));
    assert_eq!(wire.mode, "tcx");
    assert_eq!(wire.reason, format!("auto: the {name} is there"));
    assert_eq!(wire.others, [format!("{name} sees packets first")]);

    // Ours alone is not somebody, also when the next agent finds it.
    drop(link);
    // A process that another test is just starting has the link until it runs its
    // program.
    wait::until_true("the end of the link", Duration::from_secs(10), || {
        let all = interfaces(&mut datapath.netlink).expect("the interfaces");
        all["wire0"].xdp.is_empty()
    })
    .expect("nobody's");
    for _ in 0..2 {
        let wire = attach(&mut datapath, &config, auto);
        assert_eq!(wire.mode, "xdp-native");
        assert_eq!(wire.reason, "auto: the driver runs XDP programs");
        assert_eq!(wire.others, [""; 0]);
        assert_eq!(programs_at("wire0"), 0, "tc is given up");
    }
    drop(datapath);
    run(detach(&config)).expect("to detach");
}

#[test]
fn auto_takes_tc_where_the_driver_refuses() {
    let Some(lab) = Lab::new() else { return };
    let config = DatapathConfig {
        pod_interfaces: Vec::new(),
        ..lab.config()
    };
    // A veth device takes no XDP program with a larger MTU than a page holds
    // (veth_xdp_set).
    super::ip("link set wire0 mtu 9000");
    let peer = lab.inside("c", || super::ip("link set eth0 mtu 9000"));
    peer.join().expect("the peer");
    let mut datapath = run(Datapath::open(config.clone())).expect("to open");
    let wire = attach(&mut datapath, &config, AttachMode::Auto);
    assert_eq!(wire.mode, "tcx");
    assert!(
        wire.reason.starts_with("auto: xdp-native refused: "),
        "{}",
        wire.reason
    );
    drop(datapath);
    run(detach(&config)).expect("to detach");
}
