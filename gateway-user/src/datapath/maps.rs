// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The maps by type: the only file, beside `flow_keys`, that names aya's.

use std::{
    fmt::Display,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues, Queue, SockMap},
    util::nr_cpus,
};
use gateway_common::{
    backend::Backend,
    counters::{Count, Stats},
    names::{
        MAP_BACKEND_STATS, MAP_BACKENDS, MAP_DROPS, MAP_FLOW_SLOTS, MAP_FLOWS, MAP_FREE_SLOTS,
        MAP_HALF_OPEN, MAP_LABELS, MAP_PARKED, MAP_PORT_RANGES, MAP_RINGS, MAP_SERVICE_STATS,
        MAP_SERVICES, MAP_SETTINGS, MAP_SOCKETS, MAP_SOURCE_FLOWS, MAP_SOURCES, MAP_STEER,
        MAP_VERDICTS,
    },
    port_range::{PortRanges, PortRangesKey},
    service::{ServiceKey, ServiceValue},
    settings::Settings,
    steer::{SteerKey, SteerValue},
};

use crate::{
    datapath::{
        DatapathError, Destination,
        counts::Counts,
        flow_keys::FlowKeys,
        keys,
        labels::Labels,
        ranges::{Ranges, RangesOf},
        slots::{FlowSlots, Rings},
        source_map::SourceMap,
    },
    snapshot::ListenKey,
};

