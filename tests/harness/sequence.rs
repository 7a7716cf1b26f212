// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sequence numbers that are about to begin anew. The kernel chooses the first
//! number of a connection at random; a program at tc moves those of one end, so
//! that for everybody else they wrap within the first 64 KiB.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};

use crate::{
    foreign::{self, Link, Plain, instruction},
    netns::Netns,
};

/// The programs at one end's interface, for as long as the value lives.
#[derive(Debug)]
pub struct Moved {
    _links: [Link; 2],
    differences: OwnedFd,
}

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that connects.
    Client,
    /// The one that accepts.
    Server,
}

impl Moved {
    /// Moves the numbers of all IPv4 connections of `netns` that pass its
    /// `interface`. One of their ports tells them apart, so they need the same
    /// server. Selective acknowledgements are not moved: switch them off.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a program.
    pub fn start(netns: &Netns, interface: &str, side: Side) -> Result<Self> {
        // Difference by the client's port.
        let differences = foreign::array(4, PORTS).context("make a map")?;
        let map = differences.as_raw_fd();
        let (source, destination) = (TCP, TCP + 2);
        let (outward_key, inward_key) = match side {
            Side::Client => (source, destination),
            Side::Server => (destination, source),
        };
        let outward = Plain::tc("seq_out", &program(map, outward_key, Way::Out))?;
        let inward = Plain::tc("seq_in", &program(map, inward_key, Way::In))?;
        Ok(Self {
            _links: [
                outward.link(netns, interface, true)?,
                inward.link(netns, interface, false)?,
            ],
            differences,
        })
    }

    /// Ports whose connections have been moved so far.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn ports(&self) -> Result<usize> {
        let mut moved = 0;
        for port in 0..PORTS {
            let mut difference = [0; 4];
            foreign::look_up(&self.differences, port, &mut difference)?;
            moved += usize::from(difference != [0; 4]);
        }
        Ok(moved)
    }

    /// Switches selective acknowledgements off in a namespace.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn without_sack(netns: &Netns) -> Result<()> {
        netns.sysctl("net.ipv4.tcp_sack", "0")
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Adds to the sequence number; a SYN says what.
    Out,
    /// Takes it from the acknowledgement number.
    In,
}

const PORTS: u32 = 1 << 16;
/// Of the TCP header, behind Ethernet and IPv4 without options.
const TCP: i32 = 34;
const HEADERS: i32 = TCP + 20;

fn program(map: i32, key: i32, way: Way) -> Vec<[u8; 8]> {
    const LOAD_BYTES: i32 = 26;
    const STORE_BYTES: i32 = 9;
    const REPLACE_L4_CHECKSUM: i32 = 11;
    const LOOK_UP: i32 = 1;
    // On the stack: the headers, so that TCP's is aligned, the key, the new number.
    const COPY: i16 = -58;
    const KEY: i16 = -64;
    const NEW: i16 = -68;
    let number = if way == Way::Out { TCP + 4 } else { TCP + 8 };
    let at = |offset: i32| COPY + offset as i16;
    let call = |helper| instruction(0x85, 0, 0, 0, helper);
    let add = |register, value| instruction(0x07, register, 0, 0, value);
    let set = |register, value| instruction(0xb7, register, 0, 0, value);
    let copy = |to, from| instruction(0xbf, to, from, 0, 0);
    let (u8_at, u16_at, u32_at) = (0x71, 0x69, 0x61);
    // Filled in below: jumps to the end.
    const OUT: i16 = i16::MAX;
    let unless = |register, value| instruction(0x55, register, 0, OUT, value);
    let mut code = vec![
        copy(6, 1),
        set(2, 0),
        copy(3, 10),
        add(3, i32::from(COPY)),
        set(4, HEADERS),
        call(LOAD_BYTES),
        unless(0, 0),
        // IPv4 without options, TCP.
        instruction(u16_at, 1, 10, at(12), 0),
        unless(1, i32::from(0x0800_u16.to_be())),
        instruction(u8_at, 1, 10, at(14), 0),
        unless(1, 0x45),
        instruction(u8_at, 1, 10, at(23), 0),
        unless(1, 6),
        // r7 = the port
        instruction(u16_at, 7, 10, at(key), 0),
        instruction(0xdc, 7, 0, 0, 16),
        instruction(0x63, 10, 7, KEY, 0),
        instruction(0x18, 1, 1, 0, map),
        instruction(0, 0, 0, 0, 0),
        copy(2, 10),
        add(2, i32::from(KEY)),
        call(LOOK_UP),
        // if (!r0) go to the end
        instruction(0x15, 0, 0, OUT, 0),
        copy(8, 0),
        // r9 = the number
        instruction(u32_at, 9, 10, at(number), 0),
        instruction(0xdc, 9, 0, 0, 32),
    ];
    if way == Way::Out {
        code.extend([
            // Unless it is a SYN, go on with what the last one said.
            instruction(u8_at, 1, 10, at(TCP + 13), 0),
            instruction(0x57, 1, 0, 0, 2),
            instruction(0x15, 1, 0, 6, 0),
            // The first number is -1 - (port % 1024) * 64.
            instruction(0x57, 7, 0, 0, 0x3ff),
            instruction(0x67, 7, 0, 0, 6),
            instruction(0xb4, 1, 0, 0, -1),
            instruction(0x1c, 1, 7, 0, 0),
            instruction(0x1c, 1, 9, 0, 0),
            instruction(0x63, 8, 1, 0, 0),
        ]);
    }
    code.extend([
        // r9 += or -= the difference
        instruction(u32_at, 1, 8, 0, 0),
        instruction(if way == Way::Out { 0x0c } else { 0x1c }, 9, 1, 0, 0),
        instruction(0xdc, 9, 0, 0, 32),
        instruction(0x63, 10, 9, NEW, 0),
        copy(1, 6),
        set(2, number),
        copy(3, 10),
        add(3, i32::from(NEW)),
        set(4, 4),
        set(5, 0),
        call(STORE_BYTES),
        copy(1, 6),
        set(2, TCP + 16),
        instruction(u32_at, 3, 10, at(number), 0),
        instruction(u32_at, 4, 10, NEW, 0),
        set(5, 4),
        call(REPLACE_L4_CHECKSUM),
    ]);
    let end = code.len();
    for (index, instruction) in code.iter_mut().enumerate() {
        if instruction[2..4] == OUT.to_ne_bytes() {
            let offset = (end - index - 1) as i16;
            instruction[2..4].copy_from_slice(&offset.to_ne_bytes());
        }
    }
    // TCX_NEXT
    code.extend([set(0, -1), instruction(0x95, 0, 0, 0, 0)]);
    code
}
