// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! XDP: linear frames, full checksums, next hops by MAC address.

use core::mem::offset_of;

use aya_ebpf::{
    EbpfContext,
    bindings::{xdp_action, xdp_md},
    helpers::{bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use gateway_common::{checksum, drop_reason::DropReason, next_hop::NextHop};

use super::{Context, L4Checksum, pointer};
use crate::{
    maps::XDP_CALLS,
    packet::Ethernet,
    verdict::Verdict,
    word::{load_u16, load_u32, load_u64, store_u16, store_u32, store_u64},
};

const FAILED: Verdict = Verdict::Drop(DropReason::HelperFailed);

impl Context for XdpContext {
    type Action = u32;

    const IS_XDP: bool = true;

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the kernel's context is valid while the program runs.
        unsafe { pointer::<{ offset_of!(xdp_md, data) }>(self.ctx.cast()) }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: as above.
        unsafe { pointer::<{ offset_of!(xdp_md, data_end) }>(self.ctx.cast()) }
    }

    #[inline(always)]
    fn frame_len(&self) -> u32 {
        (self.data_end() - self.data()) as u32
    }

    #[inline(always)]
    fn segment_len(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn is_for_host(&self, dst: u8) -> bool {
        // A VLAN tag would be in the frame, as another EtherType. The group bit
        // tells broadcast and multicast apart (IEEE 802 section 8.2).
        dst & 1 == 0
    }

    #[inline(always)]
    fn make_linear(&self, _len: usize) {}

    #[inline(always)]
    fn update_l4_checksum(&self, change: &L4Checksum) -> Result<(), Verdict> {
        let check = self
            .header::<u16>(change.offset)
            .ok_or(Verdict::Drop(DropReason::HelperFailed))?;
        // SAFETY: `header` has compared its end with the end of the data.
        unsafe {
            let old = load_u16::<0>(check);
            if change.is_optional && old == 0 {
                return Ok(());
            }
            let mut new = checksum::apply(old, change.addresses + change.header);
            if change.is_optional && new == 0 {
                new = 0xffff;
            }
            store_u16::<0>(check, new);
        }
        Ok(())
    }

    #[inline(always)]
    fn balance(&self, _diff: u64) {}

    #[inline(always)]
    fn as_ptr(&self) -> *mut core::ffi::c_void {
        EbpfContext::as_ptr(self)
    }

    #[inline(always)]
    fn continue_with(&self, index: u32) {
        // SAFETY: nothing here has to be dropped.
        unsafe { XDP_CALLS.tail_call(self, index) };
    }

    #[inline(always)]
    fn send(&self, hop: &NextHop) -> Result<Verdict, Verdict> {
        let ethernet = self
            .header::<Ethernet>(0)
            .ok_or(Verdict::Drop(DropReason::HelperFailed))?;
        // SAFETY: `header` has compared its end with the end of the data.
        unsafe {
            store_mac::<{ offset_of!(Ethernet, dst) }>(ethernet, &hop.dst_mac);
            store_mac::<{ offset_of!(Ethernet, src) }>(ethernet, &hop.src_mac);
        }
        if hop.ifindex == Context::ifindex(self) {
            return Ok(Verdict::Sent(xdp_action::XDP_TX as i32));
        }
        // SAFETY: a helper without pointers.
        let action = unsafe { bpf_redirect(hop.ifindex, 0) };
        if action == i64::from(xdp_action::XDP_REDIRECT) {
            Ok(Verdict::Sent(action as i32))
        } else {
            Err(Verdict::Drop(DropReason::HelperFailed))
        }
    }

    #[inline(always)]
    fn send_back(&self) -> Result<Verdict, Verdict> {
        self.swap_macs()?;
        Ok(Verdict::Challenged(xdp_action::XDP_TX as i32))
    }

    #[inline(always)]
    fn wrap(&self, _is_v6: bool, _is_datagram: bool, len: usize) -> Result<(), Verdict> {
        self.shift(len as i32)
    }

    #[inline(always)]
    fn cut(&self, len: usize) -> Result<(), Verdict> {
        let surplus = self.frame_len() as i32 - len as i32;
        if surplus <= 0 {
            return Ok(());
        }
        // SAFETY: the kernel's context is valid while the program runs.
        match unsafe { bpf_xdp_adjust_tail(self.ctx, -surplus) } {
            0 => Ok(()),
            _ => Err(FAILED),
        }
    }

    #[inline(always)]
    fn shift(&self, by: i32) -> Result<(), Verdict> {
        let ethernet = self.header::<Ethernet>(0).ok_or(FAILED)?;
        // SAFETY: `header` has compared its end with the end of the data; the
        // header is 14 bytes long.
        let (macs, rest, ether_type) = unsafe {
            (
                load_u64::<0>(ethernet),
                load_u32::<8>(ethernet),
                load_u16::<12>(ethernet),
            )
        };
        // SAFETY: the kernel's context is valid while the program runs.
        if unsafe { bpf_xdp_adjust_head(self.ctx, -by) } != 0 {
            return Err(FAILED);
        }
        let ethernet = self.header::<Ethernet>(0).ok_or(FAILED)?;
        // SAFETY: as above.
        unsafe {
            store_u64::<0>(ethernet, macs);
            store_u32::<8>(ethernet, rest);
            store_u16::<12>(ethernet, ether_type);
        }
        Ok(())
    }

    #[inline(always)]
    fn is_sum_partial(&self, _offset: usize) -> bool {
        false
    }

    #[inline(always)]
    fn action(&self, verdict: Verdict) -> u32 {
        match verdict {
            Verdict::Pass(_) | Verdict::Answered(_, None) => xdp_action::XDP_PASS,
            Verdict::Sent(action)
            | Verdict::SentWatched(action)
            | Verdict::Answered(_, Some(action))
            | Verdict::Challenged(action) => action as u32,
            Verdict::Drop(_) | Verdict::Noted(_) => xdp_action::XDP_DROP,
        }
    }
}

/// Writes a MAC address at `base + OFFSET`.
///
/// # Safety
///
/// The Ethernet header at `base` was compared with the end of the data.
#[inline(always)]
unsafe fn store_mac<const OFFSET: usize>(base: *mut u8, mac: &[u8; 6]) {
    let half = |i: usize| u16::from_ne_bytes([mac[i], mac[i + 1]]);
    // SAFETY: by the caller's promise, with six bytes at `OFFSET`.
    unsafe {
        let base = base.add(OFFSET);
        store_u16::<0>(base, half(0));
        store_u16::<2>(base, half(2));
        store_u16::<4>(base, half(4));
    }
}
