// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Which backend takes a new flow.

use gateway_common::{
    backend::{Backend, NO_BACKEND},
    drop_reason::DropReason,
    flow::FlowKey,
    maglev,
    service::ServiceValue,
};

use crate::{
    maps::{BACKENDS, RINGS},
    verdict::Verdict,
};

/// The id and the entry of the backend at the flow's place in the ring.
#[inline(always)]
pub fn backend(
    key: &FlowKey,
    service: &ServiceValue,
    seed: u32,
) -> Result<(u32, &'static Backend), Verdict> {
    if service.ring_size == 0 {
        return Err(Verdict::Drop(DropReason::NoBackend));
    }
    let slot = maglev::slot(key, service.hash_policy, seed, service.ring_size);
    let (chunk, position) = maglev::chunk_of(slot);
    let bad_entry = Verdict::Drop(DropReason::BadMapEntry);
    let chunk = RINGS
        .get(service.ring_chunk.wrapping_add(chunk))
        .ok_or(bad_entry)?;
    let id = chunk.backend_ids[position];
    if id == NO_BACKEND {
        return Err(Verdict::Drop(DropReason::NoBackend));
    }
    let backend = BACKENDS.get(id).ok_or(bad_entry)?;
    if backend.forwarding == 0 {
        return Err(Verdict::Drop(DropReason::NoRoute));
    }
    Ok((id, backend))
}
