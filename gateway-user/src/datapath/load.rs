// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The object into the kernel, on top of the maps that are pinned already.

use std::path::Path;

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapInfo, ProgramArray},
    programs::{Program, ProgramError},
};
use gateway_common::{
    limits::{MAX_SOCKETS, MAX_STEERED},
    names::{
        CALLED, MAP_BACKEND_STATS, MAP_BACKENDS, MAP_FLOW_SLOTS, MAP_FLOWS, MAP_FREE_SLOTS,
        MAP_HALF_OPEN, MAP_RINGS, MAP_SERVICE_STATS, MAP_SERVICES, MAP_SOCKETS, MAP_SOURCE_FLOWS,
        MAP_SOURCE_RATES, MAP_SOURCES, MAP_STEER, MAP_VERIFIED,
    },
    source_flows::PLACES,
};

use crate::datapath::{DatapathConfig, DatapathError, fault, layout, object};

/// The loaded object.
pub struct Loaded {
    /// Programs, verified and not attached; and the maps.
    pub ebpf: Ebpf,
    /// Whether the flow table was there before.
    pub adopted: bool,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// Loads the programs and adopts or makes the maps pinned in `pins`.
///
/// # Errors
/// When a pinned map is not ours, or the kernel refuses.
pub fn load(config: &DatapathConfig, pins: &Path) -> Result<Loaded, DatapathError> {
    let mut warnings = Vec::new();
    let mut adopted = false;
    let mut loader = EbpfLoader::new();
    for (name, key_size, value_size) in layout::layout() {
        let pin = pins.join(name);
        let mut entries = size(config, name);
        if pin.exists() {
            let found = MapInfo::from_pin(&pin).map_err(|error| DatapathError::Map {
                map: name,
                operation: "adopt",
                key: pin.display().to_string(),
                cause: error.into(),
            })?;
            if (found.key_size(), found.value_size()) != (key_size, value_size) {
                return Err(DatapathError::ForeignMap {
                    map: name,
                    key_size: found.key_size(),
                    value_size: found.value_size(),
                });
            }
            if let Some(wanted) = entries.filter(|wanted| *wanted != found.max_entries()) {
                warnings.push(format!(
                    "the kernel map {name} keeps its {} entries, not the {wanted} configured, \
                     because it holds state; `sluice detach` (its flows end) makes room for \
                     another size",
                    found.max_entries()
                ));
                entries = Some(found.max_entries());
            }
            adopted |= name == MAP_FLOW_SLOTS;
        }
        if let Some(entries) = entries {
            loader.map_max_entries(name, entries);
        }
        loader.map_pin_path(name, pin);
    }
    let refused = |what: String| {
        move |error: Box<dyn std::error::Error + Send + Sync>| DatapathError::Load {
            what,
            cause: error,
        }
    };
    let mut ebpf = loader
        .load(object::OBJECT)
        .map_err(|error| refused("the eBPF object".to_owned())(error.into()))?;
    for (name, program) in ebpf.programs_mut() {
        verify(program).map_err(refused(name.to_owned()))?;
    }
    // Before the programs that call them are attached.
    for (map, index, name) in CALLED {
        call(&mut ebpf, map, index, name).map_err(refused(name.to_owned()))?;
    }
    Ok(Loaded {
        ebpf,
        adopted,
        warnings,
    })
}

/// Lets other programs call `program` by its `index` in `map`.
fn call(
    ebpf: &mut Ebpf,
    map: &'static str,
    index: u32,
    program: &'static str,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let missing = || "the object has no such program";
    let fd = ebpf
        .program(program)
        .ok_or_else(missing)?
        .fd()?
        .try_clone()?;
    let map = ebpf.map_mut(map).ok_or("the object has no map for it")?;
    fault::point()?;
    ProgramArray::try_from(map)?.set(index, &fd, 0)?;
    Ok(())
}

/// Attempts at loading a program that the kernel breaks off.
const LOAD_TRIES: u32 = 50;

fn verify(program: &mut Program) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut tries = 0;
    loop {
        let loaded: Result<(), ProgramError> = match program {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            Program::SkLookup(program) => program.load(),
            _ => return Err("the object has a program of a type nobody attaches".into()),
        };
        tries += 1;
        match loaded {
            // The verifier gives up when a signal is pending, which on a busy
            // machine is soon: bpf_check() in kernel/bpf/verifier.c.
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == std::io::ErrorKind::WouldBlock && tries < LOAD_TRIES => {}
            loaded => return Ok(loaded?),
        }
    }
}

/// Entries the configuration asks for; none leaves what the object says.
fn size(config: &DatapathConfig, name: &str) -> Option<u32> {
    match name {
        MAP_FLOW_SLOTS | MAP_FREE_SLOTS => Some(config.max_flows),
        MAP_FLOWS => Some(config.max_flows.saturating_mul(2)),
        MAP_SERVICES | MAP_SERVICE_STATS => Some(config.max_services),
        MAP_BACKENDS | MAP_BACKEND_STATS => Some(config.max_backends),
        MAP_HALF_OPEN => Some(config.max_services.saturating_add(1)),
        MAP_SOURCE_RATES | MAP_VERIFIED => Some(config.protection.max_tracked_sources),
        MAP_SOURCE_FLOWS => Some(config.protection.max_tracked_sources.div_ceil(PLACES)),
        MAP_SOURCES => Some(config.max_sources),
        MAP_RINGS => Some(config.max_ring_chunks),
        MAP_STEER => Some(MAX_STEERED),
        MAP_SOCKETS => Some(MAX_SOCKETS),
        _ => None,
    }
}
