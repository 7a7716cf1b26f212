// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The flow table: two keys per connection, one slot of state.
//!
//! A key maps to a [`FlowRef`] (slot, direction, generation); everything that
//! changes lives in the slot, in one array that the agent maps into memory.
//! A slot's generation is raised each time it is taken, so that a reference
//! left over from an earlier flow is recognised and ignored.

use crate::{addr::Addr16, udp_state};

/// `IPPROTO_TCP`.
pub const PROTOCOL_TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub const PROTOCOL_UDP: u8 = 17;

/// A packet's transport tuple as received, before any rewrite.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address.
    pub src: Addr16,
    /// Destination address.
    pub dst: Addr16,
    /// Source port, network order.
    pub src_port_be: u16,
    /// Destination port, network order.
    pub dst_port_be: u16,
    /// IP protocol number: [`PROTOCOL_TCP`] or [`PROTOCOL_UDP`].
    pub proto: u8,
    /// Always zero: the key is compared as bytes.
    pub _pad: [u8; 3],
}

const _: () = assert!(size_of::<FlowKey>() == 40);

/// What a key maps to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRef {
    /// Index into the slot array.
    pub slot: u32,
    /// Equal to the slot's generation while the reference is valid.
    pub generation: u32,
    /// Which of the slot's [`FlowDirection`]s this key selects:
    /// [`DIR_TO_BACKEND`] or [`DIR_TO_CLIENT`].
    pub direction: u32,
}

const _: () = assert!(size_of::<FlowRef>() == 12);

/// Packets from the client, towards the backend.
pub const DIR_TO_BACKEND: u32 = 0;
/// Packets from the backend, towards the client.
pub const DIR_TO_CLIENT: u32 = 1;

/// No flow owns the slot; it may be in the free queue.
pub const SLOT_FREE: u32 = 0;
/// A program took the slot and fills it.
pub const SLOT_CLAIMED: u32 = 1;
/// Packets are rewritten and forwarded.
pub const SLOT_ACTIVE: u32 = 2;
/// Both directions have ended or a reset was seen; still rewriting, until the
/// sweeper removes it after the linger time.
pub const SLOT_CLOSING: u32 = 3;
/// [`KIND_HANDOFF`]: two sockets of the agent have the connection; packets go to
/// them and are noted down.
pub const SLOT_OBSERVE: u32 = 4;
/// [`KIND_HANDOFF`]: the agent takes the sockets' numbers. No packet may reach
/// them, and none can be translated yet. A program that finds the time over puts
/// the slot back to [`SLOT_OBSERVE`].
pub const SLOT_HOLD: u32 = 5;
/// No longer rewriting: the keys are being removed.
pub const SLOT_DEAD: u32 = 6;

/// Whether packets of a flow in `state` are its own.
#[inline(always)]
pub const fn is_live(state: u32) -> bool {
    // In a row: one comparison.
    SLOT_ACTIVE <= state && state <= SLOT_HOLD
}

/// Destination rewritten, client address kept.
pub const KIND_DNAT: u32 = 1;
/// Both addresses rewritten; the source port is from the reserved range.
pub const KIND_SNAT: u32 = 2;
/// Packets are wrapped, not rewritten: the translation of [`DIR_TO_BACKEND`] has
/// the outer addresses, and no packet of the other direction comes by.
pub const KIND_DSR: u32 = 3;
/// Two connections, that of a client to a socket of the agent and that of another
/// one to the backend, made one: [`crate::tcp_splice`].
pub const KIND_HANDOFF: u32 = 4;

/// [`KIND_HANDOFF`]: the flow is none yet; its end is the agent's to record.
pub const RECORD_NONE: u32 = 0;
/// The flow's end is to be recorded.
pub const RECORD_OWED: u32 = 1;
/// It has been.
pub const RECORD_DONE: u32 = 2;