/// Handles of every map.
pub struct Maps {
    free_slots: Queue<MapData, u32>,
    services: HashMap<MapData, ServiceKey, ServiceValue>,
    port_ranges: HashMap<MapData, PortRangesKey, PortRanges>,
    backends: Array<MapData, Backend>,
    service_stats: PerCpuArray<MapData, Stats>,
    backend_stats: PerCpuArray<MapData, Stats>,
    drops: PerCpuArray<MapData, Count>,
    verdicts: PerCpuArray<MapData, Count>,
    parked: PerCpuArray<MapData, u64>,
    settings: Array<MapData, Settings>,
    steer: HashMap<MapData, SteerKey, SteerValue>,
    sockets: SockMap<MapData>,
    /// FLOWS.
    pub flows: FlowKeys,
    /// HALF_OPEN and SOURCE_FLOWS as memory.
    pub counts: Counts,
    /// LABELS.
    pub labels: Arc<Labels>,
    /// SOURCES.
    pub sources: SourceMap,
    /// FLOW_SLOTS as memory.
    pub slots: FlowSlots,
    /// RINGS as memory.
    pub rings: Rings,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    /// When one is missing or of another type.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let slots = data(ebpf, MAP_FLOW_SLOTS)?;
        let rings = data(ebpf, MAP_RINGS)?;
        Ok(Self {
            free_slots: typed(ebpf, MAP_FREE_SLOTS)?,
            services: typed(ebpf, MAP_SERVICES)?,
            port_ranges: typed(ebpf, MAP_PORT_RANGES)?,
            backends: typed(ebpf, MAP_BACKENDS)?,
            service_stats: typed(ebpf, MAP_SERVICE_STATS)?,
            backend_stats: typed(ebpf, MAP_BACKEND_STATS)?,
            drops: typed(ebpf, MAP_DROPS)?,
            verdicts: typed(ebpf, MAP_VERDICTS)?,
            parked: typed(ebpf, MAP_PARKED)?,
            settings: typed(ebpf, MAP_SETTINGS)?,
            steer: typed(ebpf, MAP_STEER)?,
            sockets: typed(ebpf, MAP_SOCKETS)?,
            flows: FlowKeys::new(data(ebpf, MAP_FLOWS)?)?,
            counts: Counts::new(&data(ebpf, MAP_HALF_OPEN)?, &data(ebpf, MAP_SOURCE_FLOWS)?)?,
            labels: Labels::new(data(ebpf, MAP_LABELS)?)?,
            sources: SourceMap::take(take(ebpf, MAP_SOURCES)?)?,
            slots: FlowSlots::new(slots.fd().as_fd(), entries(&slots, MAP_FLOW_SLOTS)?)
                .map_err(failed(MAP_FLOW_SLOTS, "map into memory", "all"))?,
            rings: Rings::new(rings.fd().as_fd(), entries(&rings, MAP_RINGS)?).map_err(failed(
                MAP_RINGS,
                "map into memory",
                "all",
            ))?,
        })
    }

    /// Entries of the service map.
    pub fn max_services(&self) -> u32 {
        self.service_stats.len()
    }

    /// Entries of the backend map.
    pub fn max_backends(&self) -> u32 {
        self.backends.len()
    }

    /// Every service.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn services(&self) -> Result<Vec<(Destination, ServiceValue)>, DatapathError> {
        let entries = self.services.iter().map(|entry| {
            let (key, value) = entry?;
            Ok((keys::destination(&key), value))
        });
        entries
            .collect::<Result<_, MapError>>()
            .map_err(failed(MAP_SERVICES, "read", "all"))
    }

    /// Writes a service.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_service(
        &mut self,
        destination: Destination,
        value: ServiceValue,
    ) -> Result<(), DatapathError> {
        let key = keys::service(destination);
        self.services
            .insert(key, value, 0)
            .map_err(failed(MAP_SERVICES, "write", destination))
    }

    /// Removes a service; one that is not there is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_service(&mut self, destination: Destination) -> Result<(), DatapathError> {
        missing_is_fine(self.services.remove(&keys::service(destination))).map_err(failed(
            MAP_SERVICES,
            "remove",
            destination,
        ))
    }

    /// Every steered destination.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn steered(&self) -> Result<Vec<(ListenKey, SteerValue)>, DatapathError> {
        let entries = self.steer.iter().map(|entry| {
            let (key, value) = entry?;
            Ok((keys::listener(&key), value))
        });
        entries
            .collect::<Result<_, MapError>>()
            .map_err(failed(MAP_STEER, "read", "all"))
    }

    /// Steers a destination.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_steer(&mut self, key: ListenKey, value: SteerValue) -> Result<(), DatapathError> {
        self.steer
            .insert(keys::steer(key), value, 0)
            .map_err(failed(MAP_STEER, "write", key))
    }

    /// Stops steering a destination; one that is not there is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_steer(&mut self, key: ListenKey) -> Result<(), DatapathError> {
        missing_is_fine(self.steer.remove(&keys::steer(key)))
            .map_err(failed(MAP_STEER, "remove", key))
    }

    /// The ranges of ports of every address.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn ranges(&self) -> Result<Vec<(RangesOf, Ranges)>, DatapathError> {
        let entries = self.port_ranges.iter().map(|entry| {
            let (key, value) = entry?;
            Ok((keys::ranges_of(&key), keys::ranges(&value)))
        });
        entries
            .collect::<Result<_, MapError>>()
            .map_err(failed(MAP_PORT_RANGES, "read", "all"))
    }

    /// Says which ranges of ports an address has; none removes the entry.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_ranges(&mut self, of: RangesOf, ranges: &Ranges) -> Result<(), DatapathError> {
        let key = keys::of_ranges(of);
        if ranges.is_empty() {
            return missing_is_fine(self.port_ranges.remove(&key)).map_err(failed(
                MAP_PORT_RANGES,
                "remove",
                of,
            ));
        }
        self.port_ranges
            .insert(key, keys::port_ranges(ranges), 0)
            .map_err(failed(MAP_PORT_RANGES, "write", of))
    }

    /// A backend's entry.
    ///
    /// # Errors
    /// When the id is beyond the map.
    pub fn backend(&self, id: u32) -> Result<Backend, DatapathError> {
        self.backends
            .get(&id, 0)
            .map_err(failed(MAP_BACKENDS, "read", id))
    }

    /// Writes a backend's entry.
    ///
    /// # Errors
    /// When the id is beyond the map.
    pub fn set_backend(&mut self, id: u32, backend: Backend) -> Result<(), DatapathError> {
        self.backends
            .set(id, backend, 0)
            .map_err(failed(MAP_BACKENDS, "write", id))
    }

    /// The settings.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn settings(&self) -> Result<Settings, DatapathError> {
        self.settings
            .get(&0, 0)
            .map_err(failed(MAP_SETTINGS, "read", 0))
    }

    /// Writes the settings.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_settings(&mut self, settings: Settings) -> Result<(), DatapathError> {
        self.settings
            .set(0, settings, 0)
            .map_err(failed(MAP_SETTINGS, "write", 0))
    }

    /// Puts a listening socket at `index`.
    ///
    /// # Errors
    /// When the kernel refuses, as it does for a socket that does not listen.
    pub fn set_socket(&mut self, index: u32, socket: BorrowedFd<'_>) -> Result<(), DatapathError> {
        self.sockets
            .set(index, &socket, 0)
            .map_err(failed(MAP_SOCKETS, "write", index))
    }

    /// Removes every socket from `index` on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn clear_sockets_from(&mut self, index: u32) -> Result<(), DatapathError> {
        let stale: Vec<u32> = self
            .sockets
            .indices()
            .filter_map(Result::ok)
            .filter(|other| *other >= index)
            .collect();
        for index in stale {
            // A closed socket has left the map by itself; reading an index says
            // nothing about whether it is taken.
            match self.sockets.clear_index(&index) {
                Err(MapError::SyscallError(error))
                    if matches!(
                        error.io_error.raw_os_error(),
                        Some(libc::EINVAL | libc::ENOENT)
                    ) => {}
                other => missing_is_fine(other).map_err(failed(MAP_SOCKETS, "remove", index))?,
            }
        }
        Ok(())
    }

    /// Gives a slot to the programs.
    ///
    /// # Errors
    /// When the queue is full, which means that a slot is in it twice.
    pub fn push_free_slot(&mut self, slot: u32) -> Result<(), DatapathError> {
        self.free_slots
            .push(slot, 0)
            .map_err(failed(MAP_FREE_SLOTS, "add", slot))
    }

    /// Takes the slot that would be used next; none when no slot is free.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn pop_free_slot(&mut self) -> Result<Option<u32>, DatapathError> {
        match self.free_slots.pop(0) {
            Ok(slot) => Ok(Some(slot)),
            Err(MapError::ElementNotFound) => Ok(None),
            Err(error) => Err(failed(MAP_FREE_SLOTS, "take", "the first")(error)),
        }
    }

    /// Statistics of a service, summed over CPUs.
    ///
    /// # Errors
    /// When the id is beyond the map.
    pub fn service_stats(&self, id: u32) -> Result<Stats, DatapathError> {
        sum(&self.service_stats, id).map_err(failed(MAP_SERVICE_STATS, "read", id))
    }

    /// Statistics of a backend, summed over CPUs.
    ///
    /// # Errors
    /// When the id is beyond the map.
    pub fn backend_stats(&self, id: u32) -> Result<Stats, DatapathError> {
        sum(&self.backend_stats, id).map_err(failed(MAP_BACKEND_STATS, "read", id))
    }

    /// Zeroes the statistics of a service.
    ///
    /// # Errors
    /// When the id is beyond the map.
    pub fn clear_service_stats(&mut self, id: u32) -> Result<(), DatapathError> {
        zero(&mut self.service_stats, id).map_err(failed(MAP_SERVICE_STATS, "clear", id))
    }

    /// Zeroes the statistics of a backend.
    ///
    /// # Errors
    /// When the id is beyond the map.
    pub fn clear_backend_stats(&mut self, id: u32) -> Result<(), DatapathError> {
        zero(&mut self.backend_stats, id).map_err(failed(MAP_BACKEND_STATS, "clear", id))
    }

    /// Packets dropped for the reason with this number.
    ///
    /// # Errors
    /// When the number is beyond the map.
    pub fn drops(&self, reason: u32) -> Result<Count, DatapathError> {
        count(&self.drops, reason).map_err(failed(MAP_DROPS, "read", reason))
    }

    /// Packets with the verdict of this number.
    ///
    /// # Errors
    /// When the number is beyond the map.
    pub fn verdicts(&self, verdict: u32) -> Result<Count, DatapathError> {
        count(&self.verdicts, verdict).map_err(failed(MAP_VERDICTS, "read", verdict))
    }
}

