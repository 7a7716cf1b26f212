// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Random ICMP errors: about what was sent on, or nearly.

use std::net::SocketAddr;

use gateway_common::tcp_state::FLAG_ACK;

use super::{
    traffic::{Frame, Traffic, chance, client, side},
    world::{World, address},
};
use crate::model::{
    Model,
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
        let mut about = self.draft(&seen);
        about.flags = FLAG_ACK as u8;
        let random = &mut self.random;
        let is_v6 = seen.src.is_ipv6();
        if chance(random, 3) {
            about.payload.truncate(30);
        }
        if !chance(random, 6) {
            about.extensions.clear();
        }
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
        let [errors, all]: [&[u8]; 2] = if is_v6 {
            [&[1, 2, 3, 4], &[0, 5, 127, 128, 129, 135]]
        } else {
            [&[3, 11, 12], &[0, 4, 5, 8, 13]]
        };
        let kinds = if chance(random, 8) { all } else { errors };
        let kind = *random.choice(kinds).unwrap();
        let mut payload = vec![kind, random.u8(..6), 0, 0, 0, 0, 5, random.u8(..)];
        payload.extend(quoted);
        let family = usize::from(is_v6);
        let from = match random.u32(..3) {
            0 => seen.dst.ip(),
            1 => client(random, family).ip(),
            _ => address(
                [
                    ["203.0.113.250", "10.3.0.250"],
                    ["2001:db8:9::fa", "fd03::fa"],
                ][family][way],
            ),
        };
        let to = if chance(random, 20) {
            client(random, family).ip()
        } else {
            seen.src.ip()
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
        let interface = side(seen.dst.ip());
        if chance(&mut self.random, 20) {
            return self.frame(draft, "an error in fragments");
        }
        self.ethernet(interface, is_v6, draft.whole(), "an error")
    }
}
