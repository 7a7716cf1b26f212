// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The map of source lists.

use aya::maps::{LpmTrie, Map, MapData, MapError, lpm_trie::Key};
use gateway_common::{
    addr::Addr16,
    names::MAP_SOURCES,
    source::{SOURCE_ALLOWED, SOURCE_DENIED, SOURCE_LIST_BITS, SourceKey},
};

use crate::{
    datapath::{
        DatapathError,
        maps::{entries, failed, into_typed, missing_is_fine, other_type},
    },
    model::SourcePrefix,
};

/// SOURCES.
pub struct SourceMap {
    trie: LpmTrie<MapData, SourceKey, u32>,
    capacity: u32,
}

impl SourceMap {
    /// The map as this type.
    ///
    /// # Errors
    /// When it is of another one.
    pub fn take(map: Map) -> Result<Self, DatapathError> {
        let Map::LpmTrie(data) = &map else {
            return Err(other_type(MAP_SOURCES));
        };
        Ok(Self {
            capacity: entries(data, MAP_SOURCES)?,
            trie: into_typed(map, MAP_SOURCES)?,
        })
    }

    /// Prefixes it has room for.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Every prefix, with the list it is of.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn all(&self) -> Result<Vec<(u32, SourcePrefix)>, DatapathError> {
        let entries = self.trie.iter().map(|entry| {
            let (key, verdict) = entry?;
            let SourceKey { list, addr } = key.data();
            let prefix = SourcePrefix {
                address: u128::from_be_bytes(addr.bytes),
                // At most 128: no key is longer.
                bits: key.prefix_len().saturating_sub(SOURCE_LIST_BITS) as u8,
                allowed: verdict == SOURCE_ALLOWED,
            };
            Ok((list, prefix))
        });
        entries
            .collect::<Result<_, MapError>>()
            .map_err(failed(MAP_SOURCES, "read", "all"))
    }

    /// Adds a prefix to a list.
    ///
    /// # Errors
    /// When the kernel refuses, as it does when the map is full.
    pub fn add(&mut self, list: u32, prefix: SourcePrefix) -> Result<(), DatapathError> {
        let verdict = if prefix.allowed {
            SOURCE_ALLOWED
        } else {
            SOURCE_DENIED
        };
        self.trie
            .insert(&key(list, prefix), verdict, 0)
            .map_err(failed(MAP_SOURCES, "write", prefix))
    }

    /// Removes a prefix from a list; one that is not there is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&mut self, list: u32, prefix: SourcePrefix) -> Result<(), DatapathError> {
        missing_is_fine(self.trie.remove(&key(list, prefix))).map_err(failed(
            MAP_SOURCES,
            "remove",
            prefix,
        ))
    }
}

fn key(list: u32, prefix: SourcePrefix) -> Key<SourceKey> {
    let addr = Addr16 {
        bytes: prefix.address.to_be_bytes(),
    };
    Key::new(
        SOURCE_LIST_BITS + u32::from(prefix.bits),
        SourceKey { list, addr },
    )
}
