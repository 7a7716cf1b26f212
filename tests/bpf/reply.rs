// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Replies to connections of this node that have their client's address: marked at
//! tc, if there is a socket with exactly their addresses and ports.

use std::{io::ErrorKind, net::SocketAddr, os::fd::AsRawFd};

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use gateway_common::{
    counters::VerdictCounter,
    flow::{DIR_TO_BACKEND, DIR_TO_CLIENT, FlowRef, FlowSlot, KIND_HANDOFF, SLOT_OBSERVE},
    names,
    tcp_state::TCP_ESTABLISHED,
};
use gateway_tests::skip;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    handoff::direction,
    icmp::Error,
    lab::{Action, Hook, Lab, PODS, interface_index, program, skb_context},
    maps::key,
    packet::{ACK, BACKEND, BACKEND6, SYN, SYN_ACK, Segment, at, hex},
};

const MARK: u32 = 0x1000;
/// The client's address and a port of the range,
const OURS: &str = "203.0.113.9:55000";
const OURS6: &str = "[2001:db8:9::9]:55000";

fn lab(hook: Hook) -> Option<Lab> {
    if !skip::is_root() {
        skip::skipped("loading kernel programs needs root");
        return None;
    }
    let mut lab = Lab::new(hook);
    lab.set(|settings| {
        settings.client_mark = MARK;
        settings.handoff_port_min = 51_000;
        settings.handoff_port_max = 60_999;
    });
    Some(lab)
}

/// A socket bound to an address that is not this node's.
fn transparent(from: SocketAddr) -> Socket {
    let domain = Domain::for_address(from);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).unwrap();
    if from.is_ipv4() {
        socket.set_ip_transparent_v4(true).unwrap();
    } else {
        let one: libc::c_int = 1;
        // SAFETY: the descriptor is the socket's, and the pointer and the length are
        // those of a local value.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_IPV6,
                libc::IPV6_TRANSPARENT,
                (&raw const one).cast(),
                size_of_val(&one) as libc::socklen_t,
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }
    socket.set_nonblocking(true).unwrap();
    socket.bind(&from.into()).unwrap();
    socket
}

/// One that waits for the answer to its SYN.
fn connecting(from: &str, to: &str) -> Socket {
    let socket = transparent(at(from));
    let error = socket.connect(&at(to).into()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS), "{error}");
    assert_ne!(error.kind(), ErrorKind::AddrNotAvailable);
    socket
}

/// The mark of a frame that came in by the backends' interface, and is otherwise
/// left to the stack as it is.
fn mark(lab: &mut Lab, frame: &[u8]) -> u32 {
    let context = skb_context(interface_index(PODS), 0);
    let (mut out, mut after) = (vec![0; 4096], [0; 192]);
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    options.ctx_in = Some(&context);
    options.ctx_out = Some(&mut after);
    let tc: &mut SchedClassifier = program(&mut lab.ebpf, names::PROG_TC);
    let result = tc.test_run(options).unwrap();
    assert_eq!(result.return_value as i32, -1, "left to the stack");
    out.truncate(result.data_size_out as usize);
    assert_eq!(hex(&out), hex(frame));
    u32::from_ne_bytes([after[8], after[9], after[10], after[11]])
}

fn reply(from: &str, to: &str, flags: u32) -> Vec<u8> {
    Segment::from_backend(at(from), at(to), flags).frame()
}

#[test]
fn a_reply_to_a_socket_with_the_clients_address_is_marked() {
    let Some(mut lab) = lab(Hook::Tc) else { return };
    for (ours, backend, stranger) in [
        (OURS, BACKEND, "203.0.113.10:55000"),
        (OURS6, BACKEND6, "[2001:db8:9::a]:55000"),
    ] {
        let answer = reply(backend, ours, SYN_ACK);
        assert_eq!(mark(&mut lab, &answer), 0, "nobody has asked");
        let before = lab.verdicts(VerdictCounter::ClientReply);
        let _socket = connecting(ours, backend);
        assert_eq!(mark(&mut lab, &answer), MARK);
        assert_eq!(lab.verdicts(VerdictCounter::ClientReply), before + 1);
        // Another address or port at either end is somebody else's.
        let mut others = [at(backend), at(backend)];
        others[0].set_port(at(backend).port() + 1);
        let mut port = at(ours);
        port.set_port(55_001);
        for (from, to) in [
            (others[0], at(ours)),
            (at(backend), port),
            (at(backend), at(stranger)),
        ] {
            let frame = Segment::from_backend(from, to, ACK).frame();
            assert_eq!(mark(&mut lab, &frame), 0, "{from} to {to}");
        }
        assert_eq!(lab.verdicts(VerdictCounter::ClientReply), before + 1);
    }
    assert_eq!(lab.all_drops(), 0);
}

