// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs a plan against the maps, and reads the maps back as a state.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use gateway_common::{addr::Addr16, backend::Backend, maglev::chunks_for, names::MAP_RINGS};

use crate::datapath::{
    DatapathError, fault,
    maps::Maps,
    plan::{Installed, MapOp, State},
    tables::ids_of,
};

/// What an unused entry of the backend map holds.
const NOTHING: Backend = Backend {
    addr: Addr16::ANY,
    snat_addr: Addr16::ANY,
    port_be: 0,
    _pad: 0,
    forwarding: 0,
};

/// Runs the operations in order. `state` follows each one, so that after an
/// error it is still what the kernel holds.
///
/// # Errors
/// The first operation the kernel refuses; those after it are not run.
pub fn run(maps: &mut Maps, state: &mut State, ops: &[MapOp]) -> Result<(), DatapathError> {
    for op in ops {
        fault::point().map_err(|error| DatapathError::Map {
            map: "of the plan",
            operation: "carry out",
            key: format!("{op:?}"),
            cause: error.into(),
        })?;
        match op {
            MapOp::ClearServiceStats(id) => maps.clear_service_stats(*id)?,
            MapOp::ClearBackendStats(id) => maps.clear_backend_stats(*id)?,
            MapOp::SetBackend(id, backend) => maps.set_backend(*id, *backend)?,
            MapOp::SuspendBackend(id) | MapOp::ClearBackend(id) => {
                maps.set_backend(*id, NOTHING)?;
            }
            MapOp::WriteRing(chunk, ring) => {
                let written = maps.rings.write(*chunk, ring);
                written.map_err(|error| DatapathError::Map {
                    map: MAP_RINGS,
                    operation: "write",
                    key: format!("{chunk} to {}", chunk + chunks_for(ring.len() as u32)),
                    cause: error.into(),
                })?;
            }
            MapOp::SetSource(list, prefix) => maps.sources.add(*list, *prefix)?,
            MapOp::RemoveSource(list, prefix) => maps.sources.remove(*list, *prefix)?,
            MapOp::SetService(destination, value, _) => maps.set_service(*destination, *value)?,
            MapOp::RemoveService(destination) => maps.remove_service(*destination)?,
            MapOp::SetSteer(key, value) => maps.set_steer(*key, *value)?,
            MapOp::RemoveSteer(key) => maps.remove_steer(*key)?,
            MapOp::SetRanges(of, ranges) => maps.set_ranges(*of, ranges)?,
            MapOp::SetSettings(settings) => maps.set_settings(*settings)?,
        }
        state.applied(op);
    }
    Ok(())
}

/// The state of the kernel as it is.
///
/// # Errors
/// When a map cannot be read.
pub fn read(maps: &Maps) -> Result<State, DatapathError> {
    let mut state = State::new(
        maps.settings()?,
        maps.rings.len(),
        maps.max_services() as usize,
        maps.sources.capacity() as usize,
    );
    for (list, prefix) in maps.sources.all()? {
        state.sources.add(list, prefix);
    }
    let mut rings: HashMap<(u32, u32), Arc<[u32]>> = HashMap::new();
    let mut named: BTreeSet<u32> = BTreeSet::new();
    for (destination, value) in maps.services()? {
        let place = (value.ring_chunk, value.ring_size);
        let ring = rings.entry(place).or_insert_with(|| {
            let ring = maps.rings.read(value.ring_chunk, value.ring_size);
            named.extend(ids_of(&ring));
            ring.into()
        });
        let ring = Arc::clone(ring);
        state
            .services
            .insert(destination, Installed { value, ring });
    }
    // Also those that no ring names: on standby, or left by a plan that was
    // broken off before a service came to point at them.
    for id in 0..maps.max_backends() {
        let backend = maps.backend(id)?;
        if backend != NOTHING {
            state.backends.insert(id, backend);
        } else if named.contains(&id) {
            // Left by a plan that was broken off.
            state.suspended.insert(id);
        }
    }
    state.steer = maps.steered()?.into_iter().collect();
    state.ranges = maps.ranges()?.into_iter().collect();
    Ok(state)
}
