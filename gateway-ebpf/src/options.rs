// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! TCP options of handed-off connections, whatever they are and wherever they
//! stand.
//!
//! In a program of its own, which knows of the packet no more than where its TCP
//! header is: a loop costs the verifier as much again for each way that leads to
//! it. The segments that most connections are made of do without: see
//! [`crate::handoff`].

use core::mem::offset_of;

use gateway_common::{
    drop_reason::DropReason,
    names::{CALL_HANDOFF, CALL_OPTIONS},
    tcp_splice::{Header, MAX_STEPS, Splice, Step, Walk, WalkOrder},
};

use crate::{
    context::{Context, L4Checksum},
    maps::OPTION_WALK,
    mask::masked,
    packet::{ETHERNET_LEN, Packet, TCP_LEN, Tcp},
    rewrite::OUT_OF_REACH,
    verdict::Verdict,
    word::{load_u32, store_u32},
};

/// The order of this CPU.
#[inline(always)]
fn order() -> Result<*mut WalkOrder, Verdict> {
    // The look-up returns no null, and what is there is for this CPU alone; the
    // programs run with migration off and do not interrupt themselves.
    OPTION_WALK
        .get_ptr_mut(0)
        .ok_or(Verdict::Drop(DropReason::BadMapEntry))
}

/// Has the options of a packet translated, and comes back at the start of the
/// program that asks for it. Not taken for the packet at hand, [`are_done`] would
/// be taken for the next.
#[inline(always)]
pub fn walk<C: Context>(ctx: &C, packet: &Packet, splice: &Splice) -> Result<u64, Verdict> {
    let order = order()?;
    let end = header_end(packet).wrapping_sub(packet.l4_offset);
    // SAFETY: see `order`.
    unsafe {
        (*order).walk = Walk::new(TCP_LEN as u32, end as u32);
        (*order).splice = *splice;
        (*order).l4_offset = packet.l4_offset as u32;
    }
    ctx.continue_with(CALL_OPTIONS);
    Err(Verdict::Drop(DropReason::HelperFailed))
}

/// Whether the options of the packet at hand are translated; asked first of all,
/// and once.
#[inline(always)]
pub fn are_done() -> bool {
    let Ok(order) = order() else {
        return false;
    };
    // SAFETY: see `order`.
    unsafe {
        let is_done = (*order).is_done != 0;
        (*order).is_done = 0;
        is_done
    }
}

/// Of the Ethernet, IP and TCP headers.
#[inline(always)]
pub fn header_end(packet: &Packet) -> usize {
    ETHERNET_LEN + packet.header_len as usize
}

/// Translates the options as ordered.
#[inline(always)]
pub fn handle<C: Context>(ctx: &C) -> Result<Verdict, Verdict> {
    let order = order()?;
    // SAFETY: see `order`. What is read is what was written; the verifier does
    // not know, and so each step begins as the one before did.
    let (splice, l4_offset) =
        unsafe { ((*order).splice, masked::<511>((*order).l4_offset as usize)) };
    let mut reach = Reach { ctx, l4_offset };
    for _ in 0..MAX_STEPS {
        // SAFETY: as above.
        let mut walk = unsafe { (&raw const (*order).walk).read_volatile() };
        match walk.step(&mut reach, &splice) {
            Step::More => {}
            Step::Done => break,
            Step::OutOfReach => return Err(OUT_OF_REACH),
        }
        // SAFETY: as above.
        unsafe { (&raw mut (*order).walk).write_volatile(walk) };
    }
    // SAFETY: as above.
    let diff = unsafe { (&raw const (*order).walk).read_volatile() }.diff();
    ctx.update_l4_checksum(&L4Checksum {
        offset: l4_offset + offset_of!(Tcp, check),
        addresses: 0,
        header: diff,
        is_optional: false,
    })?;
    // SAFETY: as above; nothing comes between this and the program that reads it.
    unsafe { (*order).is_done = 1 };
    ctx.continue_with(CALL_HANDOFF);
    // SAFETY: as above.
    unsafe { (*order).is_done = 0 };
    Err(Verdict::Drop(DropReason::HelperFailed))
}

/// The TCP header in the frame.
struct Reach<'a, C> {
    ctx: &'a C,
    l4_offset: usize,
}

impl<C: Context> Reach<'_, C> {
    /// The first byte of the `T` at `at`.
    #[inline(always)]
    fn find<T>(&self, at: u32) -> Option<*mut u8> {
        self.ctx
            .header::<T>(self.l4_offset + masked::<63>(at as usize))
    }
}

impl<C: Context> Header for Reach<'_, C> {
    #[inline(always)]
    fn byte(&self, at: u32) -> Option<u8> {
        let byte = self.find::<u8>(at)?;
        // SAFETY: `find` has compared its end with the end of the data.
        Some(unsafe { *byte })
    }

    #[inline(always)]
    fn word(&self, at: u32) -> Option<u32> {
        let word = self.find::<u32>(at)?;
        // SAFETY: as above.
        Some(unsafe { load_u32::<0>(word) })
    }

    #[inline(always)]
    fn set_byte(&mut self, at: u32, byte: u8) -> bool {
        let Some(place) = self.find::<u8>(at) else {
            return false;
        };
        // SAFETY: as above.
        unsafe { *place = byte };
        true
    }

    #[inline(always)]
    fn set_word(&mut self, at: u32, word: u32) -> bool {
        let Some(place) = self.find::<u32>(at) else {
            return false;
        };
        // SAFETY: as above.
        unsafe { store_u32::<0>(place, word) };
        true
    }
}
