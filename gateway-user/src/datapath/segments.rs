// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TCP segments that the agent sends in the name of a forwarded connection:
//! whether the other end still answers, and that the connection is over. Pure.
//!
//! Both have to carry the numbers their receiver expects. The kernel programs
//! write them down as segments go by: a direction's `ack` is what its sender
//! expects next, its `seq_end` is what the other side will, once everything has
//! arrived and is acknowledged.

use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;
use gateway_common::{
    flow::{DIR_TO_BACKEND, DIR_TO_CLIENT, FlowDirection, FlowSlot},
    tcp_state::{FLAG_ACK, FLAG_SYN},
};

use crate::datapath::stats::socket_addr;

/// A segment without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// In whose name.
    pub src: SocketAddr,
    /// To whom; of the same family.
    pub dst: SocketAddr,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// RST and ACK, else ACK alone.
    pub reset: bool,
    /// With timestamps, which are wrong.
    pub timestamps: bool,
}

/// Asks the end that `direction` leads to for a sign of life, in the name of the
/// other one and as its keepalive does: one number before the one it expects,
/// which it answers with what it does expect (RFC 9293 section 3.8.4). None
/// before it has acknowledged anything.
///
/// Nobody in the middle knows the timestamps of a connection that has them. Some
/// stacks drop segments without them unseen (RFC 7323 section 3.2) and answer
/// those with a wrong one; Linux (from 6.13 on) does it the other way round. So
/// one question is asked without and the next `with_timestamps`.
pub fn probe(flow: &FlowSlot, direction: u32, with_timestamps: bool) -> Option<Segment> {
    let (own, other) = (direction as usize & 1, direction as usize & 1 ^ 1);
    let along = &flow.dir[own];
    let expected = expected_by(&flow.dir[other])?;
    Some(Segment {
        src: socket_addr(along.new_src, along.new_src_port_be),
        dst: socket_addr(along.new_dst, along.new_dst_port_be),
        seq: expected.wrapping_sub(1),
        // Of a handed-off connection the other end counts differently.
        ack: along.ack.wrapping_sub(flow.seq_delta[other]),
        reset: false,
        timestamps: with_timestamps,
    })
}

/// Tells both sides that the connection is over. Only the very number that is
/// expected is taken (RFC 5961 section 3.2): what was acknowledged last, or
/// what was sent last and is not acknowledged yet.
pub fn resets(flow: &FlowSlot) -> Vec<Segment> {
    let mut segments = Vec::with_capacity(4);
    for direction in [DIR_TO_BACKEND, DIR_TO_CLIENT] {
        let along = &flow.dir[direction as usize];
        let back = &flow.dir[direction as usize ^ 1];
        let mut numbers = Vec::with_capacity(2);
        match expected_by(back) {
            Some(expected) => {
                numbers.push(expected);
                // As its receiver counts.
                let sent = along
                    .seq_end
                    .wrapping_add(flow.seq_delta[direction as usize]);
                if along.tcp_flags_seen & (FLAG_SYN | FLAG_ACK) != 0 && sent != expected {
                    numbers.push(sent);
                }
            }
            // A SYN is refused by its acknowledgement alone (RFC 9293 section
            // 3.10.7.3).
            None => numbers.push(0),
        }
        segments.extend(numbers.into_iter().map(|seq| Segment {
            src: socket_addr(along.new_src, along.new_src_port_be),
            dst: socket_addr(along.new_dst, along.new_dst_port_be),
            seq,
            ack: back.seq_end,
            reset: true,
            timestamps: false,
        }));
    }
    segments
}

/// What the sender of a direction expects next; none before it has said so.
fn expected_by(direction: &FlowDirection) -> Option<u32> {
    (direction.tcp_flags_seen & FLAG_ACK != 0).then_some(direction.ack)
}

