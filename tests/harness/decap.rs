// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a backend of direct return needs: packets taken out of their tunnel
//! header. `tunl0` and `ip6tnl0` do that where the kernel has them; this is a
//! program at tc that does it everywhere.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};

use crate::netns::Netns;

/// The program at an interface's ingress, for as long as the value lives.
#[derive(Debug)]
pub struct Decap {
    _link: OwnedFd,
}

impl Decap {
    /// Attaches it inside `netns`.
    ///
    /// # Errors
    ///
    /// Without root, or when there is no such interface.
    pub fn attach(netns: &Netns, interface: &str) -> Result<Self> {
        let program = load().context("load the program")?;
        let name = CString::new(interface)?;
        let link = netns.run(|| {
            // SAFETY: the pointer is a string that outlives the call.
            let ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) };
            if ifindex == 0 {
                return Err(io::Error::last_os_error());
            }
            bpf(
                BPF_LINK_CREATE,
                &mut LinkAttr {
                    prog_fd: program.as_raw_fd() as u32,
                    target_ifindex: ifindex,
                    attach_type: BPF_TCX_INGRESS,
                    ..LinkAttr::default()
                },
            )
        });
        let link = link.with_context(|| format!("attach it to {interface}"))?;
        Ok(Self { _link: link })
    }
}

/// Takes the outer header off IPv4 in IPv4 and IPv6 in IPv6, none of which has
/// options; leaves everything else alone.
fn load() -> io::Result<OwnedFd> {
    /// `TCX_NEXT`: go on.
    const NEXT: i32 = -1;
    const ADJUST_ROOM: i32 = 50;
    const ROOM_AT_MAC: i32 = 1;
    let program = [
        // r6 = context; r2, r3 = data and its end
        Insn::new(0xbf, 6, 1, 0, 0),
        Insn::new(0x61, 2, 1, 76, 0),
        Insn::new(0x61, 3, 1, 80, 0),
        Insn::new(0xbf, 4, 2, 0, 0),
        Insn::new(0x07, 4, 0, 0, 34),
        Insn::new(0x2d, 4, 3, 15, 0),
        // by EtherType
        Insn::new(0x69, 5, 2, 12, 0),
        Insn::new(0x15, 5, 0, 2, 0x0008),
        Insn::new(0x15, 5, 0, 5, 0xdd86),
        Insn::new(0x05, 0, 0, 11, 0),
        // IPv4: protocol 4
        Insn::new(0x71, 5, 2, 23, 0),
        Insn::new(0x55, 5, 0, 9, 4),
        Insn::new(0xb7, 2, 0, 0, -20),
        Insn::new(0x05, 0, 0, 3, 0),
        // IPv6: next header 41
        Insn::new(0x71, 5, 2, 20, 0),
        Insn::new(0x55, 5, 0, 5, 41),
        Insn::new(0xb7, 2, 0, 0, -40),
        // bpf_skb_adjust_room(context, -length, at the MAC header, 0)
        Insn::new(0xbf, 1, 6, 0, 0),
        Insn::new(0xb7, 3, 0, 0, ROOM_AT_MAC),
        Insn::new(0xb7, 4, 0, 0, 0),
        Insn::new(0x85, 0, 0, 0, ADJUST_ROOM),
        Insn::new(0xb7, 0, 0, 0, NEXT),
        Insn::new(0x95, 0, 0, 0, 0),
    ];
    bpf(
        BPF_PROG_LOAD,
        &mut LoadAttr {
            prog_type: BPF_PROG_TYPE_SCHED_CLS,
            insn_cnt: program.len() as u32,
            insns: program.as_ptr() as u64,
            license: c"Dual MIT/GPL".as_ptr() as u64,
            ..LoadAttr::default()
        },
    )
}

/// One instruction (RFC 9669 section 3).
#[repr(C)]
struct Insn {
    opcode: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Insn {
    const fn new(opcode: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Self {
        Self {
            opcode,
            registers: src << 4 | dst,
            offset,
            immediate,
        }
    }
}

/// bpf(2) with a command that answers with a descriptor. The verifier gives up
/// (EAGAIN) when a signal is pending: once more.
fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    for _ in 0..50 {
        // SAFETY: `attr` is the member of `union bpf_attr` that the command
        // takes, of this size, and what its addresses name outlives the call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                std::ptr::from_mut(attr),
                size_of::<T>(),
            )
        };
        if fd >= 0 {
            // SAFETY: a new descriptor that nobody else has.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        }
        let error = io::Error::last_os_error();
        if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) {
            return Err(error);
        }
    }
    Err(io::ErrorKind::Interrupted.into())
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

/// `union bpf_attr` of BPF_LINK_CREATE, its first fields.
#[repr(C)]
#[derive(Default)]
struct LinkAttr {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    more: [u64; 3],
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;
