// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who may open flows: source lists, looked up by longest prefix.
//!
//! A list is a set of prefixes under one id, each with a verdict; the longest
//! one that contains the source decides, and a source that none contains is
//! denied. Services with equal lists share an id; a list is never changed, a
//! service moves to another id.

use crate::addr::Addr16;

/// The id of a service without a list: everybody may.
pub const NO_SOURCE_LIST: u32 = 0;

/// Value of a prefix whose sources are refused.
pub const SOURCE_DENIED: u32 = 0;
/// Value of a prefix whose sources are taken.
pub const SOURCE_ALLOWED: u32 = 1;

/// What a prefix is compared with, after the length that the kernel's map type
/// puts in front: the id in full, then the leading bits of the address. The
/// length counts the bits of both (`BPF_MAP_TYPE_LPM_TRIE` in the kernel's
/// documentation).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceKey {
    /// Id of the list; never [`NO_SOURCE_LIST`].
    pub list: u32,
    /// Address, IPv4 mapped.
    pub addr: Addr16,
}

const _: () = assert!(size_of::<SourceKey>() == 20);

/// Bits of the id in a key.
pub const SOURCE_LIST_BITS: u32 = 32;
/// Bits of a whole key: the length of a look-up.
pub const SOURCE_KEY_BITS: u32 = SOURCE_LIST_BITS + 128;
/// Bytes of a key in the map, its length included.
pub const SOURCE_ENTRY_KEY_SIZE: u32 = 4 + size_of::<SourceKey>() as u32;
