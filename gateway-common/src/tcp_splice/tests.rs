// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Against a model that knows no bytes: it parses options into what they mean,
//! changes that in wide integers, and writes them out again.

extern crate std;

use std::{vec, vec::Vec};

use super::{End, Header, KEEP_SACK, KEEP_TIMESTAMPS, Splice, Walk, add_be, splice, window_shift};
use crate::checksum::apply;

/// A header's bytes, of which those up to the length of the vector are in reach.
impl Header for Vec<u8> {
    fn byte(&self, at: u32) -> Option<u8> {
        self.get(at as usize).copied()
    }

    fn word(&self, at: u32) -> Option<u32> {
        let bytes = self.get(at as usize..at as usize + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    }

    fn set_byte(&mut self, at: u32, byte: u8) -> bool {
        self.get_mut(at as usize).map(|old| *old = byte).is_some()
    }

    fn set_word(&mut self, at: u32, word: u32) -> bool {
        self.get_mut(at as usize..at as usize + 4)
            .map(|old| old.copy_from_slice(&word.to_ne_bytes()))
            .is_some()
    }
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    /// A number that is near a wrap more often than by chance.
    fn number(&mut self) -> u32 {
        match self.below(6) {
            0 => 0_u32.wrapping_sub(self.below(3) as u32),
            1 => self.below(3) as u32,
            2 => 0x8000_0000_u32
                .wrapping_sub(1)
                .wrapping_add(self.below(3) as u32),
            _ => self.next() as u32,
        }
    }

    fn splice(&mut self) -> Splice {
        Splice {
            seq: self.number(),
            ack: self.number(),
            ts_value: self.number(),
            ts_echo: self.number(),
            window_shift: self.below(29) as i32 - 14,
            keep: self.below(4) as u32,
        }
    }
}

/// What a list of options means.
#[derive(Clone, Debug, PartialEq)]
enum Item {
    Nop,
    /// And what follows, which nobody reads.
    EndOfList(Vec<u8>),
    Timestamps(u32, u32),
    Sack(Vec<u32>),
    /// So many bytes of something else.
    Other(usize),
    /// So many bytes from which on the list cannot be read.
    Broken(usize),
}

fn parse(mut bytes: &[u8]) -> Vec<Item> {
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let mut items = Vec::new();
    while let Some((&kind, rest)) = bytes.split_first() {
        match kind {
            0 => {
                items.push(Item::EndOfList(rest.to_vec()));
                break;
            }
            1 => {
                items.push(Item::Nop);
                bytes = rest;
                continue;
            }
            _ => {}
        }
        let len = rest.first().map_or(0, |&len| usize::from(len));
        if len < 2 || len > bytes.len() {
            items.push(Item::Broken(bytes.len()));
            break;
        }
        let (option, rest) = bytes.split_at(len);
        let value = &option[2..];
        items.push(match (kind, value.len()) {
            (8, 8) => Item::Timestamps(number(&value[..4]), number(&value[4..])),
            (5, 8 | 16 | 24 | 32) => Item::Sack(value.chunks(4).map(number).collect()),
            _ => Item::Other(len),
        });
        bytes = rest;
    }
    items
}

fn write(items: &[Item]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for item in items {
        match item {
            Item::Nop => bytes.push(1),
            Item::EndOfList(rest) => {
                bytes.push(0);
                bytes.extend(rest);
            }
            Item::Timestamps(value, echo) => {
                bytes.extend([8, 10]);
                bytes.extend(value.to_be_bytes());
                bytes.extend(echo.to_be_bytes());
            }
            Item::Sack(edges) => {
                bytes.extend([5, 2 + 4 * edges.len() as u8]);
                bytes.extend(edges.iter().flat_map(|edge| edge.to_be_bytes()));
            }
            Item::Other(len) | Item::Broken(len) => bytes.extend(vec![1; *len]),
        }
    }
    bytes
}

fn wide(number: u32, delta: u32) -> u32 {
    ((i128::from(number) + i128::from(delta)) % (1 << 32)) as u32
}

fn model(items: &[Item], splice: &Splice) -> Vec<Item> {
    let erased = |item: &Item| Item::Other(write(core::slice::from_ref(item)).len());
    items
        .iter()
        .map(|item| match item {
            Item::Timestamps(..) if splice.keep & KEEP_TIMESTAMPS == 0 => erased(item),
            Item::Sack(_) if splice.keep & KEEP_SACK == 0 => erased(item),
            Item::Timestamps(value, echo) => {
                Item::Timestamps(wide(*value, splice.ts_value), wide(*echo, splice.ts_echo))
            }
            Item::Sack(edges) => {
                Item::Sack(edges.iter().map(|edge| wide(*edge, splice.ack)).collect())
            }
            other => other.clone(),
        })
        .collect()
}

/// RFC 1071 section 4.1 over the bytes of a header.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_ne_bytes([pair[0], pair[1]]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A header with these options, and bytes behind it that are not its own.
fn header(options: &[u8]) -> Vec<u8> {
    let mut header = vec![0xa5; 20];
    header.extend(options);
    header.extend([0xff; 24]);
    header
}

/// Translates `options` and compares with the model.
fn check(options: &[u8], splice: &Splice) {
    let end = 20 + options.len();
    let before = header(options);
    let mut after = before.clone();
    let diff = Walk::new(20, end as u32).through(&mut after, splice);
    let expected = header(&write(&model(&parse(options), splice)));
    assert_eq!(after, expected, "{options:x?} {splice:x?}");
    let diff = diff.expect("all of it is in reach");
    assert_eq!(
        apply(sum(&before[..end]), diff),
        sum(&after[..end]),
        "{options:x?} {splice:x?}"
    );
}

/// Options of whole words, as a header has them: legal ones in any order and at
/// any position, now and then with a byte that is wrong.
fn options(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.below(9) {
        let item = match random.below(10) {
            0..=3 => Item::Nop,
            4 | 5 => Item::Timestamps(random.number(), random.number()),
            6 | 7 => Item::Sack(
                (0..2 * (1 + random.below(4)))
                    .map(|_| random.number())
                    .collect(),
            ),
            8 => Item::EndOfList(vec![random.next() as u8; random.below(4) as usize]),
            _ => {
                let len = 2 + random.below(8) as usize;
                bytes.extend([random.next() as u8, len as u8]);
                bytes.extend((2..len).map(|_| random.next() as u8));
                continue;
            }
        };
        bytes.extend(write(&[item]));
    }
    bytes.truncate(40);
    while bytes.len() % 4 != 0 {
        bytes.push(random.below(2) as u8);
    }
    if !bytes.is_empty() && random.below(4) == 0 {
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] = random.next() as u8;
    }
    bytes
}

