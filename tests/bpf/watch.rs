// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Decisions are told while somebody watches, only those asked for, no more than
//! allowed, and not a moment after the watch has ended.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use aya::maps::{Array, PerCpuArray, RingBuf};
use gateway_common::{
    addr::Addr16,
    counters::VerdictCounter,
    drop_reason::DropReason,
    flow::{DIR_TO_BACKEND, DIR_TO_CLIENT},
    names,
    next_hop::NEXT_HOP_NS,
    watch::{
        BURST, Decision, EndpointFilter, PACKET_KNOWN, PACKET_NEW, PACKET_NO_FLOW, WATCH_KNOWN,
        WATCH_NEW, Watch, WatchState,
    },
};

use crate::{
    lab::{Lab, PODS, WIRE, at_both_hooks, interface_index, set_forwarding},
    maps::{addr, key},
    packet::{ACK, BACKEND, CLIENT, FAMILIES, SYN, SYN_ACK, Segment, VIP, at, one_backend},
    syn_cookies,
};

const SECOND: u64 = 1_000_000_000;

/// The clock of the programs.
fn now_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` has room for the answer.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut time) };
    assert_eq!(result, 0);
    time.tv_sec as u64 * SECOND + time.tv_nsec as u64
}

/// A watch for a minute.
fn watch(flags: u32) -> Watch {
    Watch {
        until_ns: now_ns() + 60 * SECOND,
        interval_ns: 1,
        flags,
        ..Watch::OFF
    }
}

impl Lab {
    fn watch(&mut self, watch: Watch) {
        let map = self.ebpf.map_mut(names::MAP_WATCH).unwrap();
        let mut map: Array<_, Watch> = map.try_into().unwrap();
        map.set(0, watch, 0).unwrap();
    }

    /// What was told since the last call.
    fn decisions(&mut self) -> Vec<Decision> {
        let map = self.ebpf.map_mut(names::MAP_DECISIONS).unwrap();
        let mut ring = RingBuf::try_from(map).unwrap();
        let mut decisions = Vec::new();
        while let Some(item) = ring.next() {
            assert_eq!(item.len(), size_of::<Decision>());
            // SAFETY: the length was just compared, and any bytes are one.
            decisions.push(unsafe { item.as_ptr().cast::<Decision>().read_unaligned() });
        }
        decisions
    }

    fn left_out(&self) -> u64 {
        let map = self.ebpf.map(names::MAP_WATCH_STATE).unwrap();
        let map: PerCpuArray<_, WatchState> = map.try_into().unwrap();
        map.get(&0, 0).unwrap().iter().map(|cpu| cpu.left_out).sum()
    }
}

#[test]
fn nobody_is_told_anything_unasked() {
    at_both_hooks(|lab| {
        one_backend(lab);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        let mut ended = watch(WATCH_NEW | WATCH_KNOWN);
        ended.until_ns = now_ns();
        for watch in [Watch::OFF, ended] {
            lab.watch(watch);
            lab.expect_forwarded(&Segment::from_client(client, vip, SYN), client, backend);
            lab.expect_forwarded(&Segment::from_client(client, vip, ACK), client, backend);
            let expired = Segment {
                ttl: 1,
                ..Segment::from_client(client, vip, ACK)
            };
            lab.expect_dropped(&expired);
            assert_eq!(lab.decisions(), []);
        }
        assert_eq!(lab.left_out(), 0);
    });
}

#[test]
fn new_flows_later_packets_and_drops_are_told() {
    at_both_hooks(|lab| {
        one_backend(lab);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        let started = now_ns();
        lab.watch(watch(WATCH_NEW | WATCH_KNOWN));
        let syn = Segment::from_client(client, vip, SYN);
        lab.expect_forwarded(&syn, client, backend);
        let syn_ack = Segment::from_backend(backend, client, SYN_ACK);
        lab.expect_forwarded(&syn_ack, vip, client);
        lab.expect_forwarded(&Segment::from_client(client, vip, ACK), client, backend);
        let expired = Segment {
            ttl: 1,
            ..Segment::from_client(client, vip, ACK)
        };
        lab.expect_dropped(&expired);
        // Not ours: nothing to tell.
        lab.expect_untouched(&Segment::from_client(client, at("198.51.100.1:9"), SYN));

        let forwarded = Decision {
            time_ns: 0,
            key: key(client, vip),
            new_src: addr(client),
            new_dst: addr(backend),
            new_src_port_be: client.port().to_be(),
            new_dst_port_be: backend.port().to_be(),
            ifindex: interface_index(WIRE),
            ip_len: 40,
            verdict: VerdictCounter::Forwarded as u8,
            reason: 0,
            packet: PACKET_NEW,
            direction: DIR_TO_BACKEND as u8,
        };
        let answer = Decision {
            key: key(backend, client),
            new_src: addr(vip),
            new_dst: addr(client),
            new_src_port_be: vip.port().to_be(),
            new_dst_port_be: client.port().to_be(),
            ifindex: interface_index(PODS),
            ip_len: 50,
            packet: PACKET_KNOWN,
            direction: DIR_TO_CLIENT as u8,
            ..forwarded
        };
        let known = Decision {
            packet: PACKET_KNOWN,
            ip_len: 49,
            ..forwarded
        };
        let dropped = Decision {
            new_src: Addr16::ANY,
            new_dst: Addr16::ANY,
            new_src_port_be: 0,
            new_dst_port_be: 0,
            ip_len: 49,
            verdict: VerdictCounter::Dropped as u8,
            reason: DropReason::TtlExceeded as u8,
            packet: PACKET_NO_FLOW,
            ..forwarded
        };
        let told = lab.decisions();
        assert!(
            told.iter()
                .all(|one| (started..=now_ns()).contains(&one.time_ns)),
            "{told:?}"
        );
        let told: Vec<Decision> = told
            .into_iter()
            .map(|one| Decision { time_ns: 0, ..one })
            .collect();
        assert_eq!(told, [forwarded, answer, known, dropped]);
        assert_eq!(lab.left_out(), 0);
    });
}

#[test]
fn only_what_is_asked_for_is_told() {
    at_both_hooks(|lab| {
        one_backend(lab);
        let (mut client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        let prefix = |text: &str, bits: u32| {
            let ip: IpAddr = text.parse().unwrap();
            EndpointFilter::new(ip.into(), 96 + bits, None)
        };
        let port = |port: u16| EndpointFilter::new(Addr16::ANY, 0, Some(port.to_be()));
        let any = EndpointFilter::ANY;
        for (flags, from, to, expected) in [
            (WATCH_NEW, any, any, &[PACKET_NEW, PACKET_NO_FLOW][..]),
            (0, any, any, &[PACKET_NO_FLOW]),
            (
                WATCH_KNOWN,
                any,
                port(vip.port()),
                &[PACKET_KNOWN, PACKET_NO_FLOW],
            ),
            (
                WATCH_NEW,
                prefix("192.0.2.0", 24),
                any,
                &[PACKET_NEW, PACKET_NO_FLOW],
            ),
            (WATCH_NEW, prefix("192.0.3.0", 24), any, &[]),
            (WATCH_NEW, any, port(vip.port() + 1), &[]),
        ] {
            lab.watch(Watch {
                from,
                to,
                ..watch(flags)
            });
            // A flow of its own each time.
            client.set_port(client.port() + 1);
            lab.expect_forwarded(&Segment::from_client(client, vip, SYN), client, backend);
            lab.expect_forwarded(&Segment::from_client(client, vip, ACK), client, backend);
            let expired = Segment {
                ttl: 1,
                ..Segment::from_client(client, vip, ACK)
            };
            lab.expect_dropped(&expired);
            let told = lab.decisions();
            let packets: Vec<u8> = told.iter().map(|one| one.packet).collect();
            assert_eq!(packets, expected, "{flags} {from:?} {to:?}");
        }
    });
}

#[test]
fn a_flow_from_before_is_told_soon_and_not_after_the_end() {
    at_both_hooks(|lab| {
        one_backend(lab);
        let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
        lab.expect_forwarded(&Segment::from_client(client, vip, SYN), client, backend);
        lab.watch(watch(WATCH_KNOWN));
        let began = Instant::now();
        let told = loop {
            lab.expect_forwarded(&Segment::from_client(client, vip, ACK), client, backend);
            if let Some(first) = lab.decisions().first() {
                break *first;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "nothing told");
        };
        assert_eq!(told.packet, PACKET_KNOWN);
        // The mark on the way out outlives the watch, and is not believed.
        let ended = Watch {
            until_ns: now_ns(),
            ..watch(WATCH_KNOWN)
        };
        lab.watch(ended);
        lab.decisions();
        for _ in 0..100 {
            lab.expect_forwarded(&Segment::from_client(client, vip, ACK), client, backend);
        }
        assert_eq!(lab.decisions(), []);
        const { assert!(NEXT_HOP_NS < SECOND) };
    });
}

#[test]
fn a_flood_is_left_out_and_counted() {
    at_both_hooks(|lab| {
        one_backend(lab);
        let (client, vip) = (at(CLIENT), at(VIP));
        lab.watch(Watch {
            interval_ns: 3_600 * SECOND,
            ..watch(WATCH_NEW)
        });
        set_forwarding(false);
        let expired = Segment {
            ttl: 1,
            ..Segment::from_client(client, vip, SYN)
        };
        const SENT: u64 = 1_000;
        for _ in 0..SENT {
            lab.expect_dropped(&expired);
        }
        // Each processor has its own allowance; the test may move between them.
        let told = lab.decisions().len() as u64;
        let processors = std::thread::available_parallelism().unwrap().get() as u64;
        assert!((BURST..=BURST * processors).contains(&told), "{told}");
        assert_eq!(told + lab.left_out(), SENT);
        // A ring that nobody empties is no reason to stop.
        lab.watch(watch(WATCH_NEW));
        for _ in 0..5 * SENT {
            lab.expect_dropped(&expired);
        }
        assert_eq!(lab.drops(DropReason::TtlExceeded), 6 * SENT);
        let told = told + lab.decisions().len() as u64;
        assert_eq!(told + lab.left_out(), 6 * SENT);
        assert!(told < 6 * SENT - 1_000, "{told}: the ring is larger");
    });
}

/// Of the connection that the client wants: by then the SYN is on its way back.
#[test]
fn challenges_and_their_answers_are_told() {
    for family in FAMILIES {
        at_both_hooks(|lab| {
            let [client, vip, _] = family;
            syn_cookies::guarded(lab, family, syn_cookies::ALWAYS);
            let from = syn_cookies::port(client, 5_000);
            lab.watch(watch(WATCH_NEW));
            let number = syn_cookies::challenge(lab, &syn_cookies::syn(from, vip));
            let reset = syn_cookies::reset(from, vip, number);
            syn_cookies::expect_verified(lab, &reset);
            let decisions = lab.decisions();
            let verdicts = [VerdictCounter::Challenged, VerdictCounter::Verified];
            assert_eq!(decisions.len(), verdicts.len());
            for (decision, verdict) in decisions.iter().zip(verdicts) {
                assert_eq!(decision.verdict, verdict as u8);
                assert_eq!(decision.packet, PACKET_NO_FLOW);
                assert_eq!(decision.key, key(from, at(vip)));
                assert_eq!(decision.ifindex, interface_index(WIRE));
            }
            // Neither is a drop.
            lab.watch(watch(0));
            let other = syn_cookies::syn(syn_cookies::port(client, 5_001), vip);
            lab.run(WIRE, &other.frame());
            syn_cookies::expect_verified(lab, &reset);
            assert_eq!(lab.decisions(), []);
        });
    }
}
