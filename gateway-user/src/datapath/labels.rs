// SPDX-License-Identifier: Apache-2.0 OR MIT
//! LABELS: the names of handed-off connections, by the number in their slot.
//!
//! Connections that are alike share a label. It is written before the first slot
//! that has its number, and taken away when a whole round of sweeps, begun after
//! it was last given out, has found no slot with it. Another agent, which is
//! finishing what it relays, gives out labels at the same time. So nobody trusts
//! the map to be as it was left: who gives one out looks again once its slot can
//! be found, and who has taken one away puts it back when the next round finds a
//! slot with it. Numbers are not used again.

use std::{
    collections::{HashMap as Table, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aya::maps::{HashMap, Map, MapData, MapError};
use gateway_common::{
    label::{Label, MODE_FORWARD, MODE_PASSTHROUGH, NO_LABEL},
    limits::RESERVED_LABELS,
    names::MAP_LABELS,
};

use crate::datapath::{
    DatapathError,
    maps::{entries, failed, missing_is_fine},
    relayed::{ConnectionNames, RelayMode},
};

/// `BPF_NOEXIST` of `linux/bpf.h`.
const NOEXIST: u64 = 1;
/// Numbers tried for one label; another agent may have taken some.
const NUMBER_TRIES: u32 = 16;
/// Labels taken away, or looked up, in one round.
const PER_ROUND: usize = 1_024;

/// The labels; shared by all threads.
#[derive(Debug)]
pub struct Labels(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    map: HashMap<MapData, u32, Label>,
    capacity: usize,
    known: Table<u32, Known>,
    numbers: Table<Arc<ConnectionNames>, u32>,
    /// Of those known.
    in_map: usize,
    next: u32,
    /// Rounds that are over.
    round: u64,
    counts: LabelCounts,
}

#[derive(Debug)]
struct Known {
    names: Arc<ConnectionNames>,
    /// [`Issued`] ones.
    holders: u32,
    /// The round in which it was last of use, or taken away.
    round: u64,
    is_in_map: bool,
}

/// For reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LabelCounts {
    /// In use.
    pub used: u32,
    /// Connections since start whose label was left out, all of it or its server
    /// name: there were too many.
    pub refused: u64,
}

/// A label that is not taken away while this is held: until its number is in a
/// slot.
#[derive(Debug)]
pub struct Issued {
    labels: Arc<Labels>,
    id: u32,
}

impl Labels {
    /// Takes the map over, with what is in it.
    ///
    /// # Errors
    /// When it is another map, or cannot be read.
    pub fn new(data: MapData) -> Result<Arc<Self>, DatapathError> {
        let capacity = entries(&data, MAP_LABELS)? as usize;
        let map: HashMap<MapData, u32, Label> = Map::HashMap(data)
            .try_into()
            .map_err(failed(MAP_LABELS, "describe", "all"))?;
        let found: Vec<(u32, Label)> = map
            .iter()
            .collect::<Result<_, MapError>>()
            .map_err(failed(MAP_LABELS, "read", "all"))?;
        let mut inner = Inner {
            map,
            capacity,
            known: Table::new(),
            numbers: Table::new(),
            in_map: 0,
            next: fastrand::u32(..),
            round: 0,
            counts: LabelCounts::default(),
        };
        for (id, label) in found {
            inner.learn(id, names(&label));
        }
        Ok(Arc::new(Self(Mutex::new(inner))))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A label for `wanted`; where there are too many, one without its server
    /// name, or none.
    pub fn issue(self: &Arc<Self>, wanted: &ConnectionNames) -> Issued {
        let id = self.lock().issue(wanted);
        Issued {
            labels: Arc::clone(self),
            id,
        }
    }

    /// The names that a number stands for.
    pub fn names(&self, id: u32) -> Option<Arc<ConnectionNames>> {
        if id == NO_LABEL {
            return None;
        }
        self.lock().names(id)
    }

    /// A round of sweeps through the whole table is over, and has found slots
    /// with these numbers.
    ///
    /// # Errors
    /// When the map cannot be changed; the next round tries again.
    pub fn finish_round(&self, found: &HashSet<u32>) -> Result<(), DatapathError> {
        self.lock().finish_round(found)
    }

    /// For reports.
    pub fn counts(&self) -> LabelCounts {
        let inner = self.lock();
        LabelCounts {
            used: inner.in_map as u32,
            ..inner.counts
        }
    }
}

impl Inner {
    fn learn(&mut self, id: u32, names: ConnectionNames) -> Arc<ConnectionNames> {
        let names = Arc::new(names);
        self.numbers.insert(Arc::clone(&names), id);
        let known = Known {
            names: Arc::clone(&names),
            holders: 0,
            round: self.round,
            is_in_map: true,
        };
        self.in_map += 1;
        self.known.insert(id, known);
        names
    }

    fn names(&mut self, id: u32) -> Option<Arc<ConnectionNames>> {
        if let Some(known) = self.known.get(&id) {
            return Some(Arc::clone(&known.names));
        }
        // Another agent has given it out.
        let label = self.map.get(&id, 0).ok()?;
        Some(self.learn(id, names(&label)))
    }

    fn issue(&mut self, wanted: &ConnectionNames) -> u32 {
        // As they will be found in the map: cut.
        let whole = names(&label(wanted));
        let reserved = (RESERVED_LABELS as usize).min(self.capacity / 2);
        let mut found = self.number(&whole, self.capacity - reserved);
        if found.is_none() {
            let bare = ConnectionNames {
                sni: None,
                alpn: None,
                ..whole.clone()
            };
            found = self.number(&bare, self.capacity);
            self.counts.refused += u64::from(found.is_none() || bare != whole);
        }
        let Some(id) = found else {
            return NO_LABEL;
        };
        if let Some(known) = self.known.get_mut(&id) {
            known.holders += 1;
        }
        id
    }

    /// The number of a label; of a new one while there are less than `room`.
    fn number(&mut self, wanted: &ConnectionNames, room: usize) -> Option<u32> {
        self.find(wanted).or_else(|| self.add(wanted, room))
    }

    fn find(&self, wanted: &ConnectionNames) -> Option<u32> {
        let id = *self.numbers.get(wanted)?;
        self.known.get(&id)?.is_in_map.then_some(id)
    }

    fn add(&mut self, wanted: &ConnectionNames, room: usize) -> Option<u32> {
        if self.in_map >= room {
            return None;
        }
        let label = label(wanted);
        for _ in 0..NUMBER_TRIES {
            self.next = self.next.wrapping_add(1);
            let id = self.next;
            if id == NO_LABEL || self.known.contains_key(&id) {
                continue;
            }
            match self.map.insert(id, label, NOEXIST) {
                Ok(()) => {
                    self.learn(id, wanted.clone());
                    return Some(id);
                }
                Err(MapError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::EEXIST) => {}
                // Full, of labels that another agent has left.
                Err(_) => return None,
            }
        }
        None
    }

    /// Writes a label that should be in the map, if it is not.
    fn restore(&mut self, id: u32) -> Result<(), MapError> {
        let Some(known) = self.known.get_mut(&id) else {
            return Ok(());
        };
        match self.map.insert(id, label(&known.names), NOEXIST) {
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EEXIST) => {}
            other => other?,
        }
        if !known.is_in_map {
            known.is_in_map = true;
            self.in_map += 1;
            self.numbers.insert(Arc::clone(&known.names), id);
        }
        Ok(())
    }

    fn release(&mut self, id: u32) {
        if let Some(known) = self.known.get_mut(&id) {
            known.holders = known.holders.saturating_sub(1);
            known.round = self.round;
        }
    }

    fn finish_round(&mut self, found: &HashSet<u32>) -> Result<(), DatapathError> {
        let round = self.round;
        let mut lost = Vec::new();
        let mut over = Vec::new();
        for (id, known) in &mut self.known {
            if found.contains(id) {
                known.round = round;
                if !known.is_in_map {
                    lost.push(*id);
                }
            } else if known.holders == 0 && known.round < round {
                over.push(*id);
            }
        }
        for id in lost {
            self.restore(id).map_err(failed(MAP_LABELS, "write", id))?;
        }
        for id in over.into_iter().take(PER_ROUND) {
            self.end(id)?;
        }
        let strange = found.iter().filter(|id| !self.known.contains_key(*id));
        let strange: Vec<u32> = strange.copied().take(PER_ROUND).collect();
        for id in strange {
            self.names(id);
        }
        self.round += 1;
        Ok(())
    }

    /// Takes a label out of the map; and a round later, when no slot has turned
    /// up with it, out of memory.
    fn end(&mut self, id: u32) -> Result<(), DatapathError> {
        let Some(known) = self.known.get_mut(&id) else {
            return Ok(());
        };
        if self.numbers.get(&known.names) == Some(&id) {
            self.numbers.remove(&known.names);
        }
        if !known.is_in_map {
            self.known.remove(&id);
            return Ok(());
        }
        missing_is_fine(self.map.remove(&id)).map_err(failed(MAP_LABELS, "remove", id))?;
        known.is_in_map = false;
        known.round = self.round;
        self.in_map -= 1;
        Ok(())
    }
}

impl Issued {
    /// The number for the slot.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The number is in a slot that can be found: makes sure that it is in the
    /// map as well.
    pub fn confirm(&self) {
        if self.id == NO_LABEL {
            return;
        }
        // Fails where the map is full: an unknown name then.
        let _ = self.labels.lock().restore(self.id);
    }
}

impl Drop for Issued {
    fn drop(&mut self) {
        self.labels.lock().release(self.id);
    }
}

/// A label as it is in the map.
fn label(names: &ConnectionNames) -> Label {
    let ConnectionNames {
        mode,
        sni,
        alpn,
        rule,
        cluster,
    } = names;
    Label {
        mode: match mode {
            RelayMode::Passthrough => MODE_PASSTHROUGH,
            RelayMode::Forward => MODE_FORWARD,
        },
        sni: field(head(sni, 256)),
        alpn: field(head(alpn, 32)),
        rule: field(tail(rule, 256)),
        cluster: field(head(cluster, 256)),
    }
}

fn names(label: &Label) -> ConnectionNames {
    ConnectionNames {
        mode: if label.mode == MODE_FORWARD {
            RelayMode::Forward
        } else {
            RelayMode::Passthrough
        },
        sni: text(&label.sni),
        alpn: text(&label.alpn),
        rule: text(&label.rule),
        cluster: text(&label.cluster),
    }
}

/// As much of the beginning of a text as `room` bytes hold.
fn head(text: &Option<String>, room: usize) -> &str {
    let text = text.as_deref().unwrap_or_default();
    &text[..text.floor_char_boundary(room)]
}

/// As much of its end.
fn tail(text: &Option<String>, room: usize) -> &str {
    let text = text.as_deref().unwrap_or_default();
    &text[text.ceil_char_boundary(text.len().saturating_sub(room))..]
}

fn field<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for (byte, of_text) in bytes.iter_mut().zip(text.bytes()) {
        *byte = of_text;
    }
    bytes
}

fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0);
    let bytes = &bytes[..end.unwrap_or(bytes.len())];
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{ConnectionNames, RelayMode, label, names};

    #[test]
    fn names_come_back_as_they_were_or_cut() {
        let of = |length: usize| ConnectionNames {
            mode: RelayMode::Passthrough,
            sni: Some("a".repeat(length)),
            alpn: Some("h2".to_owned()),
            rule: Some(format!("{}.yaml:17", "d".repeat(length))),
            cluster: None,
        };
        assert_eq!(names(&label(&of(100))), of(100));
        let long = names(&label(&of(300)));
        assert_eq!(long.sni, Some("a".repeat(256)));
        let rule = long.rule.expect("a rule");
        assert!(rule.len() == 256 && rule.ends_with("d.yaml:17"), "{rule}");
        let wide = ConnectionNames {
            mode: RelayMode::Forward,
            sni: None,
            alpn: None,
            rule: Some("\u{e9}".repeat(200)),
            cluster: Some("\u{20ac}".repeat(100)),
        };
        let cut = names(&label(&wide));
        assert_eq!(cut.mode, RelayMode::Forward);
        // Two and three bytes a letter: none is cut through.
        assert_eq!(cut.rule, Some("\u{e9}".repeat(128)));
        assert_eq!(cut.cluster, Some("\u{20ac}".repeat(85)));
        assert_eq!(names(&label(&cut)), cut);
    }
}
