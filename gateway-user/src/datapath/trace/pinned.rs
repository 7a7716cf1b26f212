// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The pinned maps, read only.

use std::{io, os::fd::AsFd, path::Path};

use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, lpm_trie::Key},
};
use gateway_common::{
    addr::Addr16,
    backend::Backend,
    flow::{FlowKey, FlowRef, FlowSlot, SLOT_FREE},
    guard::NodeLimits,
    limit::SourceId,
    maglev::chunk_of,
    names::{
        MAP_BACKENDS, MAP_FLOW_SLOTS, MAP_FLOWS, MAP_HALF_OPEN, MAP_NEW_FLOWS, MAP_PORT_RANGES,
        MAP_RINGS, MAP_SERVICES, MAP_SETTINGS, MAP_SOURCE_FLOWS, MAP_SOURCE_RATES, MAP_SOURCES,
        MAP_STEER, MAP_VERIFIED, MAP_XDP_EGRESS,
    },
    port_range::{PortRange, PortRanges, PortRangesKey, RANGES_OF_SERVICES, RANGES_OF_STEERED},
    service::{RingChunk, ServiceKey, ServiceValue},
    settings::Settings,
    source::{SOURCE_ALLOWED, SOURCE_KEY_BITS, SourceKey},
    source_flows::{SourceBucket, Spot},
    steer::{SteerKey, SteerValue},
};

use crate::datapath::{DatapathError, bpffs::Pins, error::Cause, layout, slots::FlowSlots};

/// What the programs look at.
pub struct Pinned {
    services: HashMap<MapData, ServiceKey, ServiceValue>,
    port_ranges: HashMap<MapData, PortRangesKey, PortRanges>,
    rings: Array<MapData, RingChunk>,
    backends: Array<MapData, Backend>,
    flows: HashMap<MapData, FlowKey, FlowRef>,
    slots: Array<MapData, FlowSlot>,
    all_slots: FlowSlots,
    settings: Array<MapData, Settings>,
    steer: HashMap<MapData, SteerKey, SteerValue>,
    sources: LpmTrie<MapData, SourceKey, u32>,
    half_open: Array<MapData, i64>,
    source_flows: Array<MapData, SourceBucket>,
    source_rates: HashMap<MapData, SourceId, u64>,
    verified: HashMap<MapData, Addr16, u64>,
    new_flows: Array<MapData, u64>,
    egress: HashMap<MapData, u32, u32>,
}

impl Pinned {
    /// Opens the maps of this layout.
    ///
    /// # Errors
    /// When there are none, or one is not what its name says.
    pub fn open(pins: &Pins) -> Result<Self, DatapathError> {
        let maps = pins.maps();
        if !maps.join(MAP_SETTINGS).exists() {
            return Err(DatapathError::NothingPinned { path: maps });
        }
        let slots = data(&maps, MAP_FLOW_SLOTS)?;
        let described = slots.info().map_err(failed(MAP_FLOW_SLOTS, "all"))?;
        Ok(Self {
            services: hash(&maps, MAP_SERVICES)?,
            port_ranges: hash(&maps, MAP_PORT_RANGES)?,
            rings: array(&maps, MAP_RINGS)?,
            backends: array(&maps, MAP_BACKENDS)?,
            flows: hash(&maps, MAP_FLOWS)?,
            all_slots: FlowSlots::new(slots.fd().as_fd(), described.max_entries())
                .map_err(failed(MAP_FLOW_SLOTS, "all"))?,
            slots: array(&maps, MAP_FLOW_SLOTS)?,
            settings: array(&maps, MAP_SETTINGS)?,
            steer: hash(&maps, MAP_STEER)?,
            sources: Map::from_map_data(data(&maps, MAP_SOURCES)?)
                .and_then(LpmTrie::try_from)
                .map_err(failed(MAP_SOURCES, "the pin"))?,
            half_open: array(&maps, MAP_HALF_OPEN)?,
            source_flows: array(&maps, MAP_SOURCE_FLOWS)?,
            source_rates: hash(&maps, MAP_SOURCE_RATES)?,
            verified: hash(&maps, MAP_VERIFIED)?,
            new_flows: array(&maps, MAP_NEW_FLOWS)?,
            egress: hash(&maps, MAP_XDP_EGRESS)?,
        })
    }

