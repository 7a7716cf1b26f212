// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How many kernel programs are attached somewhere, asked of the kernel itself.

use std::{fs::File, io, os::fd::AsRawFd};

use anyhow::{Context, Result};

use crate::netns::{self, Netns};

/// Programs at tc ingress of an interface, and at sk_lookup of the namespace.
///
/// # Errors
///
/// When there is no such interface, or the kernel does not answer.
pub fn count(netns: &Netns, interface: &str) -> Result<Attached> {
    let name = std::ffi::CString::new(interface)?;
    // Before Linux 6.6 they are filters.
    let filters = netns::run(
        netns
            .command("tc")
            .args(["filter", "show", "dev", interface, "ingress"]),
    )?;
    let filters = filters.matches("direct-action").count();
    netns.run(|| {
        // SAFETY: the name is terminated and lives across the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        let tcx = match query(index, BPF_TCX_INGRESS) {
            // Not known before Linux 6.6.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => 0,
            count => count.with_context(|| format!("ask for tcx programs of {interface}"))?,
        };
        let own = File::open("/proc/thread-self/ns/net")?;
        let sk_lookup = query(u32::try_from(own.as_raw_fd())?, BPF_SK_LOOKUP)
            .context("ask for sk_lookup programs")?;
        let tc = tcx + u32::try_from(filters)?;
        Ok(Attached { tc, sk_lookup })
    })
}

/// The programs at tcx ingress of an interface, in their order, and their links.
///
/// # Errors
///
/// As [`count`].
pub fn tcx(netns: &Netns, interface: &str) -> Result<Vec<Tcx>> {
    let name = std::ffi::CString::new(interface)?;
    netns.run(|| {
        // SAFETY: the name is terminated and lives across the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        let (mut programs, mut links) = ([0_u32; ROOM], [0_u32; ROOM]);
        let mut attr = QueryAttr {
            target: index,
            attach_type: BPF_TCX_INGRESS,
            prog_ids: programs.as_mut_ptr().expose_provenance() as u64,
            link_ids: links.as_mut_ptr().expose_provenance() as u64,
            prog_cnt: u32::try_from(ROOM)?,
            ..QueryAttr::default()
        };
        ask(&mut attr).with_context(|| format!("ask for tcx programs of {interface}"))?;
        let found = programs.into_iter().zip(links);
        Ok(found
            .take(usize::try_from(attr.prog_cnt)?)
            .map(|(program, link)| Tcx { program, link })
            .collect())
    })
}

/// Ids of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcx {
    /// Of a program.
    pub program: u32,
    /// Of the link that holds it.
    pub link: u32,
}

/// Numbers of programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// At tc ingress, by tcx or as filters.
    pub tc: u32,
    /// At sk_lookup.
    pub sk_lookup: u32,
}

/// `union bpf_attr` for BPF_PROG_QUERY (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    _pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

fn query(target: u32, attach_type: u32) -> io::Result<u32> {
    let mut attr = QueryAttr {
        target,
        attach_type,
        ..QueryAttr::default()
    };
    ask(&mut attr)?;
    Ok(attr.prog_cnt)
}

fn ask(attr: &mut QueryAttr) -> io::Result<()> {
    // SAFETY: the attribute is initialised, as large as said, and exclusively
    // ours; its pointers are null, or to arrays of the caller with as many
    // entries as it says.
    let status = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut *attr,
            size_of::<QueryAttr>(),
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Programs asked for at one place.
const ROOM: usize = 16;

const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_SK_LOOKUP: u32 = 36;
const BPF_TCX_INGRESS: u32 = 46;
