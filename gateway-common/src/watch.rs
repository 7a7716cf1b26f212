// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Decisions of the programs, told one by one while somebody watches.
//!
//! The watcher writes a [`Watch`] that ends by itself; the programs put a
//! [`Decision`] into a ring for the packets it asks for, as often as it allows.

use crate::{addr::Addr16, flow::FlowKey};

/// What is to be told, and until when.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Monotonic time (coarse clock), nanoseconds: nothing is told from then on.
    /// The watcher puts it off while it lives.
    pub until_ns: u64,
    /// Shortest mean time between two decisions of one processor, nanoseconds.
    pub interval_ns: u64,
    /// `WATCH_*`.
    pub flags: u32,
    /// Always zero.
    pub _pad: u32,
    /// Where packets come from.
    pub from: EndpointFilter,
    /// What they are sent to, as they come in.
    pub to: EndpointFilter,
}

const _: () = assert!(size_of::<Watch>() == 104);

impl Watch {
    /// Nothing.
    pub const OFF: Self = Self {
        until_ns: 0,
        interval_ns: 0,
        flags: 0,
        _pad: 0,
        from: EndpointFilter::ANY,
        to: EndpointFilter::ANY,
    };

    /// Whether a packet with this tuple is meant.
    #[inline(always)]
    pub fn matches(&self, key: &FlowKey) -> bool {
        self.from.matches(&key.src, key.src_port_be) && self.to.matches(&key.dst, key.dst_port_be)
    }
}

/// First packets of flows.
pub const WATCH_NEW: u32 = 1;
/// Later packets of flows.
pub const WATCH_KNOWN: u32 = 2;

/// Addresses and ports that are meant; what a mask leaves out may be anything.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointFilter {
    /// Address, zero where the mask is.
    pub addr: Addr16,
    /// Bits of it that count.
    pub mask: Addr16,
    /// Port, network order; zero where the mask is.
    pub port_be: u16,
    /// Bits of it that count.
    pub port_mask: u16,
    /// Always zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<EndpointFilter>() == 40);

impl EndpointFilter {
    /// Every endpoint.
    pub const ANY: Self = Self {
        addr: Addr16::ANY,
        mask: Addr16::ANY,
        port_be: 0,
        port_mask: 0,
        _pad: 0,
    };

    /// Those whose address starts with the first `bits` (0 to 128) of `addr`,
    /// with a port (network order) or with any.
    pub const fn new(addr: Addr16, bits: u32, port_be: Option<u16>) -> Self {
        let rest = 128_u32.saturating_sub(bits);
        let mask = match u128::MAX.checked_shl(rest) {
            Some(mask) => mask.to_be_bytes(),
            None => [0; 16],
        };
        let mut bytes = addr.bytes;
        let mut index = 0;
        while index < bytes.len() {
            bytes[index] &= mask[index];
            index += 1;
        }
        let (port_be, port_mask) = match port_be {
            Some(port_be) => (port_be, u16::MAX),
            None => (0, 0),
        };
        Self {
            addr: Addr16 { bytes },
            mask: Addr16 { bytes: mask },
            port_be,
            port_mask,
            _pad: 0,
        }
    }

    /// Whether an endpoint is meant.
    #[inline(always)]
    pub fn matches(&self, addr: &Addr16, port_be: u16) -> bool {
        let word = |addr: &Addr16, at: usize| {
            let b = &addr.bytes;
            u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
        };
        let differs = |at: usize| (word(addr, at) & word(&self.mask, at)) ^ word(&self.addr, at);
        let port = u32::from((port_be & self.port_mask) ^ self.port_be);
        differs(0) | differs(4) | differs(8) | differs(12) | port == 0
    }
}

/// How the way of a packet has ended, left to the program that tells of it. It
/// finds the rest itself: in the flow, or in a packet that was left as it came.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What the program returns to the kernel, if `is_action`.
    pub action: i32,
    /// [`crate::counters::VerdictCounter`].
    pub verdict: u8,
    /// [`crate::drop_reason::DropReason`] of a drop.
    pub reason: u8,
    /// `PACKET_*`; the fields below are those of a flow's packet.
    pub packet: u8,
    /// 1 if the packet has left, or an answer in its place; else 0.
    pub is_action: u8,
    /// Slot of the flow.
    pub slot: u32,
    /// Its generation.
    pub generation: u32,
    /// `DIR_*`.
    pub direction: u32,
    /// Bytes of the IP packet as it came.
    pub ip_len: u32,
}

const _: () = assert!(size_of::<Ended>() == 24);

impl Ended {
    /// For tests and writers to start from.
    pub const NONE: Self = Self {
        action: 0,
        verdict: 0,
        reason: 0,
        packet: PACKET_NO_FLOW,
        is_action: 0,
        slot: 0,
        generation: 0,
        direction: 0,
        ip_len: 0,
    };
}

/// Decisions that a processor may tell at once after a pause.
pub const BURST: u64 = 64;

