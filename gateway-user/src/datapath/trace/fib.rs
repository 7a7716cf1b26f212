// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel's routing decision for a forwarded packet, by the helper that the
//! programs themselves call.
//!
//! A netlink question answers for packets of the stack: it checks sources
//! (`rp_filter`, `accept_local`) where `bpf_fib_lookup` does not, and says
//! nothing of forwarding that is off. So a program of a few instructions calls
//! the helper on what it is handed, once a question.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use gateway_common::addr::Addr16;

use crate::datapath::links::{ATTR_WORDS, bpf, pair};

// Commands of bpf(2); include/uapi/linux/bpf.h, enum bpf_cmd.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
/// `BPF_PROG_TYPE_SCHED_CLS`.
const PROGRAM_TYPE: u32 = 3;

/// `struct bpf_fib_lookup` of linux/bpf.h.
const PARAMS: usize = 64;
/// Behind them stand the flags of the call.
const ASKED: usize = PARAMS + 4;
/// A run takes a frame: its Ethernet header stands before what is asked.
const FRAME: usize = 14 + ASKED;
/// `BPF_FIB_LOOKUP_SKIP_NEIGH`: without the MAC address.
const SKIP_NEIGHBOUR: u32 = 1 << 2;

/// Takes the parameters out of the frame, asks, and puts the answer there; the
/// result is that of `bpf_fib_lookup`. The helper does not take a pointer into
/// the frame itself. Opcode and registers, offset, immediate
/// (Documentation/bpf/standardization).
const PROGRAM: [(u16, i16, i32); 23] = [
    (0x16bf, 0, 0),   // r6 = ctx
    (0x02b7, 0, 14),  // r2 = 14
    (0xa3bf, 0, 0),   // r3 = fp
    (0x0307, 0, -72), // r3 -= 72
    (0x04b7, 0, 68),  // r4 = ASKED
    (0x0085, 0, 26),  // call bpf_skb_load_bytes
    (0x0055, 15, 0),  // if r0 != 0 goto exit
    (0x61bf, 0, 0),   // r1 = ctx
    (0xa2bf, 0, 0),   // r2 = fp
    (0x0207, 0, -72), // r2 -= 72
    (0x03b7, 0, 64),  // r3 = PARAMS
    (0xa461, -8, 0),  // r4 = *(u32 *)(fp - 8), the flags
    (0x0085, 0, 69),  // call bpf_fib_lookup
    (0x07bf, 0, 0),   // r7 = r0
    (0x61bf, 0, 0),   // r1 = ctx
    (0x02b7, 0, 14),  // r2 = 14
    (0xa3bf, 0, 0),   // r3 = fp
    (0x0307, 0, -72), // r3 -= 72
    (0x04b7, 0, 64),  // r4 = PARAMS
    (0x05b7, 0, 0),   // r5 = 0
    (0x0085, 0, 9),   // call bpf_skb_store_bytes
    (0x70bf, 0, 0),   // r0 = r7
    (0x0095, 0, 0),   // exit
];

/// Why the packet has no way, as `BPF_FIB_LKUP_RET_*` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHop {
    /// A route of type blackhole, unreachable or prohibit.
    Forbidden(&'static str),
    /// For this node itself, or no route.
    NotForwarded,
    /// Forwarding is off on the interface that it comes in by.
    ForwardingOff,
    /// Longer than the way allows.
    TooLong,
    /// Something the programs cannot do, by its number.
    Other(u32),
}

/// The next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Index of the interface.
    pub index: u32,
    /// Bytes of the longest packet.
    pub mtu: u32,
    /// Its address: the destination's or a router's.
    pub address: IpAddr,
    /// Its MAC address is known.
    pub resolved: bool,
}

/// What to look up, with the values after the rewrite.
pub struct Lookup {
    /// Source.
    pub source: SocketAddr,
    /// Destination.
    pub destination: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Index of the interface that the packet comes in by.
    pub ingress: u32,
    /// Bytes of the IP packet.
    pub length: u16,
}

/// The loaded program.
#[derive(Debug)]
pub struct Fib(OwnedFd);

impl Fib {
    /// Loads it.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub fn open() -> io::Result<Self> {
        let instructions: Vec<u64> = PROGRAM
            .iter()
            .map(|&(code, offset, immediate)| {
                let mut bytes = [0; 8];
                let [code, registers] = code.to_le_bytes();
                bytes[0] = code;
                // A bit field: destination and source, in the machine's order.
                bytes[1] = if cfg!(target_endian = "little") {
                    registers
                } else {
                    registers.rotate_left(4)
                };
                bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
                bytes[4..].copy_from_slice(&immediate.to_ne_bytes());
                u64::from_ne_bytes(bytes)
            })
            .collect();
        let mut attr = [0_u64; ATTR_WORDS];
        // struct { __u32 prog_type; __u32 insn_cnt; __aligned_u64 insns;
        //          __aligned_u64 license; … }
        attr[0] = pair(PROGRAM_TYPE, instructions.len() as u32);
        attr[1] = instructions.as_ptr().expose_provenance() as u64;
        attr[2] = c"GPL".as_ptr().expose_provenance() as u64;
        let fd = repeated(BPF_PROG_LOAD, &mut attr)?;
        // SAFETY: BPF_PROG_LOAD succeeded, so `fd` is a new descriptor that
        // nothing else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Asks for the way of one packet in the thread's network namespace.
    ///
    /// # Errors
    /// Those of bpf(2), or of the helper.
    pub fn look_up(&self, lookup: &Lookup) -> io::Result<Result<Hop, NoHop>> {
        let found = self.ask(lookup, SKIP_NEIGHBOUR)?;
        let Ok(hop) = found else {
            return Ok(found);
        };
        // Without a neighbour the helper does not say the MTU.
        let resolved = self.ask(lookup, 0)?.is_ok_and(|hop| hop.resolved);
        Ok(Ok(Hop { resolved, ..hop }))
    }

