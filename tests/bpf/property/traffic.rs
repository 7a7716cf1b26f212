// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Random packets that mean something to a map state and to what came before.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
};

use fastrand::Rng;
use gateway_common::{
    flow::{PROTOCOL_TCP, PROTOCOL_UDP},
    tcp_state::{FLAG_ACK, FLAG_FIN, FLAG_RST, FLAG_SYN},
};

use super::{
    draft::Draft,
    handoffs, mutate,
    world::{PORTS, VIPS, World, address},
};
use crate::{
    lab::{CLIENT_MAC, Hook, PODS, PODS_MAC, WIRE, WIRE_MAC},
    model::{
        Model,
        flow::{TO_BACKEND, TO_CLIENT},
        parse::Tuple,
        route::{MTU, ROUTE_MTU, SLOW_MTU},
    },
};

/// A frame on its way in.
#[derive(Clone)]
pub struct Frame {
    pub interface: &'static str,
    pub bytes: Vec<u8>,
    /// What it was meant to be.
    pub what: &'static str,
}

/// True once in `times`.
pub fn chance(random: &mut Rng, times: u32) -> bool {
    random.u32(..times) == 0
}

/// Clients of each family: neighbours, one that is not known, other networks,
/// backends, the node itself, nowhere, and addresses that nobody may have.
const CLIENTS: [[&str; 12]; 2] = [
    [
        "192.0.2.2",
        "192.0.2.2",
        "203.0.113.7",
        "203.0.113.8",
        "10.1.0.11",
        "10.1.0.12",
        "192.0.2.77",
        "10.2.0.21",
        "192.0.2.1",
        "198.18.0.1",
        "10.9.1.7",
        "10.3.0.5",
    ],
    [
        "2001:db8::2",
        "2001:db8::2",
        "2001:db8:9::7",
        "2001:db8:9::8",
        "fd01::b",
        "fd01::c",
        "2001:db8::77",
        "fd02::15",
        "2001:db8::1",
        "3fff::1",
        "fd09:1::7",
        "fe80::7",
    ],
];

/// A client's address and one of its few ports.
pub fn client(random: &mut Rng, family: usize) -> SocketAddr {
    let clients = CLIENTS[family];
    let ip = address(clients[random.usize(..clients.len())]);
    SocketAddr::new(ip, 40_000 + random.u16(..3))
}

/// Makes one packet after the other.
pub struct Traffic {
    pub random: Rng,
    sent: Vec<Frame>,
    /// The rest of what was begun.
    pending: VecDeque<Frame>,
}

impl Traffic {
    pub fn new(random: Rng) -> Self {
        Self {
            random,
            sent: Vec::new(),
            pending: VecDeque::new(),
        }
    }

    /// The next frame to the data plane in the state of `model`.
    pub fn next(&mut self, world: &World, model: &Model) -> Frame {
        loop {
            let frame = self.any(world, model);
            if is_runnable(model.hook, &frame.bytes) {
                self.sent.push(frame.clone());
                return frame;
            }
        }
    }

    fn any(&mut self, world: &World, model: &Model) -> Frame {
        if !chance(&mut self.random, 4)
            && let Some(frame) = self.pending.pop_front()
        {
            return frame;
        }
        match self.random.u32(..100) {
            0..24 => self.opening(world),
            24..66 => self.within(world, model),
            66..78 => self.error(world, model),
            78..82 => self.again(world),
            82..96 => {
                let mut frame = if self.random.bool() {
                    self.again(world)
                } else if self.random.bool() {
                    self.within(world, model)
                } else {
                    self.opening(world)
                };
                mutate::worsen(&mut self.random, &mut frame.bytes);
                frame.what = "a packet made worse";
                frame
            }
            96..98 => self.stranger(),
            _ => self.noise(),
        }
    }

    /// A client's packet to a service, mostly one that opens a flow.
    pub fn opening(&mut self, world: &World) -> Frame {
        let random = &mut self.random;
        let Some((key, _)) = random.choice(&world.services).copied() else {
            return self.noise();
        };
        let family = usize::from(!key.addr.is_v4());
        let [first, last] = [key.port_be, key.last_port_be].map(u16::from_be);
        let port = match random.u32(..12) {
            0 => first - 1,
            1 => last + 1,
            2 => last,
            3 => random.u16(30_000..=30_005),
            4..7 => random.u16(first..=last),
            _ => first,
        };
        let mut dst = SocketAddr::new(key.addr.into(), port);
        let mut protocol = key.proto;
        match random.u32(..20) {
            0 => protocol = PROTOCOL_TCP + PROTOCOL_UDP - protocol,
            1 => dst.set_port(*random.choice(&PORTS).unwrap()),
            2 => dst.set_ip(address(random.choice(&VIPS[family]).unwrap())),
            _ => {}
        }
        let tuple = Tuple {
            protocol,
            src: client(random, family),
            dst,
        };
        let mut draft = self.draft(&tuple);
        draft.flags = match self.random.u32(..10) {
            0 => self.random.u8(..),
            1 => FLAG_ACK as u8,
            _ => FLAG_SYN as u8,
        };
        self.frame(draft, "to a service")
    }

