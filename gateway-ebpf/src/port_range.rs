// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! The range of ports that a packet or a connection falls into, asked only when
//! no entry is for its port alone.

use gateway_common::{
    addr::Addr16,
    port_range::{MAX_PORT_RANGES, PortRange, PortRangesKey},
};

use crate::{
    aligned::Aligned,
    maps::{PORT_RANGES, SETTINGS},
    mask::masked,
};

/// Whether there are ranges at all: without any, a packet that is not ours is
/// not looked up again.
#[inline(always)]
pub fn in_use() -> bool {
    SETTINGS
        .get(0)
        .is_some_and(|settings| settings.port_ranges != 0)
}

/// The range of `addr` that the port is in; `table` is a `RANGES_OF_*`.
#[inline(always)]
pub fn find(addr: Addr16, proto: u8, table: u8, port_be: u16) -> Option<PortRange> {
    let key = Aligned(PortRangesKey {
        addr,
        proto,
        table,
        _pad: [0; 2],
    });
    // SAFETY: entries are replaced whole by the agent. An element freed while it
    // is read here may show another address's ranges; the entry that is looked
    // up with one of them is then not there.
    let ranges = unsafe { PORT_RANGES.get(&key.0) }?;
    ranges.find_by(u16::from_be(port_be), |position| {
        masked::<{ MAX_PORT_RANGES as u32 - 1 }>(position)
    })
}
