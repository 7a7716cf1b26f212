// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Limits of one source's flows to one service.

use core::ptr;

use aya_ebpf::{bindings::BPF_ANY, helpers::bpf_ktime_get_ns};
use gateway_common::{
    drop_reason::DropReason,
    limit::{SourceId, take_token},
    service::ServiceValue,
    settings::Settings,
};

use crate::{
    aligned::Aligned, atomic, flow::counted, maps::SOURCE_RATES, packet::Packet, verdict::Verdict,
};

/// Attempts at a bucket that other CPUs take from at the same time.
const TRIES: u32 = 4;

/// Takes a token of the source's bucket. A bucket that was forgotten is full.
#[inline(always)]
pub fn rate(packet: &Packet, service: &ServiceValue, settings: &Settings) -> Result<(), Verdict> {
    let (rate, burst) = (service.guard.source_rate, service.guard.source_burst);
    if rate == 0 {
        return Ok(());
    }
    let refused = Verdict::Drop(DropReason::SourceRate);
    let source = source(packet, service, settings);
    let Some(bucket) = SOURCE_RATES.get_ptr_mut(&source.0) else {
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        let next = take_token(0, now, rate, burst).ok_or(refused)?;
        // Should the map refuse, the source is counted from the next flow on.
        let _ = SOURCE_RATES.insert(&source.0, next, u64::from(BPF_ANY));
        return Ok(());
    };
    if take(bucket, rate, burst) {
        Ok(())
    } else {
        Err(refused)
    }
}

/// Takes a token of a bucket in a map; false when there is none, or others take
/// from it all the time.
#[inline(always)]
pub fn take(bucket: *mut u64, rate: u32, burst: u32) -> bool {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    for _ in 0..TRIES {
        // SAFETY: a look-up returned it, not null. An element that is reused
        // meanwhile is another source's bucket: it loses one token.
        let full_at = unsafe { ptr::read_volatile(bucket) };
        let Some(next) = take_token(full_at, now, rate, burst) else {
            return false;
        };
        // SAFETY: as above; the word is aligned and changed by atomic operations.
        if unsafe { atomic::compare_exchange64(bucket, full_at, next) }.is_ok() {
            return true;
        }
    }
    false
}

/// Refuses a flow of a source that has as many as it may. Before the rate is asked,
/// so that what is refused costs no token.
#[inline(always)]
pub fn flows(packet: &Packet, service: &ServiceValue, settings: &Settings) -> Result<(), Verdict> {
    let most = service.guard.source_flows;
    if most != 0 && counted::of_source(&source(packet, service, settings).0, settings) >= most {
        return Err(Verdict::Drop(DropReason::SourceFlows));
    }
    Ok(())
}

/// Counts the flow for its source, the last thing before it is made. Another CPU
/// may have counted the last one meanwhile.
#[inline(always)]
pub fn count(packet: &Packet, service: &ServiceValue, settings: &Settings) -> Result<(), Verdict> {
    let most = service.guard.source_flows;
    if most == 0 || counted::take_place(&source(packet, service, settings).0, settings, most) {
        Ok(())
    } else {
        Err(Verdict::Drop(DropReason::SourceFlows))
    }
}

/// Who is counted for a packet.
#[inline(always)]
fn source(packet: &Packet, service: &ServiceValue, settings: &Settings) -> Aligned<SourceId> {
    Aligned(SourceId {
        addr: settings.limits.source_mask.prefix(&packet.key.src),
        service_id: service.service_id,
    })
}
