// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TLS chains into a table by server name.

use std::sync::Arc;

use crate::{
    model::HostPattern,
    snapshot::{SniTable, TlsChain},
};

/// Indexes chains by their names. The model keeps names disjoint; should one
/// come twice, the first stays.
pub(super) fn table<'a>(
    chains: impl Iterator<Item = (&'a [HostPattern], Arc<TlsChain>)>,
) -> SniTable {
    let mut table = SniTable::default();
    for (names, chain) in chains {
        for name in names {
            let chain = Arc::clone(&chain);
            match name {
                HostPattern::Exact(name) => {
                    table.exact.entry(name.clone()).or_insert(chain);
                }
                HostPattern::Suffix(suffix) => {
                    table.suffixes.entry(suffix.clone()).or_insert(chain);
                }
                HostPattern::Any => {
                    table.default.get_or_insert(chain);
                }
            }
        }
    }
    table
}
