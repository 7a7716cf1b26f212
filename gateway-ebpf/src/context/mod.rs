// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! What differs between XDP and tc, behind one trait.

mod tc;
mod xdp;

use core::{arch::asm, ffi::c_void};

use gateway_common::{checksum::diff16, next_hop::NextHop};

use crate::{
    packet::Ethernet,
    rewrite::OUT_OF_REACH,
    verdict::Verdict,
    word::{load_u16, store_u16},
};

/// A transport checksum to bring up to date. Changes are differences by
/// [`gateway_common::checksum`].
pub struct L4Checksum {
    /// Of the field in the frame.
    pub offset: usize,
    /// Change of the addresses, which are part of the pseudo header.
    pub addresses: u64,
    /// Change of the ports and of whatever else.
    pub header: u64,
    /// Zero stands for "no checksum" and stays; a sum of zero is written as
    /// 0xffff (UDP: RFC 768; over IPv6 for tunnels: RFC 6935).
    pub is_optional: bool,
}

/// A frame on its way in, and what can be done with it.
pub trait Context {
    /// What the program returns to the kernel.
    type Action;

    /// Whether this is XDP, and sending takes the next hop's MAC address.
    const IS_XDP: bool;

    /// Start of the directly readable data.
    fn data(&self) -> usize;

    /// End of the directly readable data.
    fn data_end(&self) -> usize;

    /// Bytes of the whole frame, readable or not.
    fn frame_len(&self) -> u32;

    /// Payload bytes of one segment of a GSO super-packet, 0 for a plain one.
    fn segment_len(&self) -> u32;

    /// Index of the interface the frame came in by.
    fn ifindex(&self) -> u32;

    /// Whether the frame is without a VLAN tag and for this host alone, as far as
    /// can be told; `dst` is the first byte of its destination MAC.
    fn is_for_host(&self, dst: u8) -> bool;

    /// Tries to make the first `len` bytes directly readable. All pointers
    /// from [`Self::header`] are void afterwards.
    fn make_linear(&self, len: usize);

    /// The first byte of the `T` at `offset`, if all of it lies within the
    /// readable data.
    #[inline(always)]
    fn header<T>(&self, offset: usize) -> Option<*mut u8> {
        let start = self.data() + offset;
        (start + size_of::<T>() <= self.data_end()).then_some(start as *mut u8)
    }

    /// Updates the transport checksum. Pointers from [`Self::header`] are void
    /// afterwards.
    fn update_l4_checksum(&self, change: &L4Checksum) -> Result<(), Verdict>;

    /// Takes a change of an IPv6 header into the sum that a device may have
    /// made over the whole packet, after [`Self::update_l4_checksum`]; `diff` is
    /// that of the addresses and of the hop limit.
    fn balance(&self, diff: u64);

    /// The same for the hop limit alone, one less.
    #[inline(always)]
    fn balance_hop_limit(&self) {
        // It is the lower byte of a word.
        self.balance(diff16(1_u16.to_be(), 0));
    }

    /// The frame's own pointer, for helpers.
    fn as_ptr(&self) -> *mut c_void;

    /// Goes on in the called program `index`, a `CALL_*` of
    /// [`gateway_common::names`]; comes back when it is not there.
    fn continue_with(&self, index: u32);

    /// Sends the frame to a next hop.
    fn send(&self, hop: &NextHop) -> Result<Verdict, Verdict>;

    /// Sends the frame back by the interface it came from.
    fn send_back(&self) -> Result<Verdict, Verdict>;

    /// Exchanges the MAC addresses of the frame.
    #[inline(always)]
    fn swap_macs(&self) -> Result<(), Verdict> {
        let ethernet = self.header::<Ethernet>(0).ok_or(OUT_OF_REACH)?;
        // SAFETY: `header` has compared its end with the end of the data.
        unsafe {
            let dst = [
                load_u16::<0>(ethernet),
                load_u16::<2>(ethernet),
                load_u16::<4>(ethernet),
            ];
            store_u16::<0>(ethernet, load_u16::<6>(ethernet));
            store_u16::<2>(ethernet, load_u16::<8>(ethernet));
            store_u16::<4>(ethernet, load_u16::<10>(ethernet));
            store_u16::<6>(ethernet, dst[0]);
            store_u16::<8>(ethernet, dst[1]);
            store_u16::<10>(ethernet, dst[2]);
        }
        Ok(())
    }

    /// Makes room for a header of `len` bytes behind the Ethernet header, of an
    /// IPv6 or an IPv4 packet that then holds the one there is. The segments of a
    /// super-packet get shorter by as much, unless `is_datagram`. All pointers
    /// from [`Self::header`] are void afterwards.
    fn wrap(&self, is_v6: bool, is_datagram: bool, len: usize) -> Result<(), Verdict>;

    /// Cuts the frame to `len` bytes, if it has more; what a super-packet was to
    /// be cut into is then no matter any more. All pointers from [`Self::header`]
    /// are void afterwards.
    fn cut(&self, len: usize) -> Result<(), Verdict>;

    /// Inserts `by` bytes behind the Ethernet header, or takes as many out. All
    /// pointers from [`Self::header`] are void afterwards.
    fn shift(&self, by: i32) -> Result<(), Verdict>;

    /// Whether a device is still to complete the transport checksum at `offset`,
    /// which then holds the sum of the pseudo header alone.
    fn is_sum_partial(&self, offset: usize) -> bool;

    /// The kernel's action for a verdict.
    fn action(&self, verdict: Verdict) -> Self::Action;
}

/// Reads the pointer at `OFFSET` of the context. It is declared as 32 bits and
/// read as 64: left to itself, the compiler widens it where it likes, by a move
/// after which the verifier does not know it for a pointer.
///
/// # Safety
///
/// `ctx` is the kernel's context, and `OFFSET` that of a pointer in it.
#[inline(always)]
unsafe fn pointer<const OFFSET: usize>(ctx: *const c_void) -> usize {
    let value: usize;
    // SAFETY: by the caller's promise.
    unsafe {
        asm!(
            "{value} = *(u32 *)({ctx} + {offset})",
            value = out(reg) value,
            ctx = in(reg) ctx,
            offset = const OFFSET,
            options(nostack, pure, readonly, preserves_flags),
        );
    }
    value
}