#[test]
fn without_the_mode_and_outside_of_the_range_nothing_is_marked() {
    let Some(mut lab) = lab(Hook::Tc) else { return };
    let _socket = connecting(OURS, BACKEND);
    let answer = reply(BACKEND, OURS, SYN_ACK);
    assert_eq!(mark(&mut lab, &answer), MARK);
    lab.set(|settings| settings.client_mark = 0);
    assert_eq!(mark(&mut lab, &answer), 0);
    for (first, last) in [(51_000, 54_999), (55_001, 60_999)] {
        lab.set(|settings| {
            settings.client_mark = MARK;
            settings.handoff_port_min = first;
            settings.handoff_port_max = last;
        });
        assert_eq!(mark(&mut lab, &answer), 0);
    }
    lab.set(|settings| settings.handoff_port_min = 55_000);
    lab.set(|settings| settings.handoff_port_max = 55_000);
    assert_eq!(mark(&mut lab, &answer), MARK);
}

#[test]
fn a_listening_socket_is_not_meant() {
    let Some(mut lab) = lab(Hook::Tc) else { return };
    let socket = transparent(at(OURS));
    socket.listen(1).unwrap();
    for flags in [SYN, ACK] {
        assert_eq!(mark(&mut lab, &reply(BACKEND, OURS, flags)), 0);
    }
}

#[test]
fn an_error_about_such_a_connection_is_marked() {
    let Some(mut lab) = lab(Hook::Tc) else { return };
    for (ours, backend, router) in [(OURS, BACKEND, "10.1.0.99"), (OURS6, BACKEND6, "fd01::63")] {
        let sent = Segment::from_backend(at(ours), at(backend), ACK).frame();
        let router = router.parse().unwrap();
        let error = Error::too_big(router, at(ours).ip(), &sent, 48);
        let frame = error.received(PODS);
        assert_eq!(mark(&mut lab, &frame), 0);
        let _socket = connecting(ours, backend);
        assert_eq!(mark(&mut lab, &frame), MARK);
        // It has to be for whoever sent the packet.
        let mut elsewhere = at(ours);
        elsewhere.set_port(55_001);
        let sent = Segment::from_backend(elsewhere, at(backend), ACK).frame();
        let error = Error::too_big(router, at(ours).ip(), &sent, 48);
        assert_eq!(mark(&mut lab, &error.received(PODS)), 0);
    }
    assert_eq!(lab.all_drops(), 0);
}

#[test]
fn what_is_about_to_be_handed_off_is_noted_down_and_marked() {
    let Some(mut lab) = lab(Hook::Tc) else { return };
    let (client, vip) = (at("203.0.113.9:40000"), at("198.51.100.1:443"));
    let (ours, backend) = (at(OURS), at(BACKEND));
    let keys = [key(client, vip), key(backend, ours)];
    let slot = FlowSlot {
        state: SLOT_OBSERVE,
        generation: 1,
        kind: KIND_HANDOFF,
        tcp_state: TCP_ESTABLISHED,
        dir: [
            direction(keys[0], ours, backend, 0, 0),
            direction(keys[1], vip, client, 0, 0),
        ],
        ..lab.slot(3)
    };
    lab.set_slot(3, slot);
    for direction in [DIR_TO_BACKEND, DIR_TO_CLIENT] {
        let reference = FlowRef {
            slot: 3,
            generation: 1,
            direction,
        };
        lab.set_flow(&keys[direction as usize], reference);
    }
    let _socket = connecting(OURS, BACKEND);
    assert_eq!(mark(&mut lab, &reply(BACKEND, OURS, ACK)), MARK);
    let noted = lab.slot(3).dir[DIR_TO_CLIENT as usize];
    assert_ne!(noted.tcp_flags_seen, 0, "noted down as well");
}

#[test]
fn xdp_leaves_it_as_it_is() {
    let Some(mut lab) = lab(Hook::Xdp) else {
        return;
    };
    let _socket = connecting(OURS, BACKEND);
    let frame = reply(BACKEND, OURS, SYN_ACK);
    let outcome = lab.run(PODS, &frame);
    assert_eq!(
        (outcome.action, hex(&outcome.frame)),
        (Action::Pass, hex(&frame))
    );
    assert_eq!(lab.verdicts(VerdictCounter::ClientReply), 0);
}