impl Segment {
    /// The IP packet; none when the addresses are of different families.
    pub fn packet(&self) -> Option<Vec<u8>> {
        let ip = match (self.src.ip().to_canonical(), self.dst.ip().to_canonical()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                PacketBuilder::ipv4(src.octets(), dst.octets(), HOPS)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                PacketBuilder::ipv6(src.octets(), dst.octets(), HOPS)
            }
            _ => return None,
        };
        let tcp = ip
            .tcp(self.src.port(), self.dst.port(), self.seq, WINDOW)
            .ack(self.ack);
        let tcp = if self.reset { tcp.rst() } else { tcp };
        let tcp = if self.timestamps {
            tcp.options_raw(&TIMESTAMPS).ok()?
        } else {
            tcp
        };
        let mut packet = Vec::with_capacity(tcp.size(0));
        tcp.write(&mut packet, &[]).ok()?;
        Some(packet)
    }
}

/// Time to live of what is sent.
const HOPS: u8 = 64;
/// Read by nobody: neither kind of segment is one that sets the window.
const WINDOW: u16 = 1_024;
/// NOP, NOP, timestamps of zero.
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0];

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use etherparse::{PacketHeaders, TransportHeader};
    use gateway_common::{
        flow::{DIR_TO_BACKEND, DIR_TO_CLIENT, FlowDirection, FlowSlot},
        tcp_state::{FLAG_ACK, FLAG_SYN},
    };

    use super::{Segment, probe, resets};

    fn direction(src: &str, dst: &str, flags: u32, seq_end: u32, ack: u32) -> FlowDirection {
        let [src, dst] = [src, dst].map(|text| text.parse::<SocketAddr>().expect("an address"));
        FlowDirection {
            new_src: src.ip().into(),
            new_dst: dst.ip().into(),
            new_src_port_be: src.port().to_be(),
            new_dst_port_be: dst.port().to_be(),
            tcp_flags_seen: flags,
            packets: 0,
            bytes: 0,
            last_seen_ns: 0,
            addresses_diff: 0,
            ports_diff: 0,
            seq_end,
            ack,
            ts_seen: 0,
            ts_delta: 0,
            window_shift: 0,
            keep: 0,
            _pad: [0; 2],
        }
    }

    fn flow(to_backend: FlowDirection, to_client: FlowDirection) -> FlowSlot {
        FlowSlot {
            state: 0,
            generation: 0,
            kind: 0,
            tcp_state: 0,
            service_id: 0,
            backend_id: 0,
            config_generation: 0,
            established_timeout_s: 0,
            created_ns: 0,
            source_place: 0,
            half_open: 0,
            seq_delta: [0; 2],
            hold_until_ns: 0,
            dir: [to_backend, to_client],
        }
    }

    const OURS: &str = "10.0.0.1:61000";
    const BACKEND: &str = "10.1.0.1:80";
    const VIP: &str = "192.0.2.1:443";
    const CLIENT: &str = "198.51.100.1:5000";
    const BOTH: u32 = FLAG_SYN | FLAG_ACK;

    fn told(segments: &[Segment]) -> Vec<(String, u32, u32)> {
        let one = |segment: &Segment| {
            assert!(segment.reset);
            (segment.dst.to_string(), segment.seq, segment.ack)
        };
        segments.iter().map(one).collect()
    }

    #[test]
    fn a_quiet_connection_is_asked_and_ended_with_what_is_expected() {
        let flow = flow(
            direction(OURS, BACKEND, BOTH, 500, 900),
            direction(VIP, CLIENT, BOTH, 900, 500),
        );
        let asked = probe(&flow, DIR_TO_BACKEND, false).expect("a probe");
        assert_eq!(
            (asked.src.to_string(), asked.dst.to_string()),
            (OURS.to_owned(), BACKEND.to_owned())
        );
        assert_eq!((asked.seq, asked.ack, asked.reset), (499, 900, false));
        assert_eq!(
            told(&resets(&flow)),
            [
                (BACKEND.to_owned(), 500, 900),
                (CLIENT.to_owned(), 900, 500)
            ]
        );
    }

    #[test]
    fn what_is_not_acknowledged_may_have_arrived() {
        let flow = flow(
            direction(OURS, BACKEND, BOTH, 510, 900),
            direction(VIP, CLIENT, BOTH, 970, u32::MAX),
        );
        assert_eq!(
            probe(&flow, DIR_TO_BACKEND, true).expect("a probe").seq,
            u32::MAX - 1
        );
        assert_eq!(
            told(&resets(&flow)),
            [
                (BACKEND.to_owned(), u32::MAX, 970),
                (BACKEND.to_owned(), 510, 970),
                (CLIENT.to_owned(), 900, 510),
                (CLIENT.to_owned(), 970, 510)
            ]
        );
    }

    #[test]
    fn each_end_of_a_handed_off_connection_counts_its_own_way() {
        // The client is at 500 and has taken 900; for the backend that is 70,500
        // and u32::MAX. Of ten more bytes of each nobody has said anything.
        let mut flow = flow(
            direction(OURS, BACKEND, FLAG_ACK, 510, 900),
            direction(VIP, CLIENT, FLAG_ACK, 9, 70_500),
        );
        flow.seq_delta = [70_000, 901];
        assert_eq!(
            told(&resets(&flow)),
            [
                (BACKEND.to_owned(), 70_500, 9),
                (BACKEND.to_owned(), 70_510, 9),
                (CLIENT.to_owned(), 900, 510),
                (CLIENT.to_owned(), 910, 510)
            ]
        );
        let asked = |direction| {
            let asked = probe(&flow, direction, false).expect("a probe");
            (asked.dst.to_string(), asked.seq, asked.ack)
        };
        assert_eq!(
            asked(DIR_TO_BACKEND),
            (BACKEND.to_owned(), 70_499, u32::MAX)
        );
        assert_eq!(asked(DIR_TO_CLIENT), (CLIENT.to_owned(), 899, 500));
    }

    #[test]
    fn a_syn_without_an_answer_is_refused() {
        let flow = flow(
            direction(OURS, BACKEND, FLAG_SYN, 500, 0),
            direction(VIP, CLIENT, 0, 0, 0),
        );
        assert_eq!(probe(&flow, DIR_TO_BACKEND, false), None);
        let refused = told(&resets(&flow));
        assert_eq!(refused.last(), Some(&(CLIENT.to_owned(), 0, 500)));
    }

    #[test]
    fn packets_are_whole_in_both_families() {
        for (src, dst) in [(OURS, BACKEND), ("[fd00::1]:61000", "[fd01::1]:80")] {
            for reset in [false, true] {
                let segment = Segment {
                    src: src.parse().expect("an address"),
                    dst: dst.parse().expect("an address"),
                    seq: 0xfedc_ba98,
                    ack: 77,
                    reset,
                    timestamps: !reset,
                };
                let packet = segment.packet().expect("a packet");
                let headers = PacketHeaders::from_ip_slice(&packet).expect("headers");
                let Some(TransportHeader::Tcp(tcp)) = headers.transport else {
                    panic!("{headers:?}")
                };
                assert_eq!((tcp.source_port, tcp.destination_port), (61_000, 80));
                assert_eq!(
                    (tcp.sequence_number, tcp.acknowledgment_number),
                    (0xfedc_ba98, 77)
                );
                assert_eq!(
                    (tcp.rst, tcp.ack, tcp.syn, tcp.fin),
                    (reset, true, false, false)
                );
                assert_eq!(tcp.options.len(), if reset { 0 } else { 12 });
                assert!(headers.payload.slice().is_empty());
            }
        }
        let mixed = Segment {
            src: OURS.parse().expect("an address"),
            dst: "[fd01::1]:80".parse().expect("an address"),
            seq: 0,
            ack: 0,
            reset: true,
            timestamps: false,
        };
        assert_eq!(mixed.packet(), None);
    }
}
