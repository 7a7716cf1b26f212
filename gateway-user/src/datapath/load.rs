// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The object into the kernel, on top of the maps that are pinned already.

use std::path::Path;

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapInfo, ProgramArray},
    programs::{ProgramError, SchedClassifier, SkLookup, Xdp},
};
use gateway_common::{
    limits::{MAX_SOCKETS, MAX_STEERED},
    names::{
        MAP_BACKEND_STATS, MAP_BACKENDS, MAP_FLOW_SLOTS, MAP_FLOWS, MAP_FREE_SLOTS, MAP_RINGS,
        MAP_SERVICE_STATS, MAP_SERVICES, MAP_SOCKETS, MAP_STEER, MAP_TC_ICMP, MAP_XDP_ICMP,
        PROG_SK_LOOKUP, PROG_TC, PROG_TC_ICMP, PROG_XDP, PROG_XDP_ICMP,
    },
};

use crate::datapath::{DatapathConfig, DatapathError, layout, object};

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
    let refused = |what: &'static str| {
        move |error: Box<dyn std::error::Error + Send + Sync>| DatapathError::Load {
            what,
            cause: error,
        }
    };
    let mut ebpf = loader
        .load(object::OBJECT)
        .map_err(|error| refused("the eBPF object")(error.into()))?;
    for name in [
        PROG_XDP_ICMP,
        PROG_TC_ICMP,
        PROG_XDP,
        PROG_TC,
        PROG_SK_LOOKUP,
    ] {
        verify(&mut ebpf, name).map_err(refused(name))?;
    }
    // Before the programs that call them are attached.
    for (map, name) in [(MAP_XDP_ICMP, PROG_XDP_ICMP), (MAP_TC_ICMP, PROG_TC_ICMP)] {
        call(&mut ebpf, map, name).map_err(refused(name))?;
    }
    Ok(Loaded {
        ebpf,
        adopted,
        warnings,
    })
}

/// Lets other programs call `program` through `map`.
fn call(
    ebpf: &mut Ebpf,
    map: &'static str,
    program: &'static str,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let missing = || "the object has no such program";
    let fd = ebpf
        .program(program)
        .ok_or_else(missing)?
        .fd()?
        .try_clone()?;
    let map = ebpf.map_mut(map).ok_or("the object has no map for it")?;
    ProgramArray::try_from(map)?.set(0, &fd, 0)?;
    Ok(())
}

/// Attempts at loading a program that the kernel breaks off.
const LOAD_TRIES: u32 = 50;

fn verify(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let program = ebpf
        .program_mut(name)
        .ok_or("the object has no such program")?;
    let mut tries = 0;
    loop {
        let loaded: Result<(), ProgramError> = match name {
            PROG_XDP | PROG_XDP_ICMP => <&mut Xdp>::try_from(&mut *program)?.load(),
            PROG_TC | PROG_TC_ICMP => <&mut SchedClassifier>::try_from(&mut *program)?.load(),
            _ => <&mut SkLookup>::try_from(&mut *program)?.load(),
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
        MAP_RINGS => Some(config.max_ring_chunks),
        MAP_STEER => Some(MAX_STEERED),
        MAP_SOCKETS => Some(MAX_SOCKETS),
        _ => None,
    }
}