    /// Whether XDP redirects to an interface.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn is_egress(&self, index: u32) -> Result<bool, DatapathError> {
        Ok(look_up(&self.egress, MAP_XDP_EGRESS, &index)?.is_some())
    }

    /// The settings.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn settings(&self) -> Result<Settings, DatapathError> {
        let settings = self.settings.get(&0, 0);
        settings.map_err(failed(MAP_SETTINGS, "0"))
    }

    /// The service of a key: that of its port, else that of the range its port is
    /// in.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn service(&self, key: &FlowKey) -> Result<Option<ServiceValue>, DatapathError> {
        let of = |first: u16, last: u16| {
            let key = ServiceKey {
                addr: key.dst,
                port_be: first.to_be(),
                last_port_be: last.to_be(),
                proto: key.proto,
                _pad: [0; 3],
            };
            look_up(&self.services, MAP_SERVICES, &key)
        };
        let port = u16::from_be(key.dst_port_be);
        if let Some(found) = of(port, port)? {
            return Ok(Some(found));
        }
        match self.range(key, key.dst, RANGES_OF_SERVICES)? {
            Some(range) => of(range.first as u16, range.last as u16),
            None => Ok(None),
        }
    }

    /// The range that the port of a key is in, of those that `addr` has.
    fn range(
        &self,
        key: &FlowKey,
        addr: Addr16,
        table: u8,
    ) -> Result<Option<PortRange>, DatapathError> {
        if self.settings()?.port_ranges == 0 {
            return Ok(None);
        }
        let of = PortRangesKey {
            addr,
            proto: key.proto,
            table,
            _pad: [0; 2],
        };
        let ranges = look_up(&self.port_ranges, MAP_PORT_RANGES, &of)?;
        Ok(ranges.and_then(|ranges| ranges.find(u16::from_be(key.dst_port_be))))
    }

    /// The backend's id at a slot of a ring that starts at `chunk`; none beyond
    /// the end of the map.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn ring(&self, chunk: u32, slot: u32) -> Result<Option<u32>, DatapathError> {
        let (offset, position) = chunk_of(slot);
        let chunk = element(&self.rings, MAP_RINGS, chunk.saturating_add(offset))?;
        Ok(chunk.map(|chunk| chunk.backend_ids[position]))
    }

    /// A backend; none beyond the end of the map.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn backend(&self, id: u32) -> Result<Option<Backend>, DatapathError> {
        element(&self.backends, MAP_BACKENDS, id)
    }

    /// The slot that a key leads to and which of its directions; none when there
    /// is no such key, or the slot has since been taken by another flow.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn flow(&self, key: &FlowKey) -> Result<Option<(FlowRef, FlowSlot)>, DatapathError> {
        let Some(found) = look_up(&self.flows, MAP_FLOWS, key)? else {
            return Ok(None);
        };
        let slot = element(&self.slots, MAP_FLOW_SLOTS, found.slot)?;
        let slot = slot.filter(|slot| slot.generation == found.generation);
        Ok(slot.map(|slot| (found, slot)))
    }

    /// Slots in use, and all slots.
    pub fn occupancy(&self) -> (u32, u32) {
        let all = self.all_slots.len();
        let slots = (0..all).filter_map(|index| self.all_slots.slot(index));
        let used = slots.filter(|slot| slot.state() != SLOT_FREE).count();
        (used as u32, all)
    }

    /// Whether a source list takes an address.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn is_allowed(&self, list: u32, addr: Addr16) -> Result<bool, DatapathError> {
        let key = Key::new(SOURCE_KEY_BITS, SourceKey { list, addr });
        match self.sources.get(&key, 0) {
            Ok(verdict) => Ok(verdict == SOURCE_ALLOWED),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(failed(MAP_SOURCES, "the source")(error)),
        }
    }

    /// Half-open flows at an index of their map.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn half_open(&self, index: u32) -> Result<u32, DatapathError> {
        let count = element(&self.half_open, MAP_HALF_OPEN, index)?;
        Ok(count.unwrap_or(0).clamp(0, i64::from(u32::MAX)) as u32)
    }

    /// Flows of a source.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn source_flows(
        &self,
        source: &SourceId,
        limits: &NodeLimits,
    ) -> Result<u32, DatapathError> {
        let spot = Spot::of(source, limits.source_key, limits.source_buckets);
        let bucket = element(&self.source_flows, MAP_SOURCE_FLOWS, spot.bucket)?;
        Ok(bucket.map_or(0, |bucket| spot.flows(&bucket)))
    }

    /// When the bucket of a source is full again, monotonic nanoseconds.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn source_bucket(&self, source: &SourceId) -> Result<u64, DatapathError> {
        let full_at = look_up(&self.source_rates, MAP_SOURCE_RATES, source)?;
        Ok(full_at.unwrap_or(0))
    }

    /// When the node's bucket of new flows is full again, monotonic nanoseconds.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn node_bucket(&self) -> Result<u64, DatapathError> {
        Ok(element(&self.new_flows, MAP_NEW_FLOWS, 0)?.unwrap_or(0))
    }

    /// When a source answered a challenge, monotonic nanoseconds.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn verified(&self, source: &Addr16) -> Result<Option<u64>, DatapathError> {
        look_up(&self.verified, MAP_VERIFIED, source)
    }

    /// The sockets that a destination is steered to: those of its port, else
    /// those of a range; of the exact address, else of any.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn steer(&self, key: &FlowKey) -> Result<Option<SteerValue>, DatapathError> {
        let of = |addr, first: u16, last: u16| {
            let key = SteerKey {
                addr,
                port_be: first.to_be(),
                last_port_be: last.to_be(),
                proto: key.proto,
                _pad: [0; 3],
            };
            look_up(&self.steer, MAP_STEER, &key)
        };
        let port = u16::from_be(key.dst_port_be);
        for addr in [key.dst, Addr16::ANY] {
            if let Some(found) = of(addr, port, port)? {
                return Ok(Some(found));
            }
        }
        for addr in [key.dst, Addr16::ANY] {
            if let Some(range) = self.range(key, addr, RANGES_OF_STEERED)?
                && let Some(found) = of(addr, range.first as u16, range.last as u16)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn look_up<K: Pod, V: Pod>(
    map: &HashMap<MapData, K, V>,
    name: &'static str,
    key: &K,
) -> Result<Option<V>, DatapathError> {
    match map.get(key, 0) {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(failed(name, "the key")(error)),
    }
}

fn element<V: Pod>(
    map: &Array<MapData, V>,
    name: &'static str,
    index: u32,
) -> Result<Option<V>, DatapathError> {
    match map.get(&index, 0) {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound | MapError::OutOfBounds { .. }) => Ok(None),
        Err(error) => Err(failed(name, &index.to_string())(error)),
    }
}

