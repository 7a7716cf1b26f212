// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the programs did, beside what the model says.

use std::fmt::Write;

use aya::maps::{HashMap, MapData, PerCpuArray};
use gateway_common::{
    counters::{Count, Stats, VERDICT_COUNTERS, VerdictCounter},
    drop_reason::{DROP_REASON_SLOTS, DropReason},
    flow::{DIR_TO_BACKEND, DIR_TO_CLIENT, FlowKey, FlowRef, FlowSlot, KIND_DSR},
    fragment::{FragmentKey, FragmentValue},
    guard::{HALF_OPEN_NODE, half_open_index},
    limit::SourceId,
    names,
    tcp_state::{FLAG_FIN, FLAG_RST, FLAG_SYN},
};

use super::{UNGIVEN, UNREACHED, handoffs};
use crate::{
    lab::{Action, Hook, Lab, Outcome},
    model::{Expected, Model, flow},
    packet::hex,
};

/// All that was counted by verdict and by drop reason.
#[derive(Clone)]
pub struct Totals {
    hook: Hook,
    verdicts: Vec<Count>,
    drops: Vec<Count>,
}

/// What one packet was counted as: the counters that rose, by how much.
#[derive(Debug, PartialEq, Eq)]
pub struct Counted {
    verdicts: Vec<(u32, Count)>,
    drops: Vec<(u32, Count)>,
}

impl Totals {
    pub fn read(lab: &Lab) -> Self {
        let read = |name: &str, entries: u32| {
            let map: PerCpuArray<_, Count> = lab.ebpf.map(name).unwrap().try_into().unwrap();
            let sum = |index: u32| {
                let values = map.get(&index, 0).unwrap();
                values.iter().fold(Count::default(), |sum, cpu| Count {
                    packets: sum.packets + cpu.packets,
                    bytes: sum.bytes + cpu.bytes,
                })
            };
            (0..entries).map(sum).collect()
        };
        Self {
            hook: lab.hook,
            verdicts: read(names::MAP_VERDICTS, VERDICT_COUNTERS),
            drops: read(names::MAP_DROPS, DROP_REASON_SLOTS),
        }
    }

    /// Reads again: what has risen since.
    pub fn advance(&mut self, lab: &Lab) -> Counted {
        let now = Self::read(lab);
        let risen = |new: &[Count], old: &[Count]| {
            let pairs = new.iter().zip(old).zip(0..);
            let changed = pairs.filter(|((new, old), _)| new != old);
            changed
                .map(|((new, old), index)| {
                    let packets = new.packets - old.packets;
                    let bytes = new.bytes - old.bytes;
                    (index, Count { packets, bytes })
                })
                .collect()
        };
        let counted = Counted {
            verdicts: risen(&now.verdicts, &self.verdicts),
            drops: risen(&now.drops, &self.drops),
        };
        *self = now;
        counted
    }

    /// Prints how often each end was met.
    pub fn report(&self) {
        for (counter, name) in VerdictCounter::ALL {
            eprintln!("  {name}: {}", self.verdicts[counter as usize].packets);
        }
        for reason in DropReason::ALL {
            eprintln!(
                "    {}: {}",
                reason.name(),
                self.drops[reason as usize].packets
            );
        }
    }

    /// A test of this kind that meets nothing proves nothing: every end that can
    /// be reached was, and most packets were not strangers.
    pub fn assert_wide(&self) {
        let all: u64 = self.verdicts.iter().map(|count| count.packets).sum();
        if all < 50_000 {
            return;
        }
        let met = |counter: VerdictCounter| self.verdicts[counter as usize].packets;
        for (counter, name) in VerdictCounter::ALL {
            let never = UNGIVEN.contains(&counter)
                || self.hook == Hook::Tc
                    && [VerdictCounter::NeighbourMiss, VerdictCounter::EgressMiss]
                        .contains(&counter);
            assert_eq!(met(counter) == 0, never, "{name}");
        }
        for reason in DropReason::ALL {
            let never = UNREACHED.contains(&reason);
            assert_eq!(
                self.drops[reason as usize].packets == 0,
                never,
                "{}",
                reason.name()
            );
        }
        assert!(met(VerdictCounter::Forwarded) > all / 6);
    }
}

