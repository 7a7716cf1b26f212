// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernel arrays as memory: flow slots and ring chunks.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use gateway_common::{
    addr::Addr16,
    backend::NO_BACKEND,
    flow::{FlowDirection, FlowSlot},
    maglev::{chunk_of, chunks_for},
    service::{RING_CHUNK_IDS, RingChunk},
    source_flows::NO_PLACE,
};

use crate::datapath::fault;

mod handoff;

/// An array map, mapped for reading and writing. Shared with programs on every
/// CPU, so that nothing in it may be borrowed as plain data: fields are read
/// and written one by one, as volatile or atomic values.
#[derive(Debug)]
pub(super) struct Mapping<T> {
    start: NonNull<T>,
    length: u32,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is unmapped
// by its only owner.
unsafe impl<T> Send for Mapping<T> {}
// SAFETY: every access through a shared reference is volatile or atomic.
unsafe impl<T> Sync for Mapping<T> {}

impl<T> Mapping<T> {
    /// Maps `length` values of type `T` of the array map behind `fd`, from
    /// `first` on (the caller has checked type and length with the kernel;
    /// `first` is at the start of a page).
    pub(super) fn new(fd: BorrowedFd<'_>, first: u32, length: u32) -> io::Result<Self> {
        // The kernel lays values out 8 bytes aligned without gaps between.
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        // SAFETY: a new mapping at an address the kernel chooses touches no
        // memory of ours.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::bytes(length),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                Self::bytes(first) as libc::off_t,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(address.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { start, length })
    }

    fn bytes(length: u32) -> usize {
        size_of::<T>() * length as usize
    }

    /// A pointer to the value at `index`; none beyond the end.
    pub(super) fn value(&self, index: u32) -> Option<NonNull<T>> {
        if index >= self.length {
            return None;
        }
        // SAFETY: `index` is within the mapping, as just checked.
        Some(unsafe { self.start.add(index as usize) })
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `new`, and nobody else unmaps it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), Self::bytes(self.length)) };
    }
}

/// Slots mapped at a time. Whole pages of any size up to 64 KiB.
const WINDOW_SLOTS: u32 = 16_384;
const _: () = assert!((WINDOW_SLOTS as usize * size_of::<FlowSlot>()).is_multiple_of(65_536));

/// The flow table's state, seen through a window that moves: the table belongs
/// to the kernel, but what is mapped counts as the agent's resident memory,
/// and most of a large table is free.
#[derive(Debug)]
pub struct FlowSlots {
    fd: OwnedFd,
    length: u32,
    window: RefCell<Window>,
}

#[derive(Debug)]
struct Window {
    first: u32,
    mapping: Arc<Mapping<FlowSlot>>,
}

impl Window {
    fn at(fd: BorrowedFd<'_>, first: u32, length: u32) -> io::Result<Self> {
        let mapping = Mapping::new(fd, first, WINDOW_SLOTS.min(length - first))?;
        Ok(Self {
            first,
            mapping: Arc::new(mapping),
        })
    }
}

/// One slot; keeps its window mapped.
#[derive(Clone, Debug)]
pub struct Slot {
    slot: NonNull<FlowSlot>,
    _window: Arc<Mapping<FlowSlot>>,
}

impl FlowSlots {
    /// Opens FLOW_SLOTS, which has `length` slots (at least one).
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn new(fd: BorrowedFd<'_>, length: u32) -> io::Result<Self> {
        let fd = fd.try_clone_to_owned()?;
        let window = RefCell::new(Window::at(fd.as_fd(), 0, length)?);
        Ok(Self { fd, length, window })
    }

    /// Slots.
    pub fn len(&self) -> u32 {
        self.length
    }

    /// The slot at `index`; none beyond the end, or when the kernel refuses to
    /// map it (it has no room for another mapping: tried again next time).
    pub fn slot(&self, index: u32) -> Option<Slot> {
        if index >= self.length {
            return None;
        }
        let first = index - index % WINDOW_SLOTS;
        let mut window = self.window.borrow_mut();
        if window.first != first {
            *window = Window::at(self.fd.as_fd(), first, self.length).ok()?;
        }
        Some(Slot {
            slot: window.mapping.value(index - first)?,
            _window: Arc::clone(&window.mapping),
        })
    }
}

impl Slot {
    fn state_cell(&self) -> &AtomicU32 {
        // SAFETY: the pointer is into the live mapping (`slot` checked the
        // index, the slot holds the window), aligned as its type is, and the
        // programs only access the field as a whole 32-bit word.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.slot.as_ptr()).state) }
    }

    /// `SLOT_*`. What a program wrote before it set the state is seen after.
    pub fn state(&self) -> u32 {
        self.state_cell().load(Ordering::Acquire)
    }

