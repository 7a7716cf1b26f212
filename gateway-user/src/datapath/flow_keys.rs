// SPDX-License-Identifier: Apache-2.0 OR MIT
//! FLOWS: the keys by which programs find flows. They insert, the agent removes.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use aya::maps::{HashMap, IterableMap, MapData, MapError};
use gateway_common::{
    flow::{FlowKey, FlowRef},
    names::MAP_FLOWS,
};

use crate::datapath::{DatapathError, keys::display, maps::failed};

/// `BPF_MAP_LOOKUP_AND_DELETE_ELEM` (include/uapi/linux/bpf.h, enum bpf_cmd),
/// which aya 0.14 has for queues only.
const LOOKUP_AND_DELETE: libc::c_long = 21;
/// `BPF_NOEXIST`.
const NOEXIST: u64 = 1;

/// Handle of the map.
#[derive(Debug)]
pub struct FlowKeys(HashMap<MapData, FlowKey, FlowRef>);

impl FlowKeys {
    /// Takes the map over.
    ///
    /// # Errors
    /// When its keys or values have another size.
    pub fn new(data: MapData) -> Result<Self, DatapathError> {
        let map = aya::maps::Map::HashMap(data);
        HashMap::try_from(map)
            .map(Self)
            .map_err(failed(MAP_FLOWS, "describe", "all"))
    }

    /// What a key maps to.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn get(&self, key: &FlowKey) -> Result<Option<FlowRef>, DatapathError> {
        match self.0.get(key, 0) {
            Ok(found) => Ok(Some(found)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed(MAP_FLOWS, "read", display(key))(error)),
        }
    }

    /// Removes a key at one stroke with reading it; none when it is not there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn take(&mut self, key: &FlowKey) -> Result<Option<FlowRef>, DatapathError> {
        let mut found = FlowRef {
            slot: 0,
            generation: 0,
            direction: 0,
        };
        // struct { __u32 map_fd; __aligned_u64 key; __aligned_u64 value;
        // __u64 flags; }
        let mut attr = [
            self.fd(),
            std::ptr::from_ref(key).expose_provenance() as u64,
            (&raw mut found).expose_provenance() as u64,
            0,
        ];
        // SAFETY: `attr` is as long as said and live, and so are key and value,
        // whose sizes are those of the map: `new` has compared them.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                LOOKUP_AND_DELETE,
                attr.as_mut_ptr(),
                size_of_val(&attr),
            )
        };
        if result == 0 {
            return Ok(Some(found));
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ENOENT) {
            return Ok(None);
        }
        Err(failed(MAP_FLOWS, "remove", display(key))(error))
    }

    /// Puts a key back that was not to be removed; if there is another in its
    /// place by now, that one stays.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn restore(&mut self, key: &FlowKey, flow: FlowRef) -> Result<(), DatapathError> {
        match self.0.insert(key, flow, NOEXIST) {
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EEXIST) =>
            {
                Ok(())
            }
            other => other.map_err(failed(MAP_FLOWS, "write", display(key))),
        }
    }

    /// The descriptor as a field of `union bpf_attr`: the first four bytes.
    fn fd(&self) -> u64 {
        let mut bytes = [0; 8];
        let fd = self.0.map().fd().as_fd().as_raw_fd();
        bytes[..4].copy_from_slice(&fd.to_ne_bytes());
        u64::from_ne_bytes(bytes)
    }
}