fn hash<K: Pod, V: Pod>(
    maps: &Path,
    name: &'static str,
) -> Result<HashMap<MapData, K, V>, DatapathError> {
    let map = Map::from_map_data(data(maps, name)?);
    map.and_then(HashMap::try_from)
        .map_err(failed(name, "the pin"))
}

fn array<V: Pod>(maps: &Path, name: &'static str) -> Result<Array<MapData, V>, DatapathError> {
    let map = Map::from_map_data(data(maps, name)?);
    map.and_then(Array::try_from)
        .map_err(failed(name, "the pin"))
}

/// Opens a pin whose map has the sizes that this version writes.
fn data(maps: &Path, name: &'static str) -> Result<MapData, DatapathError> {
    let pin = maps.join(name);
    let found = MapInfo::from_pin(&pin).map_err(failed(name, "the pin"))?;
    let sizes = (found.key_size(), found.value_size());
    let wanted = layout::layout().into_iter().find(|(of, ..)| *of == name);
    if wanted.is_none_or(|(_, key, value)| (key, value) != sizes) {
        return Err(DatapathError::ForeignMap {
            map: name,
            key_size: sizes.0,
            value_size: sizes.1,
        });
    }
    MapData::from_pin(pin).map_err(failed(name, "the pin"))
}

fn failed<E: Into<Cause>>(map: &'static str, key: &str) -> impl FnOnce(E) -> DatapathError {
    let key = key.to_owned();
    move |cause| DatapathError::Map {
        map,
        operation: "read",
        key,
        cause: cause.into(),
    }
}

/// For `map_err` where the kernel is asked, not a map.
pub fn asked(operation: impl Into<String>) -> impl FnOnce(io::Error) -> DatapathError {
    let operation = operation.into();
    move |cause| DatapathError::Netlink { operation, cause }
}