    fn ask(&self, lookup: &Lookup, flags: u32) -> io::Result<Result<Hop, NoHop>> {
        let mut frame = [0_u8; FRAME];
        frame[14..14 + PARAMS].copy_from_slice(&parameters(lookup));
        frame[14 + PARAMS..].copy_from_slice(&flags.to_ne_bytes());
        let mut out = [0_u8; FRAME];
        let mut attr = [0_u64; ATTR_WORDS];
        // struct { __u32 prog_fd; __u32 retval; __u32 data_size_in;
        //          __u32 data_size_out; __aligned_u64 data_in;
        //          __aligned_u64 data_out; … }
        attr[0] = pair(self.0.as_raw_fd() as u32, 0);
        attr[1] = pair(FRAME as u32, FRAME as u32);
        attr[2] = frame.as_ptr().expose_provenance() as u64;
        attr[3] = out.as_mut_ptr().expose_provenance() as u64;
        repeated(BPF_PROG_TEST_RUN, &mut attr)?;
        let (_, result) = unpair(attr[0]);
        if (result as i32) < 0 {
            return Err(io::Error::from_raw_os_error(-(result as i32)));
        }
        let params = &out[14..14 + PARAMS];
        Ok(answer(result, params, lookup.destination.is_ipv4()))
    }
}

/// The parameters as `struct bpf_fib_lookup` has them.
fn parameters(lookup: &Lookup) -> [u8; PARAMS] {
    let mut params = [0; PARAMS];
    let source = lookup.source.ip().to_canonical();
    let destination = lookup.destination.ip().to_canonical();
    params[0] = match destination {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    };
    params[1] = lookup.protocol;
    params[2..4].copy_from_slice(&lookup.source.port().to_be_bytes());
    params[4..6].copy_from_slice(&lookup.destination.port().to_be_bytes());
    params[6..8].copy_from_slice(&lookup.length.to_ne_bytes());
    params[8..12].copy_from_slice(&lookup.ingress.to_ne_bytes());
    for (start, ip) in [(16, source), (32, destination)] {
        match ip {
            IpAddr::V4(ip) => params[start..start + 4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => params[start..start + 16].copy_from_slice(&ip.octets()),
        }
    }
    params
}

/// What the helper said: `result` is `BPF_FIB_LKUP_RET_*`.
fn answer(result: u32, params: &[u8], is_v4: bool) -> Result<Hop, NoHop> {
    let resolved = match result {
        0 => true,
        1 => return Err(NoHop::Forbidden("blackhole")),
        2 => return Err(NoHop::Forbidden("unreachable")),
        3 => return Err(NoHop::Forbidden("prohibit")),
        4 => return Err(NoHop::NotForwarded),
        5 => return Err(NoHop::ForwardingOff),
        7 => false,
        8 => return Err(NoHop::TooLong),
        other => return Err(NoHop::Other(other)),
    };
    let mut address = [0; 16];
    address.copy_from_slice(&params[32..48]);
    // A route of IPv4 may lead to a router of IPv6: the family tells.
    let is_v4 = is_v4 && i32::from(params[0]) == libc::AF_INET;
    let address = if is_v4 {
        let [a, b, c, d, ..] = address;
        IpAddr::from([a, b, c, d])
    } else {
        IpAddr::from(Addr16 { bytes: address })
    };
    Ok(Hop {
        index: u32::from_ne_bytes([params[8], params[9], params[10], params[11]]),
        mtu: u32::from(u16::from_ne_bytes([params[6], params[7]])),
        address,
        resolved,
    })
}

/// The two fields that [`pair`] put together.
fn unpair(word: u64) -> (u32, u32) {
    let bytes = word.to_ne_bytes();
    let half =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    (half(0), half(4))
}

/// bpf(2), once more when a signal breaks it off.
fn repeated(command: libc::c_long, attr: &mut [u64; ATTR_WORDS]) -> io::Result<i32> {
    const TRIES: u32 = 50;
    let before = *attr;
    for _ in 1..TRIES {
        match bpf(command, attr) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {
                *attr = before;
            }
            result => return result,
        }
    }
    bpf(command, attr)
}
