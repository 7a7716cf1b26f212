// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs of somebody else on the gateway's interfaces. Each counts the
//! packets it sees and lets them pass.
//!
//! A dozen instructions, written by hand: that takes no compiler, and nothing of
//! the agent's own loader.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use anyhow::{Context, Result};

use crate::netns::Netns;

/// A loaded program; it goes with the value unless it is pinned or attached
/// otherwise.
#[derive(Debug)]
pub struct Foreign {
    program: OwnedFd,
    counter: OwnedFd,
}

/// An attachment that ends with the value.
#[derive(Debug)]
pub struct Link(#[expect(dead_code, reason = "it is there to be dropped")] OwnedFd);

impl Foreign {
    /// A program for XDP.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it.
    pub fn xdp(name: &str) -> Result<Self> {
        Self::load(name, PROG_TYPE_XDP, XDP_PASS)
    }

    /// A program for tcx or for a filter of clsact.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it.
    pub fn tc(name: &str) -> Result<Self> {
        Self::load(name, PROG_TYPE_SCHED_CLS, TC_ACT_UNSPEC)
    }

    fn load(name: &str, kind: u32, verdict: i32) -> Result<Self> {
        let counter = array(8, 1).context("make a map")?;
        let map = counter.as_raw_fd();
        let instructions: [[u8; 8]; 11] = [
            // r2 = r10 - 4; *(u32 *)r2 = 0
            instruction(0xbf, 2, 10, 0, 0),
            instruction(0x07, 2, 0, 0, -4),
            instruction(0x62, 10, 0, -4, 0),
            // r1 = the map
            instruction(0x18, 1, 1, 0, map),
            instruction(0, 0, 0, 0, 0),
            // r0 = bpf_map_lookup_elem(r1, r2)
            instruction(0x85, 0, 0, 0, 1),
            // if (r0) *(u64 *)r0 += 1, atomically
            instruction(0x15, 0, 0, 2, 0),
            instruction(0xb7, 1, 0, 0, 1),
            instruction(0xdb, 0, 1, 0, 0),
            // return verdict
            instruction(0xb7, 0, 0, 0, verdict),
            instruction(0x95, 0, 0, 0, 0),
        ];
        let program = load(name, kind, &instructions)?;
        Ok(Self { program, counter })
    }

    /// The kernel's id.
    ///
    /// # Errors
    ///
    /// When the kernel does not say.
    pub fn id(&self) -> Result<u32> {
        let fdinfo = format!("/proc/self/fdinfo/{}", self.program.as_raw_fd());
        let text = std::fs::read_to_string(fdinfo)?;
        let id = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
        Ok(id.context("no prog_id")?.trim().parse()?)
    }

    /// Packets seen so far.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn count(&self) -> Result<u64> {
        let mut value = [0; 8];
        look_up(&self.counter, 0, &mut value)?;
        Ok(u64::from_ne_bytes(value))
    }

    /// Pins it, for tools that attach by path.
    ///
    /// # Errors
    ///
    /// When the path is not on a bpffs, or taken.
    pub fn pin(&self, path: &Path) -> Result<()> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        let mut attr = Attr::default();
        attr.put64(0, name.as_ptr().expose_provenance() as u64);
        attr.put32(8, self.program.as_raw_fd().cast_unsigned());
        attr.call(BPF_OBJ_PIN)
            .with_context(|| format!("pin {}", path.display()))?;
        Ok(())
    }

    /// Attaches it to tcx ingress, before all that are there or after.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn link_tcx(&self, netns: &Netns, interface: &str, first: bool) -> Result<Link> {
        let flags = if first { BPF_F_BEFORE } else { 0 };
        link(&self.program, netns, interface, BPF_TCX_INGRESS, flags)
    }

    /// Attaches it to generic XDP.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn link_xdp(&self, netns: &Netns, interface: &str) -> Result<Link> {
        link(&self.program, netns, interface, BPF_XDP, XDP_FLAGS_SKB_MODE)
    }
}

/// A program at tc that is nobody's to count.
#[derive(Debug)]
pub(crate) struct Plain(OwnedFd);

impl Plain {
    /// Loads `instructions`.
    pub(crate) fn tc(name: &str, instructions: &[[u8; 8]]) -> Result<Self> {
        load(name, PROG_TYPE_SCHED_CLS, instructions).map(Self)
    }

