// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The object as the kernel gets it: maps made, addresses filled in.
//!
//! aya loads programs but keeps the verifier's log of those that succeed to
//! itself, so their maps are made by aya and their instructions are prepared
//! here, by aya's own parser and in its order (`EbpfLoader::load`).

use std::{
    collections::HashSet,
    ffi::CString,
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use aya::{EbpfLoader, maps::MapData};
use aya_obj::{
    Function, Object, ProgramSection,
    generated::{bpf_attach_type, bpf_prog_type},
};

use crate::kernel;

/// Entries of the largest maps here. The verifier does not care how many there
/// are, and memory for all flows takes a while to get.
const MAX_ENTRIES: u32 = 1_024;

/// One program, ready to be loaded.
pub struct Prepared {
    /// As in the object.
    pub name: String,
    /// Where it may be attached.
    pub kind: bpf_prog_type,
    /// 0 where the kind says it all.
    pub attach: u32,
    /// Instructions with all they call, and what the debugger knows of them.
    pub function: Function,
    /// The kernel gives some helpers to some licences only.
    pub license: CString,
    /// The types.
    pub btf: Option<Arc<OwnedFd>>,
    /// The instructions name the maps by descriptor.
    _maps: Arc<Vec<MapData>>,
}

/// Makes the maps of `object` and fills in its programs, sorted by name.
pub fn prepare(object: &[u8]) -> Result<Vec<Prepared>> {
    let mut parsed = Object::parse(object).context("parse the object")?;
    let btf = match aya::features().btf() {
        Some(features) => parsed
            .fixup_and_sanitize_btf(features)
            .context("fix up the types")?
            .map(|btf| kernel::load_btf(&btf.to_bytes()).context("load the types"))
            .transpose()?
            .map(Arc::new),
        None => None,
    };
    let names: Vec<String> = parsed.maps.keys().cloned().collect();
    let maps = make_maps(object, &parsed, &names).context("make the maps")?;
    let sections: HashSet<usize> = parsed
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    let objects = parsed.maps.clone();
    let found = names
        .iter()
        .zip(&maps)
        .map(|(name, map)| (name.as_str(), map.fd().as_fd().as_raw_fd(), &objects[name]));
    parsed
        .relocate_maps(found, &sections)
        .context("fill in the maps")?;
    parsed
        .relocate_calls(&sections)
        .context("fill in the calls")?;
    parsed.sanitize_functions(aya::features());

    let maps = Arc::new(maps);
    let mut prepared = parsed
        .programs
        .iter()
        .map(|(name, program)| {
            let (kind, attach) = match program.section {
                ProgramSection::Xdp { .. } => (
                    bpf_prog_type::BPF_PROG_TYPE_XDP,
                    bpf_attach_type::BPF_XDP as u32,
                ),
                ProgramSection::SchedClassifier => (bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, 0),
                ProgramSection::SkLookup => (
                    bpf_prog_type::BPF_PROG_TYPE_SK_LOOKUP,
                    bpf_attach_type::BPF_SK_LOOKUP as u32,
                ),
                ref other => bail!("{name} is of a kind this program does not load: {other:?}"),
            };
            Ok(Prepared {
                name: name.clone(),
                kind,
                attach,
                function: parsed.functions[&program.function_key()].clone(),
                license: program.license.clone(),
                btf: btf.clone(),
                _maps: Arc::clone(&maps),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    prepared.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(prepared)
}

/// Lets aya make the maps as it does for the agent, and takes hold of them by
/// their pins, in a bpffs that only this thread sees.
fn make_maps(object: &[u8], parsed: &Object, names: &[String]) -> Result<Vec<MapData>> {
    let dir = std::env::temp_dir().join(format!("sluice-verify-{}", std::process::id()));
    fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
    let made = pinned(&dir, object, parsed, names);
    fs::remove_dir(&dir).with_context(|| format!("remove {}", dir.display()))?;
    made
}

fn pinned(dir: &Path, object: &[u8], parsed: &Object, names: &[String]) -> Result<Vec<MapData>> {
    let target = CString::new(dir.to_string_lossy().as_bytes())?;
    // SAFETY: the pointers are strings that outlive the calls, or null; only
    // this thread changes its namespace.
    let mounted = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(
                c"none".as_ptr(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            ) == 0
            && libc::mount(
                c"bpf".as_ptr(),
                target.as_ptr(),
                c"bpf".as_ptr(),
                0,
                std::ptr::null(),
            ) == 0
    };
    if !mounted {
        return Err(io::Error::last_os_error()).context("mount a bpffs");
    }
    // Names in a bpffs hold no dot.
    let pin = |name: &str| dir.join(name.replace('.', ":"));
    let mut loader = EbpfLoader::new();
    for name in names {
        if parsed.maps[name].max_entries() > MAX_ENTRIES {
            loader.map_max_entries(name, MAX_ENTRIES);
        }
        loader.map_pin_path(name, pin(name));
    }
    let made = loader
        .load(object)
        .context("load the object")
        .and_then(|_ebpf| {
            names
                .iter()
                .map(|name| MapData::from_pin(pin(name)).with_context(|| format!("find {name}")))
                .collect()
        });
    // SAFETY: the pointer is a string that outlives the call.
    let unmounted = unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    if unmounted != 0 {
        return Err(io::Error::last_os_error()).context("unmount the bpffs");
    }
    made
}
