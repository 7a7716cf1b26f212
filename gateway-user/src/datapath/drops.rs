// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Drops by the interface that packets came in by.

use std::collections::{BTreeMap, BTreeSet};

use aya::{
    Ebpf,
    maps::{MapData, MapError, PerCpuHashMap, PerCpuValues},
    util::nr_cpus,
};
use gateway_common::{
    counters::InterfaceDrops, drop_reason::DropReason, names::MAP_INTERFACE_DROPS,
};

use crate::datapath::{
    DatapathError,
    maps::{failed, typed},
};

/// `BPF_NOEXIST`: an entry that is there stays as it is.
const NOEXIST: u64 = 1;

/// Packets by reason; reasons without one are left out.
pub type Drops = BTreeMap<&'static str, u64>;

/// INTERFACE_DROPS.
pub struct DropsByInterface(PerCpuHashMap<MapData, u32, InterfaceDrops>);

impl DropsByInterface {
    /// Takes the map out of a loaded object.
    ///
    /// # Errors
    /// When it is missing or of another type.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self(typed(ebpf, MAP_INTERFACE_DROPS)?))
    }

    /// By index of the interface.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn read(&self) -> Result<BTreeMap<u32, Drops>, DatapathError> {
        let entries = self.0.iter().map(|entry| {
            let (index, cpus) = entry.map_err(failed(MAP_INTERFACE_DROPS, "read", "all"))?;
            let reasons = DropReason::ALL.into_iter().map(|reason| {
                let packets = cpus.iter().map(|cpu| cpu.packets[reason as usize]);
                (reason.name(), packets.fold(0, u64::wrapping_add))
            });
            let drops = reasons.filter(|(_, packets)| *packets > 0).collect();
            Ok((index, drops))
        });
        entries.collect()
    }

    /// Counts at these interfaces from now on, and forgets all others, whose
    /// indices the kernel may give out again.
    ///
    /// # Errors
    /// When the map cannot be changed; with too many interfaces the rest is not
    /// counted.
    pub fn follow(&mut self, wanted: &BTreeSet<u32>) -> Result<(), DatapathError> {
        let there: BTreeSet<u32> = self.0.keys().filter_map(Result::ok).collect();
        for index in there.difference(wanted) {
            match self.0.remove(index) {
                Err(MapError::KeyNotFound) => {}
                other => other.map_err(failed(MAP_INTERFACE_DROPS, "remove", index))?,
            }
        }
        for index in wanted.difference(&there) {
            let mut add = || -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
                let cpus = nr_cpus().map_err(|(path, error)| format!("{path}: {error}"))?;
                let zero = PerCpuValues::try_from(vec![InterfaceDrops::default(); cpus])?;
                Ok(self.0.insert(index, zero, NOEXIST)?)
            };
            add().map_err(failed(MAP_INTERFACE_DROPS, "add", index))?;
        }
        Ok(())
    }
}