    /// A packet of a flow that the table knows, in either direction.
    fn within(&mut self, world: &World, model: &Model) -> Frame {
        let Some((tuple, way)) = self.flow(model) else {
            return self.opening(world);
        };
        let mut draft = self.draft(&tuple);
        let random_flags = self.random.u8(..);
        draft.flags = match self.random.u32(..20) {
            0..3 => FLAG_FIN | FLAG_ACK,
            3 => FLAG_RST,
            4 => FLAG_RST | FLAG_ACK,
            5..8 => FLAG_SYN,
            8..11 => FLAG_SYN | FLAG_ACK,
            11 => u32::from(random_flags),
            12 => FLAG_ACK | 8,
            _ => FLAG_ACK,
        } as u8;
        self.frame(
            draft,
            if way == TO_BACKEND {
                "to a backend"
            } else {
                "from a backend"
            },
        )
    }

    /// The key of a direction of some flow that has or had a slot.
    pub fn flow(&mut self, model: &Model) -> Option<(Tuple, usize)> {
        let mut slots: Vec<_> = model
            .flows
            .slots
            .iter()
            .filter(|(_, it)| !it.dir.is_empty())
            .collect();
        slots.sort_by_key(|(index, _)| **index);
        let (_, slot) = self.random.choice(slots)?;
        let way = self.random.usize(TO_BACKEND..=TO_CLIENT);
        Some((slot.dir[way].key, way))
    }

    /// A packet with a random everything else.
    pub fn draft(&mut self, tuple: &Tuple) -> Draft {
        let random = &mut self.random;
        let mut draft = Draft::new(tuple);
        // Few, so that some are what the other side expects.
        draft.seq = random.u32(..4);
        draft.ack = random.u32(..4);
        let is_v6 = tuple.src.is_ipv6();
        if chance(random, 12) {
            draft.ttl = *random.choice(&[0, 1, 2, 255]).unwrap();
        }
        if chance(random, 4) {
            draft.class = random.u8(..);
        }
        draft.id = random.u32(..4);
        draft.dont_fragment = random.bool();
        draft.has_checksum = !chance(random, 6);
        if chance(random, 4) {
            draft.tcp_options = handoffs::options(random);
            draft.window = random.u16(..);
        }
        if chance(random, 6) {
            draft.options = vec![1; 4 * random.usize(..=10)];
        }
        if is_v6 && chance(random, 4) {
            draft.extensions = extensions(random);
        }
        let len = match random.u32(..12) {
            0..3 => 0,
            3..9 => random.usize(..60),
            9 => random.usize(..1_400),
            // Around the length that still fits.
            _ => {
                let mtu = *random
                    .choice(&[MTU, SLOW_MTU, ROUTE_MTU[0], ROUTE_MTU[1]])
                    .unwrap();
                let header = if is_v6 { 40 } else { 20 } + draft.options.len();
                let transport = if tuple.protocol == PROTOCOL_TCP {
                    20 + draft.tcp_options.len()
                } else {
                    8
                };
                (mtu + random.usize(..9)).saturating_sub(header + transport + 4)
            }
        };
        draft.payload = (0..len).map(|_| random.u8(..)).collect();
        draft
    }

    /// In frames: mostly one, else its fragments, of which the first is returned
    /// and the others come later, or not, in any order.
    pub fn frame(&mut self, draft: Draft, what: &'static str) -> Frame {
        let interface = side(draft.src.ip());
        let interface = if chance(&mut self.random, 30) {
            self.random.choice([WIRE, PODS]).unwrap()
        } else {
            interface
        };
        if !chance(&mut self.random, 8) {
            return self.ethernet(interface, draft.src.is_ipv6(), draft.whole(), what);
        }
        let mut draft = draft;
        draft.dont_fragment = false;
        if draft.payload.len() < 40 {
            draft.payload = (0..self.random.u8(30..120)).collect();
        }
        let size = 8 * self.random.usize(1..=12);
        let is_v6 = draft.src.is_ipv6();
        let mut pieces = draft.fragments(size);
        pieces.truncate(6);
        match self.random.u32(..4) {
            0 => self.random.shuffle(&mut pieces),
            1 => {
                let left_out = self.random.usize(..pieces.len());
                pieces.remove(left_out);
            }
            _ => {}
        }
        let mut frames: VecDeque<_> = pieces
            .into_iter()
            .map(|piece| self.ethernet(interface, is_v6, piece, "a fragment"))
            .collect();
        match frames.pop_front() {
            Some(first) => {
                self.pending.extend(frames);
                first
            }
            None => self.noise(),
        }
    }