impl Maps {
    /// Packets that waited while a connection was handed off.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn parked(&self) -> Result<u64, DatapathError> {
        let values = self.parked.get(&0, 0);
        let values = values.map_err(failed(MAP_PARKED, "read", 0))?;
        Ok(values.iter().fold(0, |sum, cpu| sum.wrapping_add(*cpu)))
    }
}

fn sum(map: &PerCpuArray<MapData, Stats>, id: u32) -> Result<Stats, MapError> {
    let values = map.get(&id, 0)?;
    Ok(values.iter().fold(Stats::default(), |total, cpu| Stats {
        flows: total.flows.wrapping_add(cpu.flows),
        refused: total.refused.wrapping_add(cpu.refused),
        packets_in: total.packets_in.wrapping_add(cpu.packets_in),
        bytes_in: total.bytes_in.wrapping_add(cpu.bytes_in),
        packets_out: total.packets_out.wrapping_add(cpu.packets_out),
        bytes_out: total.bytes_out.wrapping_add(cpu.bytes_out),
    }))
}

fn count(map: &PerCpuArray<MapData, Count>, index: u32) -> Result<Count, MapError> {
    let values = map.get(&index, 0)?;
    Ok(values.iter().fold(Count::default(), |total, cpu| Count {
        packets: total.packets.wrapping_add(cpu.packets),
        bytes: total.bytes.wrapping_add(cpu.bytes),
    }))
}