/// Compares what came out of one run.
pub fn outcome(
    expected: &Expected,
    outcome: &Outcome,
    counted: &Counted,
    frame_len: usize,
) -> Result<(), String> {
    let one = Count {
        packets: 1,
        bytes: frame_len as u64,
    };
    let expected_counts = Counted {
        verdicts: vec![(expected.verdict as u32, one)],
        drops: expected
            .drop
            .iter()
            .map(|&reason| (reason as u32, one))
            .collect(),
    };
    let mut frame = outcome.frame.clone();
    for &at in &expected.loose {
        let field = |bytes: &[u8]| bytes.get(at..at + 2).map(|it| [it[0], it[1]]);
        let zero = |pair: Option<[u8; 2]>| matches!(pair, Some([0, 0] | [0xff, 0xff]));
        if zero(field(&frame)) && zero(field(&expected.frame)) {
            frame[at..at + 2].copy_from_slice(&expected.frame[at..at + 2]);
        }
    }
    let same_frame = expected.action == Action::Drop || frame == expected.frame;
    if expected.action == outcome.action && *counted == expected_counts && same_frame {
        return Ok(());
    }
    let mut text = format!(
        "expected {:?}, {:?}{}\n  actual {:?}, counted {counted:?}\n",
        expected.action,
        expected.verdict,
        expected
            .drop
            .map_or(String::new(), |reason| format!(" ({reason:?})")),
        outcome.action,
    );
    if !same_frame {
        let (wanted, got) = (hex(&expected.frame), hex(&outcome.frame));
        for (index, line) in wanted.iter().enumerate() {
            let actual = got.get(index).map_or("", String::as_str);
            if line != actual {
                let at = 16 * index;
                let _ = writeln!(text, "at {at}:\nexpected {line}\n  actual {actual}");
            }
        }
        let _ = writeln!(
            text,
            "  {} and {} bytes",
            expected.frame.len(),
            outcome.frame.len()
        );
    }
    Err(text)
}

/// Compares all that the programs keep.
pub fn state(lab: &mut Lab, model: &Model) -> Result<(), String> {
    slots(lab, model)?;
    keys(lab, model)?;
    free_list(lab, model)?;
    fragments(lab, model)?;
    counts(lab, model)?;
    let services = &model.service_stats;
    let backends = &model.backend_stats;
    for (name, stats) in [
        (names::MAP_SERVICE_STATS, services),
        (names::MAP_BACKEND_STATS, backends),
    ] {
        let map: PerCpuArray<_, Stats> = lab.ebpf.map(name).unwrap().try_into().unwrap();
        for (&id, expected) in stats {
            let actual = sum(&map, id);
            same(&format!("{name} of {id}"), expected, &actual)?;
        }
    }
    Ok(())
}

fn sum(map: &PerCpuArray<&MapData, Stats>, id: u32) -> Stats {
    let values = map.get(&id, 0).unwrap();
    values.iter().fold(Stats::default(), |sum, cpu| Stats {
        flows: sum.flows + cpu.flows,
        refused: sum.refused + cpu.refused,
        packets_in: sum.packets_in + cpu.packets_in,
        bytes_in: sum.bytes_in + cpu.bytes_in,
        packets_out: sum.packets_out + cpu.packets_out,
        bytes_out: sum.bytes_out + cpu.bytes_out,
    })
}

fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: &T,
    actual: &T,
) -> Result<(), String> {
    if expected == actual {
        return Ok(());
    }
    Err(format!(
        "{what}:\nexpected {expected:?}\n  actual {actual:?}"
    ))
}

fn slots(lab: &mut Lab, model: &Model) -> Result<(), String> {
    for (&index, expected) in &model.flows.slots {
        let actual = lab.slot(index);
        let what = format!("slot {index}");
        same(
            &format!("{what}: state and generation"),
            &[expected.state, expected.generation],
            &[actual.state, actual.generation],
        )?;
        if !expected.dir.is_empty() {
            slot(&what, expected, &actual)?;
            handoffs::compare(&what, expected, &actual)?;
        }
    }
    Ok(())
}

