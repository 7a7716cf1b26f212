// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! tc: GSO super-packets, partial checksums, next hops by neighbour entry.

use core::mem::offset_of;

use aya_ebpf::{
    EbpfContext,
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_REDIRECT,
        TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_adj_room_mode, bpf_redir_neigh,
        bpf_redir_neigh__bindgen_ty_1,
    },
    helpers::{
        bpf_csum_update, bpf_redirect, bpf_redirect_neigh, bpf_skb_change_tail, bpf_skb_pull_data,
    },
    programs::TcContext,
};
use gateway_common::{checksum, drop_reason::DropReason, next_hop::NextHop};

use super::{Context, L4Checksum, pointer};
use crate::{aligned::Aligned, maps::TC_CALLS, verdict::Verdict, word::load_u16};

/// `PACKET_HOST` of `linux/if_packet.h`.
const PACKET_HOST: u32 = 0;

impl Context for TcContext {
    type Action = i32;

    const IS_XDP: bool = false;

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the kernel's context is valid while the program runs.
        unsafe { pointer::<{ offset_of!(__sk_buff, data) }>(self.skb.skb.cast()) }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: as above.
        unsafe { pointer::<{ offset_of!(__sk_buff, data_end) }>(self.skb.skb.cast()) }
    }

    #[inline(always)]
    fn frame_len(&self) -> u32 {
        self.len()
    }

    #[inline(always)]
    fn segment_len(&self) -> u32 {
        // SAFETY: the kernel's context is valid while the program runs.
        unsafe { (*self.skb.skb).gso_size }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb.skb).ifindex }
    }

    #[inline(always)]
    fn is_for_host(&self, _dst: u8) -> bool {
        // SAFETY: as above.
        unsafe { (*self.skb.skb).pkt_type == PACKET_HOST && (*self.skb.skb).vlan_present == 0 }
    }

    #[inline(always)]
    fn make_linear(&self, len: usize) {
        if Context::data(self) + len > Context::data_end(self) && self.len() as usize >= len {
            // A failure shows as headers out of reach.
            // SAFETY: the kernel's context is valid while the program runs.
            let _ = unsafe { bpf_skb_pull_data(self.skb.skb, len as u32) };
        }
    }

    #[inline(always)]
    fn update_l4_checksum(&self, change: &L4Checksum) -> Result<(), Verdict> {
        // With `from` and size 0, `to` is a finished difference. On a partial
        // checksum the field holds the sum of the pseudo header alone: the
        // helper then applies the first call and skips the second.
        let flags = if change.is_optional {
            u64::from(BPF_F_MARK_MANGLED_0)
        } else {
            0
        };
        let pseudo = flags | u64::from(BPF_F_PSEUDO_HDR);
        let replace = |diff: u64, flags: u64| {
            self.l4_csum_replace(change.offset, 0, diff, flags)
                .map_err(|_| Verdict::Drop(DropReason::HelperFailed))
        };
        replace(change.addresses, pseudo)?;
        let header = u64::from(checksum::fold(change.header));
        if checksum::is_change(header) {
            replace(header, flags)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn balance(&self, diff: u64) {
        // The update of the checksum has taken the addresses out of the sum: for
        // IPv4 that is right, as its header's own checksum balances them. It
        // knows IPv6 by a flag (BPF_F_IPV6) only since Linux 6.16. Without a sum
        // this fails, and nothing is to do.
        // SAFETY: the kernel's context is valid while the program runs.
        let _ = unsafe { bpf_csum_update(self.skb.skb, u32::from(checksum::fold(diff))) };
    }

    #[inline(always)]
    fn as_ptr(&self) -> *mut core::ffi::c_void {
        EbpfContext::as_ptr(self)
    }

    #[inline(always)]
    fn continue_with(&self, index: u32) {
        // SAFETY: nothing here has to be dropped.
        unsafe { TC_CALLS.tail_call(self, index) };
    }

    #[inline(always)]
    fn send(&self, hop: &NextHop) -> Result<Verdict, Verdict> {
        // The helper looks the neighbour up itself, resolves it when it is not
        // known and keeps its entry fresh; writing its MAC address here would
        // let the entry go stale.
        let mut neighbour = Aligned(bpf_redir_neigh {
            nh_family: u32::from(hop.family),
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
                ipv6_nh: hop.addr_be,
            },
        });
        // SAFETY: the pointer and the length are those of a local value.
        let action = unsafe {
            bpf_redirect_neigh(
                hop.ifindex,
                &mut neighbour.0,
                size_of::<bpf_redir_neigh>() as i32,
                0,
            )
        };
        if action == i64::from(TC_ACT_REDIRECT) {
            Ok(Verdict::Sent(TC_ACT_REDIRECT))
        } else {
            Err(Verdict::Drop(DropReason::HelperFailed))
        }
    }

    #[inline(always)]
    fn send_back(&self) -> Result<Verdict, Verdict> {
        self.swap_macs()?;
        // SAFETY: a helper without pointers.
        let action = unsafe { bpf_redirect(Context::ifindex(self), 0) };
        if action == i64::from(TC_ACT_REDIRECT) {
            Ok(Verdict::Challenged(TC_ACT_REDIRECT))
        } else {
            Err(Verdict::Drop(DropReason::HelperFailed))
        }
    }

    #[inline(always)]
    fn wrap(&self, is_v6: bool, is_datagram: bool, len: usize) -> Result<(), Verdict> {
        let family = if is_v6 {
            BPF_F_ADJ_ROOM_ENCAP_L3_IPV6
        } else {
            BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
        };
        let flags = if is_datagram {
            family | BPF_F_ADJ_ROOM_FIXED_GSO
        } else {
            family
        };
        self.skb
            .adjust_room(
                len as i32,
                bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
                u64::from(flags),
            )
            .map_err(|_| Verdict::Drop(DropReason::HelperFailed))
    }

    #[inline(always)]
    fn cut(&self, len: usize) -> Result<(), Verdict> {
        if self.len() as usize <= len {
            return Ok(());
        }
        // SAFETY: the kernel's context is valid while the program runs.
        match unsafe { bpf_skb_change_tail(self.skb.skb, len as u32, 0) } {
            0 => Ok(()),
            _ => Err(Verdict::Drop(DropReason::HelperFailed)),
        }
    }

    #[inline(always)]
    fn shift(&self, by: i32) -> Result<(), Verdict> {
        self.skb
            .adjust_room(by, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, 0)
            .map_err(|_| Verdict::Drop(DropReason::HelperFailed))
    }

    #[inline(always)]
    fn is_sum_partial(&self, offset: usize) -> bool {
        let read = || {
            let check = self.header::<u16>(offset)?;
            // SAFETY: `header` has compared its end with the end of the data.
            Some(unsafe { load_u16::<0>(check) })
        };
        // Without a change of the pseudo header, the helper changes every
        // checksum but a partial one.
        let before = read();
        let one = 1;
        let changed = self.l4_csum_replace(offset, 0, one, 0).is_ok() && read() != before;
        if changed {
            let back = u64::from(!(one as u16));
            let _ = self.l4_csum_replace(offset, 0, back, 0);
        }
        !changed
    }

    #[inline(always)]
    fn action(&self, verdict: Verdict) -> i32 {
        match verdict {
            // Not TC_ACT_OK: programs attached after this one want it too.
            Verdict::Pass(_) | Verdict::Answered(_, None) => TC_ACT_UNSPEC,
            Verdict::Sent(action)
            | Verdict::SentWatched(action)
            | Verdict::Answered(_, Some(action))
            | Verdict::Challenged(action) => action,
            Verdict::Drop(_) | Verdict::Noted(_) => TC_ACT_SHOT,
        }
    }
}
