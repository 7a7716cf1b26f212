// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Steering: the agent's sockets answer for addresses and ports that nobody
//! has bound.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_SK_LOOKUP_F_NO_REUSEPORT, bpf_sk_lookup, sk_action},
    programs::SkLookupContext,
};
use gateway_common::{
    addr::Addr16,
    counters::VerdictCounter,
    drop_reason::DropReason,
    port_range::RANGES_OF_STEERED,
    steer::{self, SteerKey, SteerValue},
};

use crate::{
    aligned::Aligned,
    maps::{SOCKETS, STEER},
    port_range,
    verdict::{self, Verdict},
};

/// `AF_INET`.
const AF_INET: u32 = 2;
/// `IPPROTO_TCP`.
const PROTOCOL_TCP: u32 = 6;

/// Chooses the socket of a new connection. A steered port without a live socket
/// fails closed, also when somebody else has bound it: the look-up finds nothing
/// and TCP answers with a reset.
#[inline(always)]
pub fn steer(ctx: &SkLookupContext) -> u32 {
    let Some(destination) = Destination::read(ctx.lookup) else {
        return sk_action::SK_PASS;
    };
    let Some(sockets) = destination.sockets() else {
        return sk_action::SK_PASS;
    };
    let index = sockets.socket_base.wrapping_add(steer::spread(
        &destination.remote,
        destination.remote_port_be,
        sockets.socket_count,
    ));
    let flags = u64::from(BPF_SK_LOOKUP_F_NO_REUSEPORT);
    if sockets.socket_count != 0 && SOCKETS.redirect_sk_lookup(ctx, index, flags).is_ok() {
        let _ = verdict::count(Verdict::Pass(VerdictCounter::Steered), 0);
        sk_action::SK_PASS
    } else {
        let _ = verdict::count(Verdict::Drop(DropReason::NoSocket), 0);
        sk_action::SK_DROP
    }
}

/// Where a connection is going and where it comes from.
struct Destination {
    key: Aligned<SteerKey>,
    remote: Addr16,
    remote_port_be: u16,
}

impl Destination {
    /// Reads the context of a TCP look-up.
    #[inline(always)]
    fn read(lookup: *const bpf_sk_lookup) -> Option<Self> {
        // The verifier allows loads of one field at its fixed offset. Volatile
        // and unconditional, so that none are merged or moved behind a branch;
        // the fields of the other family read as zero.
        // SAFETY: the kernel's context is valid while the program runs.
        unsafe {
            if ptr::read_volatile(&raw const (*lookup).protocol) != PROTOCOL_TCP {
                return None;
            }
            let local4 = ptr::read_volatile(&raw const (*lookup).local_ip4);
            let remote4 = ptr::read_volatile(&raw const (*lookup).remote_ip4);
            let local6 = [
                ptr::read_volatile(&raw const (*lookup).local_ip6[0]),
                ptr::read_volatile(&raw const (*lookup).local_ip6[1]),
                ptr::read_volatile(&raw const (*lookup).local_ip6[2]),
                ptr::read_volatile(&raw const (*lookup).local_ip6[3]),
            ];
            let remote6 = [
                ptr::read_volatile(&raw const (*lookup).remote_ip6[0]),
                ptr::read_volatile(&raw const (*lookup).remote_ip6[1]),
                ptr::read_volatile(&raw const (*lookup).remote_ip6[2]),
                ptr::read_volatile(&raw const (*lookup).remote_ip6[3]),
            ];
            let (local, remote) = if ptr::read_volatile(&raw const (*lookup).family) == AF_INET {
                (v4(local4), v4(remote4))
            } else {
                (v6(local6), v6(remote6))
            };
            let port = ptr::read_volatile(&raw const (*lookup).local_port);
            Some(Self {
                key: Aligned(SteerKey {
                    addr: local,
                    port_be: (port as u16).to_be(),
                    last_port_be: (port as u16).to_be(),
                    proto: PROTOCOL_TCP as u8,
                    _pad: [0; 3],
                }),
                remote,
                remote_port_be: ptr::read_volatile(&raw const (*lookup).remote_port),
            })
        }
    }

    /// The sockets of the port, else those of a range; of the exact address,
    /// else those of any.
    #[inline(always)]
    fn sockets(&self) -> Option<SteerValue> {
        let any = Aligned(SteerKey {
            addr: Addr16::ANY,
            ..self.key.0
        });
        // SAFETY: copied at once; entries are replaced whole by the agent.
        let of_port = unsafe { STEER.get(&self.key.0).or_else(|| STEER.get(&any.0)) }.copied();
        if of_port.is_some() || !port_range::in_use() {
            return of_port;
        }
        of_range(&self.key.0).or_else(|| of_range(&any.0))
    }
}

/// The sockets of the range that the port of `key` is in, at its address.
#[inline(always)]
fn of_range(key: &SteerKey) -> Option<SteerValue> {
    let range = port_range::find(key.addr, key.proto, RANGES_OF_STEERED, key.port_be)?;
    let key = Aligned(SteerKey {
        port_be: (range.first as u16).to_be(),
        last_port_be: (range.last as u16).to_be(),
        ..*key
    });
    // SAFETY: as above.
    unsafe { STEER.get(&key.0) }.copied()
}

#[inline(always)]
fn v4(word: u32) -> Addr16 {
    Addr16::from_v4(word.to_ne_bytes())
}

#[inline(always)]
fn v6(words: [u32; 4]) -> Addr16 {
    let mut bytes = [0; 16];
    let (chunks, _) = bytes.as_chunks_mut::<4>();
    for (chunk, word) in chunks.iter_mut().zip(words) {
        *chunk = word.to_ne_bytes();
    }
    Addr16 { bytes }
}
