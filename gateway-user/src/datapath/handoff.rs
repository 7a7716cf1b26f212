// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The flow table as the threads see it that hand connections off: a slot and
//! two keys for a connection that is still theirs, and the moment it is not.
//!
//! A slot is a thread's own from OBSERVE until ACTIVE. The sweeper takes slots
//! that nobody finished, and of another agent's soon: it may be finishing what it
//! relays, or be gone. So every change of state compares the generation as well,
//! in one word with the state; who has lost its slot goes on relaying.

use std::{
    fmt, io,
    net::SocketAddr,
    ops::RangeInclusive,
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{Ordering, fence},
    },
};

use aya::maps::{HashMap, Map, MapData, MapError, Queue};
use gateway_common::{
    addr::Addr16,
    checksum::{diff_address, diff16, fold},
    flow::{
        DIR_TO_BACKEND, DIR_TO_CLIENT, FlowDirection, FlowKey, FlowRef, FlowSlot, KIND_HANDOFF,
        PROTOCOL_TCP, RECORD_NONE, SLOT_ACTIVE, SLOT_CLAIMED, SLOT_DEAD, SLOT_FREE, SLOT_HOLD,
        SLOT_OBSERVE,
    },
    names::{MAP_FLOW_SLOTS, MAP_FLOWS, MAP_FREE_SLOTS},
    source_flows::NO_PLACE,
    tcp_splice::Splice,
    tcp_state::TCP_ESTABLISHED,
};

pub use crate::datapath::relayed::{ConnectionNames, Ends, Moved, RelayMode, Relayed, Seen};
use crate::datapath::{
    DatapathError,
    flows::monotonic_ns,
    labels::{Issued, Labels},
    slots::Slot,
    sysctl,
};

/// `BPF_NOEXIST` of `linux/bpf.h`.
const BPF_NOEXIST: u64 = 1;

/// Shared by all threads.
pub struct Handoffs {
    maps: Mutex<HandoffMaps>,
    slots: MapData,
    length: u32,
    labels: Arc<Labels>,
    epoch: u32,
    ports: RangeInclusive<u16>,
    /// Whether the node forwards, by family; asked when it matters first.
    forwards: [OnceLock<bool>; 2],
}

struct HandoffMaps {
    flows: HashMap<MapData, FlowKey, FlowRef>,
    free_slots: Queue<MapData, u32>,
}

/// A connection whose packets are noted down. Dropped, it is forgotten again.
#[derive(Debug)]
pub struct Observed {
    table: Arc<Handoffs>,
    slot: Slot,
    index: u32,
    generation: u32,
    keys: [FlowKey; 2],
    /// Until its number is in a slot that the sweeper finds.
    label: Issued,
    /// The kernel has it.
    is_active: bool,
}

impl fmt::Debug for Handoffs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handoffs")
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
}

impl Handoffs {
    /// Opens the maps pinned in `directory`. Connections are handed off that have
    /// one of `ports` towards their backend; `epoch` is the number of the agent's
    /// start.
    ///
    /// # Errors
    /// When a map is not there, or another one.
    pub fn open(
        directory: &Path,
        ports: RangeInclusive<u16>,
        labels: Arc<Labels>,
        epoch: u32,
    ) -> Result<Self, DatapathError> {
        let open =
            |name: &'static str| MapData::from_pin(directory.join(name)).map_err(refused(name));
        let slots = open(MAP_FLOW_SLOTS)?;
        let maps = HandoffMaps {
            flows: Map::from_map_data(open(MAP_FLOWS)?)
                .and_then(TryInto::try_into)
                .map_err(refused(MAP_FLOWS))?,
            free_slots: Map::from_map_data(open(MAP_FREE_SLOTS)?)
                .and_then(TryInto::try_into)
                .map_err(refused(MAP_FREE_SLOTS))?,
        };
        let info = slots.info().map_err(refused(MAP_FLOW_SLOTS))?;
        Ok(Self {
            maps: Mutex::new(maps),
            length: info.max_entries(),
            slots,
            labels,
            epoch,
            ports,
            forwards: Default::default(),
        })
    }

    /// Source ports that no flow of a service uses.
    pub fn ports(&self) -> RangeInclusive<u16> {
        self.ports.clone()
    }

