// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs of a program as the kernel times them, and the program that does
//! nothing, to compare with. By bpf(2) itself: the empty program is in no
//! object, and the same call has to run both.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// Where a program hangs: what the kernel has to know to load an empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tc,
    Xdp,
    SkLookup,
}

impl Kind {
    /// `BPF_PROG_TYPE_*` and `expected_attach_type` of linux/bpf.h.
    fn types(self) -> (u32, u32) {
        match self {
            Self::Tc => (3, 0),
            Self::Xdp => (6, 0),
            Self::SkLookup => (30, 36),
        }
    }

    /// What "leave it to the stack" is there: TC_ACT_UNSPEC, XDP_PASS, SK_PASS.
    fn pass(self) -> i32 {
        match self {
            Self::Tc => -1,
            Self::Xdp => 2,
            Self::SkLookup => 1,
        }
    }
}

/// Loads a program of two instructions: return "pass".
pub fn empty_program(kind: Kind) -> OwnedFd {
    let mut instructions = [0u8; 16];
    // BPF_ALU64 | BPF_MOV | BPF_K of register 0, BPF_JMP | BPF_EXIT.
    instructions[0] = 0xb7;
    instructions[4..8].copy_from_slice(&kind.pass().to_ne_bytes());
    instructions[8] = 0x95;
    let (prog_type, expected_attach_type) = kind.types();
    let mut attr = LoadAttr {
        prog_type,
        insn_cnt: 2,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        prog_name: *b"empty\0\0\0\0\0\0\0\0\0\0\0",
        expected_attach_type,
        ..LoadAttr::default()
    };
    let fd = bpf(BPF_PROG_LOAD, &mut attr).expect("load the empty program");
    // SAFETY: the call returned a new descriptor that nobody else has.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Runs a program `repeat` times on one input, without a copy of the output.
/// Nanoseconds a run by the kernel's clock, which is read before the first run
/// and after the last one, inside the call.
pub fn run(program: BorrowedFd<'_>, frame: &[u8], context: &[u8], repeat: u32) -> u32 {
    let mut attr = RunAttr {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: if frame.is_empty() {
            0
        } else {
            frame.as_ptr() as u64
        },
        repeat,
        ctx_size_in: context.len() as u32,
        ctx_in: context.as_ptr() as u64,
        ..RunAttr::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attr).expect("run a program");
    attr.duration
}

/// bpf(2). A signal in the middle of a run ends it early (EINTR): once more.
fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    for _ in 0..100 {
        // SAFETY: `attr` is the member of `union bpf_attr` that the command
        // takes, of this size, and what its addresses name outlives the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                std::ptr::from_mut(attr),
                size_of::<T>(),
            )
        };
        if result >= 0 {
            return Ok(result as i32);
        }
        let error = io::Error::last_os_error();
        if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) {
            return Err(error);
        }
    }
    Err(io::Error::from(io::ErrorKind::Interrupted))
}

/// `union bpf_attr` of BPF_PROG_LOAD, its first fields.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// `union bpf_attr` of BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct RunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    _pad: u32,
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