    /// Moves the slot from one state to another; false when it is not in
    /// `from` any more.
    pub fn change_state(&self, from: u32, to: u32) -> bool {
        let cell = self.state_cell();
        cell.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Raised each time the slot is claimed.
    pub fn generation(&self) -> u32 {
        // SAFETY: as in `state_cell`.
        unsafe { (&raw const (*self.slot.as_ptr()).generation).read_volatile() }
    }

    /// `KIND_*`.
    pub fn kind(&self) -> u32 {
        // SAFETY: as in `state_cell`.
        unsafe { (&raw const (*self.slot.as_ptr()).kind).read_volatile() }
    }

    /// A copy of everything. Programs may write meanwhile: counters and times
    /// can be from different packets, and only the caller knows from the state
    /// whether the rest is settled.
    pub fn copy(&self) -> FlowSlot {
        // SAFETY: the pointer is valid and aligned as in `state_cell`, and every
        // bit pattern is a FlowSlot (integers only).
        unsafe { self.slot.as_ptr().read_volatile() }
    }

    /// The direction's last packet, monotonic nanoseconds.
    pub fn last_seen_ns(&self, direction: usize) -> u64 {
        let directions: *const FlowDirection = {
            // SAFETY: as in `state_cell`; only the address is computed.
            unsafe { &raw const (*self.slot.as_ptr()).dir }.cast()
        };
        // SAFETY: as in `state_cell`; the array has two directions.
        unsafe { (&raw const (*directions.add(direction & 1)).last_seen_ns).read_volatile() }
    }

    /// Writes `tcp_state`. Only for a slot in CLOSING: programs leave the state
    /// of a flow that has ended alone.
    pub fn set_tcp_state(&self, state: u32) {
        // SAFETY: as in `state_cell`, for another word of the slot.
        let cell = unsafe { AtomicU32::from_ptr(&raw mut (*self.slot.as_ptr()).tcp_state) };
        cell.store(state, Ordering::Release);
    }

    /// Address and port (network order) of the backend.
    pub fn backend(&self) -> (Addr16, u16) {
        let to_backend: *const FlowDirection = {
            // SAFETY: as in `state_cell`; only the address is computed.
            unsafe { &raw const (*self.slot.as_ptr()).dir }.cast()
        };
        // SAFETY: as in `state_cell`: the first of two directions.
        unsafe {
            (
                (&raw const (*to_backend).new_dst).read_volatile(),
                (&raw const (*to_backend).new_dst_port_be).read_volatile(),
            )
        }
    }

    /// Takes away what counts the flow: whether it counted as half-open, and its
    /// place among the flows of its source.
    pub fn take_counts(&self) -> (bool, u32) {
        let slot = self.slot.as_ptr();
        // SAFETY: as in `state_cell`, for two other words of the slot.
        let (half_open, place) = unsafe {
            (
                AtomicU32::from_ptr(&raw mut (*slot).half_open),
                AtomicU32::from_ptr(&raw mut (*slot).source_place),
            )
        };
        (
            half_open.swap(0, Ordering::AcqRel) != 0,
            place.swap(NO_PLACE, Ordering::AcqRel),
        )
    }

    /// `tcp_state`, service's timeout (seconds) and time of creation (ns).
    pub fn timing(&self) -> (u32, u32, u64) {
        let slot = self.slot.as_ptr();
        // SAFETY: as in `state_cell`.
        unsafe {
            (
                (&raw const (*slot).tcp_state).read_volatile(),
                (&raw const (*slot).established_timeout_s).read_volatile(),
                (&raw const (*slot).created_ns).read_volatile(),
            )
        }
    }
}

/// The rings.
#[derive(Debug)]
pub struct Rings(Mapping<RingChunk>);

impl Rings {
    /// Maps RINGS, which has `length` chunks.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn new(fd: BorrowedFd<'_>, length: u32) -> io::Result<Self> {
        Mapping::new(fd, 0, length).map(Self)
    }

    /// Chunks.
    pub fn len(&self) -> u32 {
        self.0.length
    }

    /// Writes `ring` from `chunk` on. Nothing may point at it yet.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn write(&self, chunk: u32, ring: &[u32]) -> io::Result<()> {
        let chunks = chunks_for(ring.len() as u32);
        if chunk.checked_add(chunks).is_none_or(|end| end > self.len()) {
            return Err(io::Error::other("beyond the end of the array"));
        }
        for slot in 0..chunks * RING_CHUNK_IDS {
            if slot % RING_CHUNK_IDS == 0 {
                fault::point()?;
            }
            let id = ring.get(slot as usize).copied().unwrap_or(NO_BACKEND);
            if let Some(cell) = self.id(chunk, slot) {
                cell.store(id, Ordering::Relaxed);
            }
        }
        // The system call that points a service here comes after.
        std::sync::atomic::fence(Ordering::Release);
        Ok(())
    }

    /// The ring of `size` slots at `chunk`, cut off where the array ends.
    pub fn read(&self, chunk: u32, size: u32) -> Vec<u32> {
        (0..size)
            .map_while(|slot| Some(self.id(chunk, slot)?.load(Ordering::Relaxed)))
            .collect()
    }

    fn id(&self, chunk: u32, slot: u32) -> Option<&AtomicU32> {
        let (offset, position) = chunk_of(slot);
        let chunk = self.0.value(chunk.checked_add(offset)?)?;
        // The ids are the chunk: an array of them at offset 0.
        let ids: *mut u32 = chunk.as_ptr().cast();
        // SAFETY: the chunk is within the live mapping (`value` checked) and
        // `position` is within it (a remainder of its length); programs read
        // ids as whole words.
        Some(unsafe { AtomicU32::from_ptr(ids.add(position)) })
    }
}