    /// Whether the kernel can take packets from the one side to the other: both
    /// are of one family, and the node forwards that. IPv6 forwarding is switched
    /// on with the first connection that needs it.
    pub fn forwards(&self, ends: &Ends) -> bool {
        let [client, backend] =
            [ends.client, ends.backend].map(|end| end.ip().to_canonical().is_ipv6());
        client == backend
            && *self.forwards[usize::from(client)].get_or_init(|| sysctl::forwards(client))
    }

    /// Whether a new connection from `source` to `backend` would get the packets
    /// of one that was handed off.
    pub fn is_taken(&self, source: SocketAddr, backend: SocketAddr) -> bool {
        let maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(
            maps.flows.get(&key(backend, source), 0),
            Err(MapError::KeyNotFound)
        )
    }

    /// Begins to note down the packets of a connection. `keep` says which options
    /// its two sides have agreed upon (`tcp_splice::KEEP_*`).
    ///
    /// # Errors
    /// `QuotaExceeded` when the flow table is full, `AlreadyExists` while it has an
    /// earlier connection with the same ports, and whatever the kernel refuses with.
    pub fn observe(
        self: &Arc<Self>,
        relayed: &Relayed,
        keep: u32,
        window_shift: [i32; 2],
    ) -> io::Result<Observed> {
        let ends = &relayed.ends;
        let label = self.labels.issue(&relayed.names);
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match maps.free_slots.pop(0) {
            Ok(index) if index < self.length => index,
            Ok(_) | Err(MapError::ElementNotFound) => {
                return Err(io::ErrorKind::QuotaExceeded.into());
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        let slot = match Slot::map(self.slots.fd().as_fd(), index, self.length) {
            Ok(slot) => slot,
            Err(error) => {
                let _ = maps.free_slots.push(index, 0);
                return Err(error);
            }
        };
        // Listed twice, or in use: the sweeper's affair.
        let Some(generation) = slot.claim() else {
            return Err(io::ErrorKind::ResourceBusy.into());
        };
        let keys = [
            key(ends.client, ends.destination),
            key(ends.backend, ends.source),
        ];
        let now = monotonic_ns();
        let age = relayed.accepted.elapsed().as_nanos() as u64;
        let towards = |index: usize, source, destination| FlowDirection {
            last_seen_ns: now,
            ..direction(keys[index], source, destination, window_shift[index], keep)
        };
        slot.fill(&FlowSlot {
            state: SLOT_CLAIMED,
            generation,
            kind: KIND_HANDOFF,
            tcp_state: TCP_ESTABLISHED,
            service_id: label.id(),
            backend_id: RECORD_NONE,
            config_generation: self.epoch,
            established_timeout_s: relayed.timeout_s,
            created_ns: now.saturating_sub(age),
            source_place: NO_PLACE,
            half_open: 0,
            seq_delta: [0; 2],
            hold_until_ns: 0,
            dir: [
                towards(0, ends.source, ends.backend),
                towards(1, ends.destination, ends.client),
            ],
        });
        for direction in [DIR_TO_BACKEND, DIR_TO_CLIENT] {
            let reference = FlowRef {
                slot: index,
                generation,
                direction,
            };
            let key = &keys[direction as usize];
            if let Err(error) = maps.flows.insert(key, reference, BPF_NOEXIST) {
                if direction == DIR_TO_CLIENT {
                    let _ = maps.flows.remove(&keys[0]);
                }
                if slot.change(SLOT_CLAIMED, SLOT_FREE, generation) {
                    let _ = maps.free_slots.push(index, 0);
                }
                return Err(match error {
                    MapError::SyscallError(error) => error.io_error,
                    error => io::Error::other(error),
                });
            }
        }
        drop(maps);
        let observed = Observed {
            table: Arc::clone(self),
            slot,
            index,
            generation,
            keys,
            label,
            is_active: false,
        };
        if observed.change(SLOT_CLAIMED, SLOT_OBSERVE) {
            observed.label.confirm();
            Ok(observed)
        } else {
            Err(io::ErrorKind::ResourceBusy.into())
        }
    }
}

impl Observed {
    fn change(&self, from: u32, to: u32) -> bool {
        self.slot.change(from, to, self.generation)
    }

    /// What was let through from the client (`DIR_TO_BACKEND`) or the backend.
    pub fn seen(&self, direction: u32) -> Seen {
        let (flags, seq_end, timestamp) = self.slot.seen(direction as usize);
        Seen {
            flags,
            seq_end,
            timestamp,
        }
    }

    /// Says what was relayed so far; before it is held.
    pub fn set_moved(&self, moved: &Moved) {
        if self.slot.is(SLOT_OBSERVE, self.generation) {
            self.slot.set_moved(moved);
        }
    }

    /// Lets no packet through for `nanoseconds`, unless [`Self::release`] or
    /// [`Self::activate`] end it. What [`Self::seen`] says from now on is
    /// everything that was let through. False when the slot was lost.
    pub fn hold(&self, nanoseconds: u64) -> bool {
        if !self.slot.is(SLOT_OBSERVE, self.generation) {
            return false;
        }
        self.slot.set_hold(monotonic_precise_ns() + nanoseconds);
        let held = self.change(SLOT_OBSERVE, SLOT_HOLD);
        // The state is written before anything is read: see the program.
        fence(Ordering::SeqCst);
        held
    }

    /// Lets packets through again.
    pub fn release(&self) {
        // A program may have done so.
        self.change(SLOT_HOLD, SLOT_OBSERVE);
    }

    /// Gives the held connection to the kernel. False when the hold had ended:
    /// packets have been let through, and it is still the sockets'.
    pub fn activate(&mut self, splices: &[Splice; 2]) -> bool {
        if !self.slot.is(SLOT_HOLD, self.generation) {
            return false;
        }
        self.slot.set_deltas(splices);
        self.slot.owe_record(true);
        self.is_active = self.change(SLOT_HOLD, SLOT_ACTIVE);
        if !self.is_active && self.slot.is(SLOT_OBSERVE, self.generation) {
            self.slot.owe_record(false);
        }
        self.is_active
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        if self.is_active {
            return;
        }
        self.change(SLOT_HOLD, SLOT_OBSERVE);
        // Lost to the sweeper, which does the rest.
        if !self.change(SLOT_OBSERVE, SLOT_DEAD) {
            return;
        }
        let mut maps = self
            .table
            .maps
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let own = |found: FlowRef| (found.slot, found.generation) == (self.index, self.generation);
        for key in &self.keys {
            // A key of an observed connection is nobody else's: a program
            // overwrites only those of the dead, and the table has it for a
            // few microseconds more.
            if maps.flows.get(key, 0).is_ok_and(own) {
                let _ = maps.flows.remove(key);
            }
        }
        if self.change(SLOT_DEAD, SLOT_FREE) {
            let _ = maps.free_slots.push(self.index, 0);
        }
    }
}

fn refused<E>(map: &'static str) -> impl FnOnce(E) -> DatapathError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |error| DatapathError::Map {
        map,
        operation: "open",
        key: "all".to_owned(),
        cause: error.into(),
    }
}

fn key(src: SocketAddr, dst: SocketAddr) -> FlowKey {
    FlowKey {
        src: Addr16::from(src.ip()),
        dst: Addr16::from(dst.ip()),
        src_port_be: src.port().to_be(),
        dst_port_be: dst.port().to_be(),
        proto: PROTOCOL_TCP,
        _pad: [0; 3],
    }
}

fn direction(
    key: FlowKey,
    source: SocketAddr,
    destination: SocketAddr,
    window_shift: i32,
    keep: u32,
) -> FlowDirection {
    let (new_src, new_dst) = (Addr16::from(source.ip()), Addr16::from(destination.ip()));
    let (src_port_be, dst_port_be) = (source.port().to_be(), destination.port().to_be());
    let addresses = diff_address(&key.src, &new_src) + diff_address(&key.dst, &new_dst);
    let ports = diff16(key.src_port_be, src_port_be) + diff16(key.dst_port_be, dst_port_be);
    FlowDirection {
        new_src,
        new_dst,
        new_src_port_be: src_port_be,
        new_dst_port_be: dst_port_be,
        tcp_flags_seen: 0,
        packets: 0,
        bytes: 0,
        last_seen_ns: 0,
        addresses_diff: fold(addresses),
        ports_diff: fold(ports),
        seq_end: 0,
        ack: 0,
        ts_seen: 0,
        ts_delta: 0,
        // -14 to 14, and two bits.
        window_shift: window_shift as i16,
        keep: keep as u16,
        _pad: [0; 2],
    }
}

/// The clock of `bpf_ktime_get_ns`.
fn monotonic_precise_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a timespec to write to; the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