/// State of one flow. Written by the kernel programs; the agent maps the array
/// and only writes to slots in [`SLOT_CLOSING`], [`SLOT_DEAD`] or [`SLOT_FREE`],
/// and to those that it has claimed to hand a connection off, until they are
/// [`SLOT_ACTIVE`].
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct FlowSlot {
    /// `SLOT_*`; read and written atomically.
    pub state: u32,
    /// Raised by one each time the slot is claimed.
    pub generation: u32,
    /// `KIND_*`.
    pub kind: u32,
    /// [`crate::tcp_state`] of the connection, or [`crate::udp_state`].
    pub tcp_state: u32,
    /// Index of the service in the statistics maps. [`KIND_HANDOFF`]: number of
    /// its [`crate::label::Label`].
    pub service_id: u32,
    /// Index of the backend in the backend array. [`KIND_HANDOFF`]: `RECORD_*`,
    /// changed by atomic operations.
    pub backend_id: u32,
    /// Snapshot generation that created the flow. [`KIND_HANDOFF`]: number of the
    /// agent's start that took the slot.
    pub config_generation: u32,
    /// Idle timeout while established, seconds; 0 takes the default.
    pub established_timeout_s: u32,
    /// `bpf_ktime_get_ns` (monotonic) at creation; [`KIND_HANDOFF`]: when the
    /// agent accepted the connection.
    pub created_ns: u64,
    /// Where the flow is counted among those of its source, as
    /// [`crate::source_flows::place`] says it. Who takes it away subtracts it.
    pub source_place: u32,
    /// Whether the flow is counted as half-open: 1, else 0. As above.
    pub half_open: u32,
    /// [`KIND_HANDOFF`]: what is added to sequence numbers of each direction.
    pub seq_delta: [u32; 2],
    /// [`SLOT_HOLD`] ends at this monotonic time, nanoseconds.
    pub hold_until_ns: u64,
    /// Per direction; index with `DIR_*`.
    pub dir: [FlowDirection; 2],
}

const _: () = assert!(size_of::<FlowSlot>() == 256 && align_of::<FlowSlot>() == 64);

impl FlowSlot {
    /// The key under which packets of a direction (`DIR_*`) are found: what they
    /// come as is what those of the other direction leave as. [`KIND_DSR`] has
    /// none in [`DIR_TO_CLIENT`]; what is said here of it is nobody's, or another
    /// flow's.
    pub const fn key(&self, direction: u32) -> FlowKey {
        let other = &self.dir[direction as usize & 1 ^ 1];
        FlowKey {
            src: other.new_dst,
            dst: other.new_src,
            src_port_be: other.new_dst_port_be,
            dst_port_be: other.new_src_port_be,
            proto: if udp_state::is_udp(self.tcp_state) {
                PROTOCOL_UDP
            } else {
                PROTOCOL_TCP
            },
            _pad: [0; 3],
        }
    }
}

/// One direction of a flow: how its packets are rewritten, and what was seen.
///
/// What every packet writes is in the second 32 bytes, so that the two directions
/// of a slot, on two CPUs, write to different cache lines.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug)]
pub struct FlowDirection {
    /// New source address.
    pub new_src: Addr16,
    /// New destination address.
    pub new_dst: Addr16,
    /// Packets rewritten (GSO super-packets count once). [`KIND_HANDOFF`]: and
    /// before that, segments of the agent's socket to the client.
    pub packets: u64,
    /// Bytes of IP packets rewritten. [`KIND_HANDOFF`]: and before that, bytes
    /// that the agent relayed, without headers.
    pub bytes: u64,
    /// Monotonic time of the last packet, nanoseconds (coarse clock);
    /// [`SLOT_OBSERVE`]: when that began.
    pub last_seen_ns: u64,
    /// TCP: the sequence number that follows the last segment, a RST aside, as
    /// its sender counts; host order. See `tcp_flags_seen` for whether there
    /// was one.
    pub seq_end: u32,
    /// TCP: the last acknowledgement number, which is what the sender of this
    /// direction expects next; host order. Something once `tcp_flags_seen` has
    /// an ACK.
    pub ack: u32,
    /// TCP flags seen so far, or-ed (see [`crate::tcp_state`]): all of them
    /// until the connection is established, then SYN, FIN and RST.
    pub tcp_flags_seen: u32,
    /// New source port, network order.
    pub new_src_port_be: u16,
    /// New destination port, network order.
    pub new_dst_port_be: u16,
    /// How the rewrite changes the ones'-complement sum of the addresses, as
    /// [`crate::checksum::apply`] takes it.
    pub addresses_diff: u16,
    /// The same for the ports.
    pub ports_diff: u16,
    /// [`SLOT_OBSERVE`]: the sender's last timestamp, if
    /// [`SEEN_TIMESTAMP`] is among the flags seen; host order.
    pub ts_seen: u32,
    /// [`KIND_HANDOFF`]: what is added to the sender's timestamps.
    pub ts_delta: u32,
    /// [`KIND_HANDOFF`]: [`crate::tcp_splice::Splice::window_shift`].
    pub window_shift: i16,
    /// [`KIND_HANDOFF`]: [`crate::tcp_splice::Splice::keep`].
    pub keep: u16,
    /// Always zero.
    pub _pad: [u32; 2],
}

const _: () = assert!(size_of::<FlowDirection>() == 96);
const _: () = assert!(core::mem::offset_of!(FlowDirection, packets) == 32);
const _: () = assert!(core::mem::offset_of!(FlowDirection, tcp_flags_seen) == 64);

/// In `tcp_flags_seen`, beyond TCP's flags: a segment had a timestamp.
pub const SEEN_TIMESTAMP: u32 = 0x100;
const _: () = assert!(core::mem::offset_of!(FlowSlot, dir) == 64);
