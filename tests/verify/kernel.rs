// SPDX-License-Identifier: Apache-2.0 OR MIT
//! bpf(2): load types, load a program and keep the verifier's log.

use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_info};

use crate::object::Prepared;

// Levels of the verifier's log (include/linux/bpf_verifier.h).
const LOG_OF_THE_PATH: u32 = 1;
const LOG_STATISTICS: u32 = 4;
/// What the kernel takes at most (`bpf_verifier_log_attr_valid`).
const LOG_BYTES: usize = (u32::MAX >> 8) as usize;
/// Attempts at loading a program that the kernel breaks off.
const TRIES: u32 = 50;

/// A program that the kernel took.
pub struct Loaded {
    /// Instructions after the verifier's own additions.
    pub instructions: u32,
    /// The verifier's statistics.
    pub log: String,
}

/// A program that it did not take.
pub struct Refused {
    pub error: io::Error,
    /// The path that led to it.
    pub log: String,
}

/// Loads a program and lets it go again.
pub fn load(prepared: &Prepared) -> Result<Loaded, Refused> {
    let mut log = Vec::new();
    let refused = |error, log: &[u8]| Refused {
        error,
        log: text(log),
    };
    // Of a program that is refused, the statistics say nothing: once more, for
    // the path.
    for level in [LOG_STATISTICS, LOG_OF_THE_PATH | LOG_STATISTICS] {
        log = vec![0; LOG_BYTES];
        match attempt(prepared, level, &mut log) {
            Ok(fd) => {
                return Ok(Loaded {
                    instructions: instructions(&fd).map_err(|error| refused(error, &log))?,
                    log: text(&log),
                });
            }
            Err(error) if level != LOG_STATISTICS => return Err(refused(error, &log)),
            Err(_) => {}
        }
    }
    Err(refused(io::ErrorKind::Other.into(), &log))
}

fn attempt(prepared: &Prepared, level: u32, log: &mut [u8]) -> io::Result<OwnedFd> {
    let function = &prepared.function;
    let (lines, functions) = (
        function.line_info.line_info_bytes(),
        function.func_info.func_info_bytes(),
    );
    for tries in 1.. {
        // SAFETY: integers only, for all of which zero is a value.
        let mut attr: bpf_attr = unsafe { mem::zeroed() };
        // SAFETY: zeroed above, so every member is initialised.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.prog_type = prepared.kind as u32;
        load.expected_attach_type = prepared.attach;
        load.insns = function.instructions.as_ptr().expose_provenance() as u64;
        load.insn_cnt = function.instructions.len() as u32;
        load.license = prepared.license.as_ptr().expose_provenance() as u64;
        load.log_level = level;
        load.log_buf = log.as_mut_ptr().expose_provenance() as u64;
        load.log_size = log.len() as u32;
        if let Some(btf) = &prepared.btf {
            load.prog_btf_fd = btf.as_raw_fd() as u32;
            load.line_info = lines.as_ptr().expose_provenance() as u64;
            load.line_info_cnt = function.line_info.len() as u32;
            load.line_info_rec_size = function.line_info_rec_size as u32;
            load.func_info = functions.as_ptr().expose_provenance() as u64;
            load.func_info_cnt = function.func_info.len() as u32;
            load.func_info_rec_size = function.func_info_rec_size as u32;
        }
        match bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr) {
            // The verifier gives up when a signal is pending.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries < TRIES => {}
            result => return result.map(owned),
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Instructions of a loaded program.
fn instructions(fd: &OwnedFd) -> io::Result<u32> {
    // SAFETY: integers only, as above; twice.
    let (mut attr, mut info): (bpf_attr, bpf_prog_info) = unsafe { mem::zeroed() };
    attr.info.bpf_fd = fd.as_raw_fd() as u32;
    attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    attr.info.info = (&raw mut info).expose_provenance() as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    // Of 8 bytes each.
    Ok(info.xlated_prog_len / 8)
}

/// Loads types.
pub fn load_btf(types: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: integers only, as above.
    let mut attr: bpf_attr = unsafe { mem::zeroed() };
    // SAFETY: zeroed above, so every member is initialised.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = types.as_ptr().expose_provenance() as u64;
    load.btf_size = types.len() as u32;
    bpf(bpf_cmd::BPF_BTF_LOAD, &mut attr).map(owned)
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: both commands that end here return a new descriptor, which
    // nothing else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: the attribute is initialised and as large as said; what its
    // pointers name lives in the callers and is as long as they say.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            &raw mut *attr,
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}

fn text(log: &[u8]) -> String {
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    String::from_utf8_lossy(&log[..end]).into_owned()
}
