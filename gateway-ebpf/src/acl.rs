// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Which sources may open flows to a service.

use aya_ebpf::maps::lpm_trie::Key;
use gateway_common::{
    drop_reason::DropReason,
    service::ServiceValue,
    source::{NO_SOURCE_LIST, SOURCE_ALLOWED, SOURCE_KEY_BITS, SourceKey},
};

use crate::{aligned::Aligned, maps::SOURCES, packet::Packet, verdict::Verdict};

/// Refuses a first packet whose source the service's list does not take. A list
/// that is not there takes nobody.
#[inline(always)]
pub fn check(packet: &Packet, service: &ServiceValue) -> Result<(), Verdict> {
    if service.source_list == NO_SOURCE_LIST {
        return Ok(());
    }
    let key = Aligned(Key::new(
        SOURCE_KEY_BITS,
        SourceKey {
            list: service.source_list,
            addr: packet.key.src,
        },
    ));
    match SOURCES.get(&key.0) {
        Some(verdict) if *verdict == SOURCE_ALLOWED => Ok(()),
        _ => Err(Verdict::Drop(DropReason::SourceDenied)),
    }
}