    /// Something that was sent before.
    fn again(&mut self, world: &World) -> Frame {
        match self.random.choice(&self.sent) {
            Some(frame) => Frame {
                what: "sent before",
                ..frame.clone()
            },
            None => self.opening(world),
        }
    }

    /// A well-formed packet of nobody we know.
    fn stranger(&mut self) -> Frame {
        let family = self.random.usize(..2);
        let [src, dst] = [0; 2].map(|_| client(&mut self.random, family));
        let protocol = *self
            .random
            .choice(&[PROTOCOL_TCP, PROTOCOL_UDP, 47, 132])
            .unwrap();
        let mut draft = self.draft(&Tuple { protocol, src, dst });
        draft.flags = self.random.u8(..);
        self.frame(draft, "a stranger's")
    }

    /// Random bytes behind a believable start.
    fn noise(&mut self) -> Frame {
        let random = &mut self.random;
        let len = random.usize(1..200);
        let mut packet: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
        let is_v6 = random.bool();
        packet[0] = if is_v6 { 0x60 } else { 0x45 };
        let interface = random.choice([WIRE, PODS]).unwrap();
        self.ethernet(interface, is_v6, packet, "noise")
    }

    pub fn ethernet(
        &mut self,
        interface: &'static str,
        is_v6: bool,
        packet: Vec<u8>,
        what: &'static str,
    ) -> Frame {
        let random = &mut self.random;
        let own = if interface == WIRE {
            WIRE_MAC
        } else {
            PODS_MAC
        };
        let dst = match random.u32(..120) {
            0 => [0xff; 6],
            1 => [0x33, 0x33, 0, 0, 0, 1],
            _ => own,
        };
        let ether_type = if chance(random, 200) {
            *random.choice(&[0x8100, 0x88a8, 0x0806, 0x8847]).unwrap()
        } else if is_v6 {
            0x86dd
        } else {
            0x0800_u16
        };
        let mut bytes = [dst, CLIENT_MAC].concat();
        bytes.extend(ether_type.to_be_bytes());
        bytes.extend(packet);
        if bytes.len() < 60 && random.bool() {
            // As short frames are on a wire (IEEE 802.3 section 3.2.8).
            bytes.resize(60, 0);
        }
        Frame {
            interface,
            bytes,
            what,
        }
    }
}

/// The interface behind which an address is.
pub fn side(ip: IpAddr) -> &'static str {
    let is_pod = match ip {
        IpAddr::V4(v4) => v4.octets()[0] == 10,
        IpAddr::V6(v6) => v6.octets()[0] == 0xfd,
    };
    if is_pod { PODS } else { WIRE }
}

/// Extension headers, mostly such as are walked.
fn extensions(random: &mut Rng) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    for position in 0..random.usize(1..=7) {
        let number = match random.u32(..30) {
            0 => *random.choice(&[51, 135, 139, 253, 59]).unwrap(),
            1 => 0,
            2..9 if position == 0 => 0,
            2..12 => 43,
            12 => 44,
            _ => 60,
        };
        let units = if chance(random, 20) {
            random.u8(..32)
        } else {
            random.u8(..3)
        };
        let mut header = vec![0, units];
        match number {
            44 => header.extend([0, random.u8(..3), 0, 0, 0, random.u8(..4)]),
            _ => {
                let left = if number == 43 && chance(random, 6) {
                    1
                } else {
                    0
                };
                header.extend([if number == 43 { 0 } else { 1 }, left]);
                header.resize((usize::from(units) + 1) * 8, 0);
            }
        }
        all.push((number, header));
    }
    all
}

/// Whether a run takes such a frame: at tc the kernel wants the whole IP header.
fn is_runnable(hook: Hook, frame: &[u8]) -> bool {
    let shortest = match (hook, frame.get(12..14)) {
        (Hook::Tc, Some([8, 0])) => 34,
        (Hook::Tc, Some([0x86, 0xdd])) => 54,
        _ => 15,
    };
    (shortest..3_000).contains(&frame.len())
}