    /// Attaches it to tcx: before all others at ingress, after them at egress.
    pub(crate) fn link(&self, netns: &Netns, interface: &str, egress: bool) -> Result<Link> {
        let (kind, flags) = if egress {
            (BPF_TCX_EGRESS, 0)
        } else {
            (BPF_TCX_INGRESS, BPF_F_BEFORE)
        };
        link(&self.0, netns, interface, kind, flags)
    }
}

/// BPF_MAP_TYPE_ARRAY of `entries` values.
pub(crate) fn array(value_size: u32, entries: u32) -> io::Result<OwnedFd> {
    let mut attr = Attr::default();
    attr.put32(0, 2);
    attr.put32(4, 4);
    attr.put32(8, value_size);
    attr.put32(12, entries);
    attr.descriptor(BPF_MAP_CREATE)
}

/// Reads the value at `key` of an array whose values have `N` bytes.
pub(crate) fn look_up<const N: usize>(
    map: &OwnedFd,
    key: u32,
    value: &mut [u8; N],
) -> io::Result<()> {
    let mut attr = Attr::default();
    attr.put32(0, map.as_raw_fd().cast_unsigned());
    attr.put64(8, (&raw const key).expose_provenance() as u64);
    attr.put64(16, value.as_mut_ptr().expose_provenance() as u64);
    attr.call(BPF_MAP_LOOKUP_ELEM).map(drop)
}

fn load(name: &str, kind: u32, instructions: &[[u8; 8]]) -> Result<OwnedFd> {
    let mut attr = Attr::default();
    attr.put32(0, kind);
    attr.put32(4, u32::try_from(instructions.len())?);
    attr.put64(8, instructions.as_ptr().expose_provenance() as u64);
    attr.put64(16, c"GPL".as_ptr().expose_provenance() as u64);
    for (index, byte) in name.bytes().take(15).enumerate() {
        attr.0[48 + index] = byte;
    }
    attr.descriptor(BPF_PROG_LOAD).context("load a program")
}

fn link(program: &OwnedFd, netns: &Netns, interface: &str, kind: u32, flags: u32) -> Result<Link> {
    let name = CString::new(interface)?;
    let fd = netns.run(|| {
        // SAFETY: the name is terminated and lives across the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        let mut attr = Attr::default();
        attr.put32(0, program.as_raw_fd().cast_unsigned());
        attr.put32(4, index);
        attr.put32(8, kind);
        attr.put32(12, flags);
        attr.descriptor(BPF_LINK_CREATE)
    });
    Ok(Link(fd.with_context(|| format!("attach to {interface}"))?))
}

/// One instruction (include/uapi/linux/bpf.h, struct bpf_insn).
pub(crate) fn instruction(code: u8, dst: u8, src: u8, offset: i16, value: i32) -> [u8; 8] {
    let mut bytes = [code, dst | src << 4, 0, 0, 0, 0, 0, 0];
    bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
    bytes[4..].copy_from_slice(&value.to_ne_bytes());
    bytes
}

/// `union bpf_attr`; fields by their offset.
#[repr(C, align(8))]
struct Attr([u8; 152]);

impl Default for Attr {
    fn default() -> Self {
        Self([0; 152])
    }
}

impl Attr {
    fn put32(&mut self, offset: usize, value: u32) {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }

    fn put64(&mut self, offset: usize, value: u64) {
        self.0[offset..offset + 8].copy_from_slice(&value.to_ne_bytes());
    }

    fn call(&mut self, command: libc::c_int) -> io::Result<i32> {
        // SAFETY: the attribute is initialised, aligned, exclusively ours and as
        // long as said; the callers keep what its pointers lead to.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                self.0.as_mut_ptr(),
                size_of::<Self>(),
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        i32::try_from(result).map_err(io::Error::other)
    }

    fn descriptor(&mut self, command: libc::c_int) -> io::Result<OwnedFd> {
        let fd = self.call(command)?;
        // SAFETY: the command succeeded, so this is a new descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

// include/uapi/linux/bpf.h: commands, program types, attach types.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_LINK_CREATE: libc::c_int = 28;
const PROG_TYPE_SCHED_CLS: u32 = 3;
const PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
const BPF_F_BEFORE: u32 = 1 << 3;
// include/uapi/linux/if_link.h and pkt_cls.h.
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_PASS: i32 = 2;
const TC_ACT_UNSPEC: i32 = -1;
