// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Per-CPU counters.

use crate::drop_reason::DROP_REASON_SLOTS;

/// Packets and bytes; a value of the drop and verdict maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes from the Ethernet header on.
    pub bytes: u64,
}

const _: () = assert!(size_of::<Count>() == 16);

/// Packets dropped that came in by one interface, by
/// [`crate::drop_reason::DropReason`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceDrops {
    /// Packets, at the number of the reason.
    pub packets: [u64; DROP_REASON_SLOTS as usize],
}

const _: () = assert!(size_of::<InterfaceDrops>() == 512);

impl Default for InterfaceDrops {
    fn default() -> Self {
        Self {
            packets: [0; DROP_REASON_SLOTS as usize],
        }
    }
}

/// Answers of the programs' own on one processor.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Start of the span, on the coarse monotonic clock, nanoseconds.
    pub since_ns: u64,
    /// Answers given in it.
    pub count: u64,
}

const _: () = assert!(size_of::<Answers>() == 16);

/// Statistics of a service or a backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Flows created.
    pub flows: u64,
    /// New flows refused (no backend, no slot, no port).
    pub refused: u64,
    /// Packets towards backends.
    pub packets_in: u64,
    /// IP bytes towards backends.
    pub bytes_in: u64,
    /// Packets towards clients.
    pub packets_out: u64,
    /// IP bytes towards clients.
    pub bytes_out: u64,
}

const _: () = assert!(size_of::<Stats>() == 48);

/// Indices of the verdict counters.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictCounter {
    /// Not ours: left to the kernel's stack.
    Passed = 0,
    /// Rewritten and sent on.
    Forwarded = 1,
    /// Dropped; the reason is counted in the drop map.
    Dropped = 2,
    /// Rewritten, but the next hop's MAC was unknown: the stack sends it.
    NeighbourMiss = 3,
    /// A packet for a forwarded service without a flow (not a SYN): left to the
    /// stack, which answers with a reset.
    NoFlow = 4,
    /// Steered to a socket of the agent.
    Steered = 5,
    /// Rewritten and left to the stack, which delivers it on this node or, when
    /// there is no route, answers.
    LocalDelivery = 6,
    /// Rewritten, but too long for the way out: the stack sends it in fragments,
    /// as its sender allows.
    Fragmented = 7,
    /// A flow taken over in the middle of its connection. What became of the
    /// packet is counted as well.
    FlowAdopted = 8,
    /// A SYN that was answered with a challenge.
    Challenged = 9,
    /// A reset that answered a challenge: its source is there. It goes no further.
    Verified = 10,
    /// Rewritten, but the interface of the way out sends no frames that XDP
    /// redirects to it: the stack sends it.
    EgressMiss = 11,
    /// For a connection of the agent that has its client's address: marked, so that
    /// the stack takes it for local.
    ClientReply = 12,
}

/// Entries of the verdict counter map.
pub const VERDICT_COUNTERS: u32 = 13;

impl VerdictCounter {
    /// All counters with the label metrics use.
    pub const ALL: [(Self, &'static str); VERDICT_COUNTERS as usize] = [
        (Self::Passed, "passed"),
        (Self::Forwarded, "forwarded"),
        (Self::Dropped, "dropped"),
        (Self::NeighbourMiss, "neighbour_miss"),
        (Self::NoFlow, "no_flow"),
        (Self::Steered, "steered"),
        (Self::LocalDelivery, "local_delivery"),
        (Self::Fragmented, "fragmented"),
        (Self::FlowAdopted, "flow_adopted"),
        (Self::Challenged, "challenged"),
        (Self::Verified, "verified"),
        (Self::EgressMiss, "egress_miss"),
        (Self::ClientReply, "client_reply"),
    ];

    /// The label metrics and `sluice status` use.
    pub const fn name(self) -> &'static str {
        // In order of the indices, as a test makes sure.
        Self::ALL[self as usize].1
    }
}

#[cfg(test)]
mod tests {
    use super::VerdictCounter;

    #[test]
    fn the_list_is_in_order_of_the_indices() {
        for (index, (counter, _)) in VerdictCounter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
        }
    }
}
