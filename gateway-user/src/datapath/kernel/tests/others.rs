// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Connections that another agent was about to hand off.

use std::{sync::Arc, time::Instant};

use gateway_common::flow::{SLOT_FREE, SLOT_OBSERVE};

use super::{
    Datapath,
    lab::{BACKEND, CLIENT, Lab, VIP},
    run,
};
use crate::datapath::{
    flows::monotonic_ns,
    relayed::{ConnectionNames, Ends, Moved, RelayMode, Relayed},
};

const SECOND: u64 = 1_000_000_000;

fn relayed(client_port: u16) -> Relayed {
    let at = |ip: &str, port| (ip.parse::<std::net::IpAddr>().expect("an address"), port).into();
    Relayed {
        ends: Ends {
            client: at(CLIENT, client_port),
            destination: at(VIP, 443),
            source: at("10.2.0.1", client_port),
            backend: at(BACKEND, 7000),
        },
        names: ConnectionNames {
            mode: RelayMode::Passthrough,
            sni: Some("a.test".to_owned()),
            alpn: None,
            rule: None,
            cluster: None,
        },
        accepted: Instant::now(),
        timeout_s: 0,
    }
}

fn reclaimed(datapath: &mut Datapath, seconds: u64) -> u32 {
    let now = monotonic_ns() + seconds * SECOND;
    let swept = datapath
        .sweeper
        .sweep(&mut datapath.maps, &mut datapath.peers, now);
    swept.expect("to sweep").reclaimed
}

#[test]
fn what_another_agent_observed_is_taken_away_soon_and_its_own_is_not() {
    let Some(lab) = Lab::new() else { return };
    let config = lab.config();
    let mut first = run(Datapath::open(config.clone())).expect("to open");
    let table = Arc::new(first.handoffs(true).expect("the maps"));
    let observe = |port| table.observe(&relayed(port), 0, [0; 2]).expect("a slot");
    let (gone, draining) = (observe(51_000), observe(51_001));
    let (index, generation) = (0..first.maps.slots.len())
        .find_map(|index| {
            let slot = first.maps.slots.slot(index)?;
            (slot.state() == SLOT_OBSERVE).then(|| (index, slot.generation()))
        })
        .expect("one is observed");
    assert_eq!(reclaimed(&mut first, 20), 0);
    // Its process has ended: nobody gives the slot back.
    std::mem::forget(gone);
    first.retire().expect("to make way");
    let mut second = run(Datapath::open(config)).expect("to open");
    assert!(first.has_successor());
    assert_eq!(reclaimed(&mut second, 0), 0);
    assert_eq!(reclaimed(&mut second, 6), 2);
    let slot = second.maps.slots.slot(index).expect("its slot");
    assert_eq!((slot.state(), slot.generation()), (SLOT_FREE, generation));
    // The one that is alive finds out, and leaves the slot to others.
    draining.set_moved(&Moved {
        bytes: [7; 2],
        packets: [7; 2],
    });
    assert!(!draining.hold(SECOND));
    draining.release();
    drop(draining);
    assert_eq!(slot.state(), SLOT_FREE);
    assert_eq!(slot.bytes(), [0; 2]);
    // No record is owed of what was never the kernel's.
    assert!(second.take_ended().is_empty());
    // It may begin anew.
    drop(table.observe(&relayed(51_001), 0, [0; 2]).expect("a slot"));
}
