// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Random ICMP errors: about what was sent on, or nearly.

use std::net::{IpAddr, SocketAddr};

use gateway_common::{flow::KIND_DSR, tcp_state::FLAG_ACK};

use super::{
    draft::Draft,
    traffic::{Frame, Traffic, chance, client, side},
    world::{World, address},
};
use crate::model::{
    Model,
    encap::{IPIP, IPV6},
    flow::TO_BACKEND,
    parse::{ICMP, ICMPV6, Tuple},
};

impl Traffic {
    /// An error about a packet that was sent on: quoted is what its receiver or
    /// a router on the way saw.
    pub fn error(&mut self, world: &World, model: &Model) -> Frame {
        let Some((_, way)) = self.flow(model) else {
            return self.opening(world);
        };
        let mut slots: Vec<_> = model
            .flows
            .slots
            .iter()
            .filter(|(_, it)| !it.dir.is_empty())
            .collect();
        slots.sort_by_key(|(index, _)| **index);
        let (_, slot) = self.random.choice(slots).unwrap();
        let mut seen = slot.dir[way].to;
        if slot.kind == KIND_DSR && way == TO_BACKEND {
            let (client, kind) = (slot.dir[way].key, "an error about what was wrapped");
            return self.about_wrapped(client, seen, kind);
        }
        if chance(&mut self.random, 12) {
            // About somebody else's.
            seen = match self.random.u32(..3) {
                0 => seen.reversed(),
                1 => slot.dir[way].key,
                _ => Tuple {
                    src: SocketAddr::new(seen.src.ip(), 1),
                    ..seen
                },
            };
        }
        let about = self.about(&seen);
        let random = &mut self.random;
        let is_v6 = seen.src.is_ipv6();
        let mut quoted = if chance(random, 10) {
            let mut pieces = about.fragments(64);
            pieces.swap_remove(random.usize(..pieces.len().min(2)))
        } else {
            about.whole()
        };
        // RFC 792 asks for eight bytes of the transport, RFC 1812 for 576 in all,
        // RFC 4443 for what fits into 1280.
        let header = if is_v6 { 40 } else { 20 + about.options.len() };
        let len = match random.u32(..6) {
            0 => header + 8,
            1 => header + random.usize(..24),
            2 => random.usize(..=quoted.len()),
            _ => 1_200,
        };
        quoted.truncate(len);
        let family = usize::from(is_v6);
        let from = match self.random.u32(..3) {
            0 => seen.dst.ip(),
            1 => client(&mut self.random, family).ip(),
            _ => address(
                [
                    ["203.0.113.250", "10.3.0.250"],
                    ["2001:db8:9::fa", "fd03::fa"],
                ][family][way],
            ),
        };
        self.quoting(quoted, [from, seen.src.ip()], side(seen.dst.ip()))
    }

    /// A packet that an error is about.
    fn about(&mut self, seen: &Tuple) -> Draft {
        let mut about = self.draft(seen);
        about.flags = FLAG_ACK as u8;
        if chance(&mut self.random, 3) {
            about.payload.truncate(30);
        }
        if !chance(&mut self.random, 6) {
            about.extensions.clear();
        }
        about
    }

    /// An error about a packet that went inside another one, between the addresses
    /// of `tunnel`.
    fn about_wrapped(&mut self, original: Tuple, tunnel: Tuple, what: &'static str) -> Frame {
        let mut original = original;
        let mut tunnel = tunnel;
        if chance(&mut self.random, 12) {
            match self.random.u32(..4) {
                0 => original = original.reversed(),
                1 => original.src.set_port(1),
                2 => tunnel = tunnel.reversed(),
                _ => tunnel.dst.set_ip(original.src.ip()),
            }
        }
        let mut inner = self.about(&original);
        if !chance(&mut self.random, 6) {
            inner.options.clear();
        }
        let inner = if chance(&mut self.random, 10) {
            let mut pieces = inner.fragments(64);
            pieces.swap_remove(self.random.usize(..pieces.len().min(2)))
        } else {
            inner.whole()
        };
        let is_v6 = original.src.is_ipv6();
        let mut outer = self.draft(&Tuple {
            protocol: if is_v6 { IPV6 } else { IPIP },
            ..tunnel
        });
        if !chance(&mut self.random, 10) {
            outer.options.clear();
            outer.extensions.clear();
        }
        outer.payload = inner;
        let mut quoted = outer.whole();
        let least = if is_v6 { 88 } else { 48 };
        let len = match self.random.u32(..6) {
            0 => least,
            1 => least - 8 + self.random.usize(..24),
            2 => self.random.usize(..=quoted.len()),
            _ => 1_200,
        };
        quoted.truncate(len);
        let from = if self.random.bool() {
            tunnel.dst.ip()
        } else {
            address(["10.3.0.250", "fd03::fa"][usize::from(is_v6)])
        };
        Frame {
            what,
            ..self.quoting(quoted, [from, tunnel.src.ip()], side(tunnel.dst.ip()))
        }
    }

    /// An error that quotes these bytes.
    fn quoting(
        &mut self,
        quoted: Vec<u8>,
        [from, to]: [IpAddr; 2],
        interface: &'static str,
    ) -> Frame {
        let random = &mut self.random;
        let is_v6 = to.is_ipv6();
        let family = usize::from(is_v6);
        let [errors, all]: [&[u8]; 2] = if is_v6 {
            [&[1, 2, 3, 4], &[0, 5, 127, 128, 129, 135]]
        } else {
            [&[3, 11, 12], &[0, 4, 5, 8, 13]]
        };
        let kinds = if chance(random, 8) { all } else { errors };
        let kind = *random.choice(kinds).unwrap();
        let mut payload = vec![kind, random.u8(..6), 0, 0, 0, 0, 5, random.u8(..)];
        if chance(random, 12) {
            // No MTU, or one that leaves nothing.
            (payload[6], payload[7]) = (0, random.u8(..42));
        }
        payload.extend(quoted);
        let to = if chance(random, 20) {
            client(random, family).ip()
        } else {
            to
        };
        let mut draft = self.draft(&Tuple {
            protocol: if is_v6 { ICMPV6 } else { ICMP },
            src: SocketAddr::new(from, 0),
            dst: SocketAddr::new(to, 0),
        });
        draft.payload = payload;
        if !chance(&mut self.random, 8) {
            draft.extensions.clear();
        }
        if chance(&mut self.random, 20) {
            return self.frame(draft, "an error in fragments");
        }
        self.ethernet(interface, is_v6, draft.whole(), "an error")
    }
}