/// How much one processor has told.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchState {
    /// When the next decision would be due if they came evenly, nanoseconds.
    pub due_ns: u64,
    /// Decisions left out: too many, or no room in the ring.
    pub left_out: u64,
    /// What the program that tells is called with.
    pub ended: Ended,
    /// The one being told: too large for the stack.
    pub decision: Decision,
}

const _: () = assert!(size_of::<WatchState>() == 136);

impl WatchState {
    /// Whether one more may be told at `now_ns`, with [`BURST`] of them at once:
    /// the generic cell rate algorithm (ITU-T I.371 annex A), which needs no
    /// refill and no division.
    #[inline(always)]
    pub fn admits(&mut self, now_ns: u64, interval_ns: u64) -> bool {
        let ahead = self.due_ns.saturating_sub(now_ns);
        if ahead > BURST * interval_ns {
            // Told at a lower rate: an earlier watch.
            self.due_ns = now_ns;
        } else if ahead > (BURST - 1) * interval_ns {
            self.left_out += 1;
            return false;
        }
        self.due_ns = self.due_ns.max(now_ns) + interval_ns;
        true
    }
}

/// How the way of one packet ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Monotonic time (coarse clock), nanoseconds.
    pub time_ns: u64,
    /// The packet as it came in.
    pub key: FlowKey,
    /// Its new source; [`Addr16::ANY`] when it was not rewritten.
    pub new_src: Addr16,
    /// Its new destination.
    pub new_dst: Addr16,
    /// New source port, network order.
    pub new_src_port_be: u16,
    /// New destination port, network order.
    pub new_dst_port_be: u16,
    /// Index of the interface it came in by.
    pub ifindex: u32,
    /// Bytes of the IP packet; 0 when it was not parsed.
    pub ip_len: u32,
    /// [`crate::counters::VerdictCounter`].
    pub verdict: u8,
    /// [`crate::drop_reason::DropReason`] of a drop.
    pub reason: u8,
    /// `PACKET_*`.
    pub packet: u8,
    /// `DIR_*` of the flow, if there is one.
    pub direction: u8,
}

const _: () = assert!(size_of::<Decision>() == 96);

impl Decision {
    /// For tests and readers to start from.
    pub const EMPTY: Self = Self {
        time_ns: 0,
        key: FlowKey {
            src: Addr16::ANY,
            dst: Addr16::ANY,
            src_port_be: 0,
            dst_port_be: 0,
            proto: 0,
            _pad: [0; 3],
        },
        new_src: Addr16::ANY,
        new_dst: Addr16::ANY,
        new_src_port_be: 0,
        new_dst_port_be: 0,
        ifindex: 0,
        ip_len: 0,
        verdict: 0,
        reason: 0,
        packet: 0,
        direction: 0,
    };
}

/// No flow was found or made.
pub const PACKET_NO_FLOW: u8 = 0;
/// The first of its flow.
pub const PACKET_NEW: u8 = 1;
/// A later one of its flow.
pub const PACKET_KNOWN: u8 = 2;

#[cfg(test)]
mod tests {
    use super::{BURST, Decision, Ended, EndpointFilter, WatchState};
    use crate::addr::Addr16;

    #[test]
    fn prefixes_and_ports_are_compared_bit_by_bit() {
        let net = Addr16::from_v4([10, 1, 128, 7]);
        let within = |bits, port: Option<u16>, other: [u8; 4], other_port: u16| {
            EndpointFilter::new(net, bits, port).matches(&Addr16::from_v4(other), other_port)
        };
        assert!(within(96 + 17, None, [10, 1, 255, 1], 9));
        assert!(!within(96 + 17, None, [10, 1, 127, 1], 9));
        assert!(within(128, Some(80), [10, 1, 128, 7], 80));
        assert!(!within(128, Some(80), [10, 1, 128, 7], 81));
        assert!(!within(128, None, [10, 1, 128, 6], 80));
        assert!(within(0, Some(80), [192, 0, 2, 1], 80));
        let v6 = Addr16 { bytes: [0xfd; 16] };
        assert!(!EndpointFilter::new(net, 96, None).matches(&v6, 1));
        assert!(EndpointFilter::ANY.matches(&v6, 1));
    }

    #[test]
    fn a_rate_is_kept_after_a_burst() {
        const INTERVAL: u64 = 1_000_000;
        let mut state = WatchState {
            due_ns: 0,
            left_out: 0,
            ended: Ended::NONE,
            decision: Decision::EMPTY,
        };
        let mut told = 0;
        // Ten thousand a millisecond, for a second.
        for now in 0..1_000 {
            let now = 5_000_000_000 + now * INTERVAL;
            for _ in 0..10 {
                told += u64::from(state.admits(now, INTERVAL));
            }
        }
        assert_eq!((told, state.left_out), (999 + BURST, 10_000 - 999 - BURST));
        // The next watch is not held up by a slow one before it.
        let now = 6_000_000_000;
        for _ in 0..100 {
            state.admits(now, 1_000 * INTERVAL);
        }
        assert!(state.admits(now, INTERVAL));
    }
}
