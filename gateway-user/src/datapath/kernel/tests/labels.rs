// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Labels in the real map, with two agents at it.

use std::collections::HashSet;

use aya::maps::MapData;
use gateway_common::{
    label::NO_LABEL,
    limits::{MAX_LABELS, RESERVED_LABELS},
    names::MAP_LABELS,
};

use super::{Datapath, lab::Lab, run};
use crate::datapath::{
    bpffs::Pins,
    labels::Labels,
    relayed::{ConnectionNames, RelayMode},
};

fn named(sni: &str) -> ConnectionNames {
    ConnectionNames {
        mode: RelayMode::Passthrough,
        sni: Some(sni.to_owned()),
        alpn: None,
        rule: Some("a.yaml:7".to_owned()),
        cluster: Some("a.internal:443".to_owned()),
    }
}

#[test]
fn a_label_stays_while_somebody_has_its_number() {
    let Some(lab) = Lab::new() else { return };
    let config = lab.config();
    let datapath = run(Datapath::open(config.clone())).expect("to open");
    let pin = Pins::new(&config.bpffs).maps().join(MAP_LABELS);
    let open = || Labels::new(MapData::from_pin(&pin).expect("the pin")).expect("to read");
    let labels = open();
    let finish = |found: &[u32]| {
        let found: HashSet<u32> = found.iter().copied().collect();
        labels.finish_round(&found).expect("to finish");
        labels.counts().used
    };

    let first = labels.issue(&named("a.test"));
    let (a, b) = (first.id(), labels.issue(&named("b.test")).id());
    assert!(a != NO_LABEL && b != NO_LABEL && a != b);
    assert_eq!(labels.issue(&named("a.test")).id(), a);
    // Another agent reads it, and gives out numbers of its own.
    let others = open();
    assert_eq!(others.names(a).as_deref(), Some(&named("a.test")));
    let c = others.issue(&named("c.test")).id();
    assert!(![a, b].contains(&c));
    assert_eq!(labels.names(c).as_deref(), Some(&named("c.test")));
    assert_eq!(labels.names(NO_LABEL), None);

    // b was given out in the first round, of which nobody knows where it was by
    // then; a is held.
    assert_eq!(finish(&[]), 3);
    assert_eq!(finish(&[c]), 2);
    assert_eq!(open().names(b), None);
    // Its slot had been written behind the sweeper's back.
    assert_eq!(finish(&[b, c]), 3);
    assert_eq!(open().names(b).as_deref(), Some(&named("b.test")));
    // Given back in this round: it may have been in a slot before.
    drop(first);
    assert_eq!(finish(&[b, c]), 3);
    assert_eq!(finish(&[c]), 1);
    // Forgotten: a new number.
    assert_eq!(finish(&[c]), 1);
    let again = labels.issue(&named("a.test"));
    assert_ne!(again.id(), a);

    // The other agent, which knows nothing of this one's, takes it away.
    assert_eq!(others.names(again.id()).as_deref(), Some(&named("a.test")));
    for _ in 0..3 {
        others.finish_round(&HashSet::new()).expect("to finish");
    }
    assert_eq!(open().names(again.id()), None);
    again.confirm();
    assert_eq!(open().names(again.id()).as_deref(), Some(&named("a.test")));
    drop(datapath);
}

#[test]
fn a_client_with_too_many_names_leaves_room_for_those_without() {
    let Some(lab) = Lab::new() else { return };
    let config = lab.config();
    let datapath = run(Datapath::open(config)).expect("to open");
    let labels = &datapath.maps.labels;
    let held: Vec<_> = (0..MAX_LABELS - RESERVED_LABELS)
        .map(|number| labels.issue(&named(&format!("n{number}.test"))))
        .collect();
    assert_eq!(labels.counts().refused, 0);
    let beyond = labels.issue(&named("one-more.test"));
    let bare = ConnectionNames {
        sni: None,
        ..named("")
    };
    assert_eq!(labels.names(beyond.id()).as_deref(), Some(&bare));
    assert_eq!(labels.counts().refused, 1);
    // As good as before once they are gone.
    drop(held);
    let mut rounds = 0;
    while labels.counts().used > 1 {
        labels.finish_round(&HashSet::new()).expect("to finish");
        rounds += 1;
        assert!(rounds < 64, "{:?}", labels.counts());
    }
    let after = labels.issue(&named("one-more.test"));
    assert_eq!(
        labels.names(after.id()).as_deref(),
        Some(&named("one-more.test"))
    );
}