fn slot(what: &str, expected: &flow::Slot, actual: &FlowSlot) -> Result<(), String> {
    same(
        &format!("{what}: kind, progress, service, backend, configuration, timeout"),
        &[
            expected.kind,
            expected.progress,
            expected.service_id,
            expected.backend_id,
            expected.config_generation,
            expected.timeout_s,
        ],
        &[
            actual.kind,
            actual.tcp_state,
            actual.service_id,
            actual.backend_id,
            actual.config_generation,
            actual.established_timeout_s,
        ],
    )?;
    same(
        &format!("{what}: created"),
        &true,
        &(actual.created_ns != 0),
    )?;
    let actual_kind = actual.kind;
    let keys = [DIR_TO_BACKEND, DIR_TO_CLIENT].map(|direction| actual.key(direction));
    for (way, (expected, actual)) in expected.dir.iter().zip(&actual.dir).enumerate() {
        let what = format!("{what}, direction {way}");
        let key = expected.key.key();
        // Of a wrapped flow nothing comes back.
        if actual_kind != KIND_DSR || way == DIR_TO_BACKEND as usize {
            same(&format!("{what}: key"), &key, &keys[way])?;
        }
        let to = FlowKey {
            src: actual.new_src,
            dst: actual.new_dst,
            src_port_be: actual.new_src_port_be,
            dst_port_be: actual.new_dst_port_be,
            ..key
        };
        same(&format!("{what}: translation"), &expected.to.key(), &to)?;
        same(
            &format!("{what}: packets and bytes"),
            &[expected.packets, expected.bytes],
            &[actual.packets, actual.bytes],
        )?;
        let flags = actual.tcp_flags_seen & (FLAG_FIN | FLAG_SYN | FLAG_RST);
        same(&format!("{what}: flags"), &expected.flags, &flags)?;
        same(
            &format!("{what}: numbers"),
            &[expected.seq_end, expected.ack],
            &[actual.seq_end, actual.ack],
        )?;
        let seen = actual.last_seen_ns != 0;
        same(&format!("{what}: seen"), &(expected.packets != 0), &seen)?;
    }
    let seen = actual.dir.map(|dir| dir.last_seen_ns);
    let in_order = seen
        .iter()
        .all(|&seen| seen == 0 || seen >= actual.created_ns);
    same(&format!("{what}: seen after creation"), &true, &in_order)
}

fn keys(lab: &Lab, model: &Model) -> Result<(), String> {
    for (tuple, expected) in &model.flows.keys {
        let expected = FlowRef {
            slot: expected.slot,
            generation: expected.generation,
            direction: expected.way as u32,
        };
        same(
            &format!("{tuple:?}"),
            &Some(expected),
            &lab.flow(&tuple.key()),
        )?;
    }
    same("keys", &model.flows.keys.len(), &lab.flow_keys())
}

/// What limits count. That a place is of a source that has none left is no
/// matter.
fn counts(lab: &mut Lab, model: &Model) -> Result<(), String> {
    let counts = &model.flows.counts;
    let all = counts.all_half_open();
    same("half-open", &i64::from(all), &lab.half_open(HALF_OPEN_NODE))?;
    for (&service, &expected) in &counts.half_open {
        let actual = lab.half_open(half_open_index(service));
        let what = format!("half-open of service {service}");
        same(&what, &i64::from(expected), &actual)?;
    }
    let mut found = 0;
    for (&(service_id, prefix), &expected) in &counts.of_source {
        let source = SourceId {
            addr: prefix.into(),
            service_id,
        };
        let actual = lab.source_flows(&source, &model.settings.limits);
        same(&format!("flows of {prefix}"), &expected, &actual)?;
        found += expected;
    }
    same("flows of all sources", &found, &lab.all_source_flows())
}

/// Takes the whole list, which the next map state fills again.
fn free_list(lab: &mut Lab, model: &Model) -> Result<(), String> {
    let list: Vec<u32> = std::iter::from_fn(|| lab.pop_free_slot()).collect();
    let expected: Vec<u32> = model.flows.free.iter().copied().collect();
    same("free slots", &expected, &list)
}

fn fragments(lab: &Lab, model: &Model) -> Result<(), String> {
    let map = lab.ebpf.map(names::MAP_FRAGMENTS).unwrap();
    let map: HashMap<_, FragmentKey, FragmentValue> = map.try_into().unwrap();
    for (packet, first) in &model.fragments.packets {
        let actual = map.get(&packet.key(), 0).ok();
        let actual = actual.map(|it| (it.src_port_be, it.dst_port_be, it.proto));
        let key = first.tuple.key();
        let expected = (key.src_port_be, key.dst_port_be, key.proto);
        same(&format!("{packet:?}"), &Some(expected), &actual)?;
    }
    same(
        "fragments",
        &model.fragments.packets.len(),
        &map.keys().count(),
    )
}
