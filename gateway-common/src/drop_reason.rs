// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Why a packet was dropped.

/// Numbered, append-only: the number is an index of a pinned map. A reason that
/// is retired keeps its number.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Headers of a packet to a forwarded address contradict its length.
    Malformed = 0,
    /// Retired: fragments are tracked.
    Fragment = 1,
    /// The service has no endpoint that takes flows.
    NoBackend = 2,
    /// No free slot in the flow table.
    FlowTableFull = 3,
    /// No free source port towards this backend.
    SnatPortsExhausted = 4,
    /// There is no route to the backend or back to the client.
    NoRoute = 5,
    /// Time to live ran out here.
    TtlExceeded = 6,
    /// A checksum or store helper refused.
    HelperFailed = 7,
    /// A steered port without a live socket of the agent.
    NoSocket = 8,
    /// A map held something the program cannot use (bad id or size).
    BadMapEntry = 9,
    /// Longer than the MTU of the way out; the sender is told, within limits.
    PacketTooBig = 10,
    /// Replies to the new flow would be taken for those of another one, or would
    /// not come back this way, and the backend has no address for source
    /// translation.
    ReplyTupleTaken = 11,
    /// The source may not open flows to the service.
    SourceDenied = 12,
    /// The source opens flows to the service faster than it may.
    SourceRate = 13,
    /// The source has as many flows to the service as it may.
    SourceFlows = 14,
    /// As many flows are half-open as may be, and the source was not challenged,
    /// or twice as many.
    HalfOpenFull = 15,
    /// More new flows than the node may take, and the source was not challenged.
    NewFlowFlood = 16,
    /// Its connection is being handed off at this moment; its sender sends it
    /// again.
    HandoffHold = 17,
}

/// Entries of the drop counter map: room to append without a new layout.
pub const DROP_REASON_SLOTS: u32 = 64;

impl DropReason {
    /// Every reason in use.
    pub const ALL: [Self; 18] = [
        Self::Malformed,
        Self::Fragment,
        Self::NoBackend,
        Self::FlowTableFull,
        Self::SnatPortsExhausted,
        Self::NoRoute,
        Self::TtlExceeded,
        Self::HelperFailed,
        Self::NoSocket,
        Self::BadMapEntry,
        Self::PacketTooBig,
        Self::ReplyTupleTaken,
        Self::SourceDenied,
        Self::SourceRate,
        Self::SourceFlows,
        Self::HalfOpenFull,
        Self::NewFlowFlood,
        Self::HandoffHold,
    ];

    /// The label metrics and `sluice status` use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Fragment => "fragment",
            Self::NoBackend => "no_backend",
            Self::FlowTableFull => "flow_table_full",
            Self::SnatPortsExhausted => "snat_ports_exhausted",
            Self::NoRoute => "no_route",
            Self::TtlExceeded => "ttl_exceeded",
            Self::HelperFailed => "helper_failed",
            Self::NoSocket => "no_socket",
            Self::BadMapEntry => "bad_map_entry",
            Self::PacketTooBig => "packet_too_big",
            Self::ReplyTupleTaken => "reply_tuple_taken",
            Self::SourceDenied => "source_denied",
            Self::SourceRate => "source_rate",
            Self::SourceFlows => "source_flows",
            Self::HalfOpenFull => "half_open_full",
            Self::NewFlowFlood => "new_flow_flood",
            Self::HandoffHold => "handoff_hold",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DROP_REASON_SLOTS, DropReason};

    #[test]
    fn the_list_is_in_order_of_the_numbers() {
        for (number, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
        }
        assert!(DropReason::ALL.len() <= DROP_REASON_SLOTS as usize);
    }
}
