// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pinned links: what they are attached to, replacing their program, ending
//! them. It calls bpf(2) itself (for `trace` too): aya 0.14 neither tells the
//! target of a link nor updates one of `sk_lookup`.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

// Commands of bpf(2); include/uapi/linux/bpf.h, enum bpf_cmd.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// enum bpf_attach_type.
const BPF_TCX_INGRESS: u32 = 46;

/// The union is 152 bytes or less in every kernel so far; a longer attribute is
/// accepted as long as the rest is zero.
pub const ATTR_WORDS: usize = 20;

/// The head of `struct bpf_link_info`.
#[repr(C)]
#[derive(Default)]
struct LinkDescription {
    kind: u32,
    id: u32,
    program_id: u32,
    _pad: u32,
    /// `ifindex` of XDP and tcx links, `netns_ino` of network namespace links.
    target: u32,
    attach_type: u32,
    _rest: [u64; 8],
}

const _: () = assert!(std::mem::offset_of!(LinkDescription, target) == 16);

/// Whether this kernel has tcx links: Linux 6.6 and what borrows from it (commit
/// e420bed02507, "bpf: Add fd-based tcx multi-prog infra with link support").
pub fn has_tcx() -> bool {
    let mut attr = [0_u64; ATTR_WORDS];
    // struct { __u32 target_ifindex; __u32 attach_type; … }; no interface has
    // the index 0, but an attach type that is not known is told first.
    attr[0] = pair(0, BPF_TCX_INGRESS);
    let asked = bpf(BPF_PROG_QUERY, &mut attr);
    asked.map_or_else(|error| error.raw_os_error() != Some(libc::EINVAL), |_| true)
}

/// The two ends of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The interface index, or the inode of the network namespace; 0 when that
    /// is gone.
    pub target: u32,
    /// The kernel's id of the program.
    pub program_id: u32,
}

/// A pinned link.
#[derive(Debug)]
pub struct PinnedLink(OwnedFd);

impl PinnedLink {
    /// Opens the link pinned at `path`; none when nothing is there.
    ///
    /// # Errors
    /// When something is there that cannot be opened.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut attr = [0_u64; ATTR_WORDS];
        attr[0] = path.as_ptr().expose_provenance() as u64;
        match bpf(BPF_OBJ_GET, &mut attr) {
            Ok(fd) => {
                // SAFETY: BPF_OBJ_GET succeeded, so `fd` is a new descriptor
                // that nothing else owns.
                Ok(Some(Self(unsafe { OwnedFd::from_raw_fd(fd) })))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the link is attached to, and the program it runs.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub fn describe(&self) -> io::Result<Attached> {
        let mut description = LinkDescription::default();
        let mut attr = [0_u64; ATTR_WORDS];
        // struct { __u32 bpf_fd; __u32 info_len; __aligned_u64 info; }
        attr[0] = pair(
            self.0.as_raw_fd() as u32,
            size_of::<LinkDescription>() as u32,
        );
        attr[1] = (&raw mut description).expose_provenance() as u64;
        bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
        Ok(Attached {
            target: description.target,
            program_id: description.program_id,
        })
    }

    /// Replaces the program; every packet meets the old or the new one.
    ///
    /// # Errors
    /// Those of bpf(2); `ENOLINK` when the target is gone.
    pub fn replace(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attr = [0_u64; ATTR_WORDS];
        // struct { __u32 link_fd; __u32 new_prog_fd; __u32 flags; … }
        attr[0] = pair(self.0.as_raw_fd() as u32, program.as_raw_fd() as u32);
        bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
    }

    /// Ends the attachment now; without this it lasts until the kernel gets to
    /// freeing the link.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub fn detach(&self) -> io::Result<()> {
        let mut attr = [0_u64; ATTR_WORDS];
        attr[0] = pair(self.0.as_raw_fd() as u32, 0);
        match bpf(BPF_LINK_DETACH, &mut attr) {
            Ok(_) => Ok(()),
            // The target is gone.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Two neighbouring 32-bit fields in memory order.
pub fn pair(first: u32, second: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// bpf(2). What addresses in `attr` name outlives the call and is as long as
/// `attr` says.
///
/// # Errors
/// Those of bpf(2).
pub fn bpf(command: libc::c_long, attr: &mut [u64; ATTR_WORDS]) -> io::Result<i32> {
    // SAFETY: `attr` is a live array of the length given, 8-byte aligned as
    // union bpf_attr is; the pointers that the callers put into it outlive the
    // call, and what they point at is as long as they say.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attr.as_mut_ptr(),
            size_of::<[u64; ATTR_WORDS]>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}