#[test]
fn every_layout_reads_as_the_model_says() {
    let mut random = Random(0x5eed_0001);
    for _ in 0..200_000 {
        let options = options(&mut random);
        check(&options, &random.splice());
    }
}

#[test]
fn random_bytes_read_as_the_model_says() {
    let mut random = Random(0x5eed_0002);
    for _ in 0..200_000 {
        let len = 4 * random.below(11) as usize;
        // Of the few kinds and lengths that mean something.
        let options: Vec<u8> = (0..len)
            .map(|_| [0, 1, 1, 2, 5, 8, 10, 10, 18, 26, 34, 40][random.below(12) as usize])
            .collect();
        check(&options, &random.splice());
    }
}

#[test]
fn the_layouts_that_stacks_send() {
    let splice = Splice {
        ack: 0xffff_fff0,
        ts_value: 7,
        ts_echo: 0xffff_ffff,
        keep: KEEP_TIMESTAMPS | KEEP_SACK,
        ..Splice::default()
    };
    let mut header = header(&[
        1, 1, 8, 10, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 0, 1, 1, 5, 10, 0, 0, 0, 0x20, 0, 0, 0, 8,
    ]);
    assert!(Walk::new(20, 44).through(&mut header, &splice).is_some());
    assert_eq!(
        header[20..44],
        [
            1, 1, 8, 10, 0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 1, 1, 5, 10, 0, 0, 0, 0x10, 0xff,
            0xff, 0xff, 0xf8,
        ]
    );
    // Forty of the shortest, and four blocks, the most there is room for.
    check(&[1; 40], &splice);
    check(
        &[5, 34].iter().copied().chain(0..38).collect::<Vec<_>>(),
        &splice,
    );
    // MPTCP, TCP-AO, MD5, Fast Open, user timeout: not agreed upon.
    for kind in [30, 29, 19, 34, 28] {
        check(&[1, kind, 6, 1, 2, 3, 4, 1], &splice);
    }
}

#[test]
fn a_header_that_is_cut_off_is_out_of_reach() {
    let splice = Splice {
        keep: KEEP_TIMESTAMPS,
        ..Splice::default()
    };
    let whole = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    for len in 20..32 {
        let mut header = header(&whole);
        header.truncate(len);
        assert_eq!(Walk::new(20, 32).through(&mut header, &splice), None);
    }
}

#[test]
fn windows_are_scaled_and_never_promise_more() {
    for (sent, taken) in (0..=14).flat_map(|sent| [(sent, 0), (sent, 7), (sent, 14)]) {
        let shift = window_shift(sent, taken);
        let splice = Splice {
            window_shift: shift,
            ..Splice::default()
        };
        for window in 0..=u16::MAX {
            let bytes = i128::from(window) << sent;
            let expected = (bytes >> taken).min(0xffff) as u16;
            assert_eq!(u16::from_be(splice.window(window.to_be())), expected);
        }
    }
}

/// Both ends and the gateway's sockets, with streams that go on where the
/// sockets stopped: what one end sends arrives as what the other expects.
#[test]
fn streams_go_on_where_the_sockets_stopped() {
    let mut random = Random(0x5eed_0003);
    for _ in 0..100_000 {
        let mut end = || End {
            received: random.number(),
            written: random.number(),
            ts_now: random.number(),
            ts_seen: random.number(),
        };
        let (client, backend) = (end(), end());
        let splices = splice(&client, &backend, [3, -5], KEEP_SACK);
        for (splice, from, to) in [
            (splices[0], &client, &backend),
            (splices[1], &backend, &client),
        ] {
            // The next byte of `from` is the next one of the gateway's to `to`.
            let seq = u32::from_be(add_be(from.received.to_be(), splice.seq));
            assert_eq!(seq, to.written);
            // It acknowledges what the gateway has written to it: all that
            // `to` has sent.
            let ack = u32::from_be(add_be(from.written.to_be(), splice.ack));
            assert_eq!(ack, to.received);
            // Its clock goes on from the gateway's.
            assert_eq!(
                from.ts_seen.wrapping_add(splice.ts_value),
                to.ts_now.wrapping_add(1)
            );
            assert_eq!(splice.keep, KEEP_SACK);
        }
        assert_eq!(splices.map(|splice| splice.window_shift), [3, -5]);
        // What one end sends comes back to it as its own.
        for (number, there, back) in [
            (random.number(), splices[0].seq, splices[1].ack),
            (random.number(), splices[1].seq, splices[0].ack),
            (random.number(), splices[0].ts_value, splices[1].ts_echo),
            (random.number(), splices[1].ts_value, splices[0].ts_echo),
        ] {
            assert_eq!(wide(wide(number, there), back), number);
        }
    }
}
