// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a thread that hands a connection off does to its slot, and what the
//! sweeper wants to know of it later.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use gateway_common::{
    flow::{FlowSlot, RECORD_DONE, RECORD_NONE, RECORD_OWED, SLOT_CLAIMED, SLOT_FREE},
    tcp_splice::Splice,
};

use super::{Mapping, Slot};
use crate::datapath::relayed::Moved;

/// Slots mapped for one of them: as few as begin and end with a page.
fn neighbours() -> u32 {
    // SAFETY: a query without arguments to check.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    if page == 4_096 { 64 } else { 1_024 }
}
const _: () = assert!((64 * size_of::<FlowSlot>()).is_multiple_of(4_096));
const _: () = assert!((1_024 * size_of::<FlowSlot>()).is_multiple_of(65_536));

impl Slot {
    /// Maps the slot at `index` of FLOW_SLOTS, which has `length` slots.
    ///
    /// # Errors
    /// Those of mmap(2); when `index` is beyond the end.
    pub fn map(fd: BorrowedFd<'_>, index: u32, length: u32) -> io::Result<Self> {
        let first = index - index % neighbours();
        let count = neighbours().min(length.saturating_sub(first));
        let mapping = Arc::new(Mapping::new(fd, first, count)?);
        let slot = mapping
            .value(index - first)
            .ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            slot,
            _window: mapping,
        })
    }

    /// State and generation as one word.
    fn identity(&self) -> &AtomicU64 {
        const { assert!(std::mem::offset_of!(FlowSlot, state) == 0) };
        const { assert!(std::mem::offset_of!(FlowSlot, generation) == 4) };
        // SAFETY: as in `state_cell`; the two fields are the first eight bytes
        // of the slot, which is aligned to 64.
        unsafe { AtomicU64::from_ptr(self.slot.as_ptr().cast()) }
    }

    /// Takes a free slot; its generation from now on.
    pub fn claim(&self) -> Option<u32> {
        let before = self.generation();
        let generation = before.wrapping_add(1);
        self.exchange((SLOT_FREE, before), (SLOT_CLAIMED, generation))
            .then_some(generation)
    }

    /// Moves the slot of `generation` from one state to another; false when it
    /// is not in `from`, or not of that generation.
    pub fn change(&self, from: u32, to: u32, generation: u32) -> bool {
        self.exchange((from, generation), (to, generation))
    }

    fn exchange(&self, from: (u32, u32), to: (u32, u32)) -> bool {
        self.identity()
            .compare_exchange(word(from), word(to), Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Writes everything but state and generation to a slot that the caller has
    /// claimed.
    pub fn fill(&self, flow: &FlowSlot) {
        let identity = size_of::<u64>();
        let source: *const u8 = (&raw const *flow).cast();
        // SAFETY: both are whole slots, and different ones; nobody else uses a
        // claimed slot but for its first eight bytes, which are left out.
        unsafe {
            let target: *mut u8 = self.slot.as_ptr().cast();
            target
                .add(identity)
                .copy_from_nonoverlapping(source.add(identity), size_of::<FlowSlot>() - identity);
        }
    }

    /// Flags, end of the sequence and timestamp seen in a direction.
    pub fn seen(&self, direction: usize) -> (u32, u32, u32) {
        let slot = self.slot.as_ptr();
        // SAFETY: as in `state_cell`; the array has two directions.
        unsafe {
            let dir = &raw const (*slot).dir[direction & 1];
            (
                (&raw const (*dir).tcp_flags_seen).read_volatile(),
                (&raw const (*dir).seq_end).read_volatile(),
                (&raw const (*dir).ts_seen).read_volatile(),
            )
        }
    }

    /// Writes what was relayed so far. Programs count from there once the slot
    /// is ACTIVE, and not before.
    pub fn set_moved(&self, moved: &Moved) {
        let slot = self.slot.as_ptr();
        for (direction, (bytes, packets)) in moved.bytes.iter().zip(moved.packets).enumerate() {
            // SAFETY: as in `state_cell`; there are two directions.
            unsafe {
                let dir = &raw mut (*slot).dir[direction & 1];
                (&raw mut (*dir).bytes).write_volatile(*bytes);
                (&raw mut (*dir).packets).write_volatile(packets);
            }
        }
    }

    /// Bytes from the client, and to it.
    pub fn bytes(&self) -> [u64; 2] {
        let slot = self.slot.as_ptr();
        // SAFETY: as in `state_cell`; there are two directions.
        [0, 1].map(|direction| unsafe { (&raw const (*slot).dir[direction].bytes).read_volatile() })
    }

    /// Number of the flow's label.
    pub fn label(&self) -> u32 {
        // SAFETY: as in `state_cell`.
        unsafe { (&raw const (*self.slot.as_ptr()).service_id).read_volatile() }
    }

    /// Number of the agent's start that took it.
    pub fn epoch(&self) -> u32 {
        // SAFETY: as in `state_cell`.
        unsafe { (&raw const (*self.slot.as_ptr()).config_generation).read_volatile() }
    }

    fn record(&self) -> &AtomicU32 {
        // SAFETY: as in `state_cell`, for another word of the slot.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.slot.as_ptr()).backend_id) }
    }

    /// Says that the end of the flow is to be recorded, or not any more. The
    /// caller is about to activate it, or was.
    pub fn owe_record(&self, owed: bool) {
        let word = if owed { RECORD_OWED } else { RECORD_NONE };
        self.record().store(word, Ordering::Release);
    }

    /// Whether the flow, whose end has been recorded, is taken away for the first
    /// time: true once.
    pub fn settle(&self) -> bool {
        let cell = self.record();
        cell.compare_exchange(
            RECORD_DONE,
            RECORD_NONE,
            Ordering::AcqRel,
            Ordering::Acquire,
        )
        .is_ok()
    }

    /// Whether the caller is the one to record the flow's end: true once.
    pub fn take_record(&self) -> bool {
        let cell = self.record();
        cell.compare_exchange(
            RECORD_OWED,
            RECORD_DONE,
            Ordering::AcqRel,
            Ordering::Acquire,
        )
        .is_ok()
    }

    /// Whether it is in `state` and of `generation`.
    pub fn is(&self, state: u32, generation: u32) -> bool {
        self.identity().load(Ordering::SeqCst) == word((state, generation))
    }

    /// Writes when a hold ends, before it begins.
    pub fn set_hold(&self, until_ns: u64) {
        // SAFETY: as in `state_cell`; programs read the word whole.
        unsafe { (&raw mut (*self.slot.as_ptr()).hold_until_ns).write_volatile(until_ns) };
    }

    /// Writes how a held connection will be translated.
    pub fn set_deltas(&self, splices: &[Splice; 2]) {
        let slot = self.slot.as_ptr();
        for (direction, splice) in splices.iter().enumerate() {
            // SAFETY: as in `state_cell`; programs read these words after the
            // state that follows, which is written with release order.
            unsafe {
                (&raw mut (*slot).seq_delta[direction]).write_volatile(splice.seq);
                (&raw mut (*slot).dir[direction].ts_delta).write_volatile(splice.ts_value);
            }
        }
    }
}

/// State and generation as they lie in memory.
fn word((state, generation): (u32, u32)) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&state.to_ne_bytes());
    bytes[4..].copy_from_slice(&generation.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}