fn zero(
    map: &mut PerCpuArray<MapData, Stats>,
    id: u32,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let cpus = nr_cpus().map_err(|(path, error)| format!("{path}: {error}"))?;
    let values = PerCpuValues::try_from(vec![Stats::default(); cpus])?;
    Ok(map.set(id, values, 0)?)
}

pub fn missing_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, DatapathError> {
    ebpf.take_map(name).ok_or_else(|| DatapathError::Load {
        what: name.to_owned(),
        cause: "the object has no such map".into(),
    })
}

/// A map by its type.
///
/// # Errors
/// When it is missing or of another type.
pub(super) fn typed<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, DatapathError>
where
    M: TryFrom<Map, Error = MapError>,
{
    into_typed(take(ebpf, name)?, name)
}

/// A map as the type it is used as.
pub fn into_typed<M>(map: Map, name: &'static str) -> Result<M, DatapathError>
where
    M: TryFrom<Map, Error = MapError>,
{
    map.try_into()
        .map_err(|error: MapError| DatapathError::Load {
            what: name.to_owned(),
            cause: error.into(),
        })
}

fn data(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, DatapathError> {
    match take(ebpf, name)? {
        Map::Array(data) | Map::HashMap(data) => Ok(data),
        _ => Err(other_type(name)),
    }
}

pub fn other_type(name: &'static str) -> DatapathError {
    DatapathError::Load {
        what: name.to_owned(),
        cause: "the object has another type of map under this name".into(),
    }
}

pub fn entries(data: &MapData, name: &'static str) -> Result<u32, DatapathError> {
    Ok(data
        .info()
        .map_err(failed(name, "describe", "all"))?
        .max_entries())
}

/// For `map_err`: a failed operation on a map.
pub fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    map: &'static str,
    operation: &'static str,
    key: impl Display,
) -> impl FnOnce(E) -> DatapathError {
    let key = key.to_string();
    move |error| DatapathError::Map {
        map,
        operation,
        key,
        cause: error.into(),
    }
}
