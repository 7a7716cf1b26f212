// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Which backend takes a new flow.

use gateway_common::{
    addr::Addr16,
    backend::{Backend, NO_BACKEND},
    drop_reason::DropReason,
    maglev,
    service::ServiceValue,
};

use crate::{
    maps::{BACKENDS, RINGS},
    packet::Packet,
    verdict::Verdict,
};

/// The id and the entry of the backend at the flow's place in the ring.
#[inline(always)]
pub fn backend(
    packet: &Packet,
    service: &ServiceValue,
    seed: u32,
) -> Result<(u32, &'static Backend), Verdict> {
    if service.ring_size == 0 {
        return Err(Verdict::Drop(DropReason::NoBackend));
    }
    let slot = maglev::slot(&packet.key, service.hash_policy, seed, service.ring_size);
    let (chunk, position) = maglev::chunk_of(slot);
    let bad_entry = Verdict::Drop(DropReason::BadMapEntry);
    let chunk = RINGS
        .get(service.ring_chunk.saturating_add(chunk))
        .ok_or(bad_entry)?;
    let id = chunk.backend_ids[position];
    if id == NO_BACKEND {
        return Err(Verdict::Drop(DropReason::NoBackend));
    }
    let backend = BACKENDS.get(id).ok_or(bad_entry)?;
    if backend.forwarding == 0 {
        return Err(Verdict::Drop(DropReason::NoRoute));
    }
    if !fits(backend, packet.is_v6) {
        return Err(bad_entry);
    }
    Ok((id, backend))
}

/// Whether the addresses of a backend are of the packet's family: packets are
/// not translated between the two. A function of its own: the caller's stack is
/// full.
#[inline(never)]
fn fits(backend: &Backend, is_v6: bool) -> bool {
    let source = &backend.snat_addr;
    backend.addr.is_v4() != is_v6 && (*source == Addr16::ANY || source.is_v4() != is_v6)
}
