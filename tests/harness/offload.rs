// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Offloads of an interface, through the ethtool ioctl.
//!
//! veth passes packets on with their checksums left to "the hardware", which an
//! XDP program sees as unfinished and no wire would carry. Native XDP also
//! hands packets only to a peer that polls, which GRO makes it do. So a lab for
//! XDP gets both.

use anyhow::{Context, Result};

/// Makes a veth end in the caller's network namespace behave like a network
/// card on a wire: it finishes checksums itself and polls.
///
/// # Errors
///
/// When the interface is missing or refuses.
pub fn like_a_wire(interface: &str) -> Result<()> {
    full_checksums(interface)?;
    set(interface, ETHTOOL_SGRO, 1).context("switch GRO on")
}

/// The first half of [`like_a_wire`]: the other end of a veth pair still takes
/// nothing that XDP redirects to it.
///
/// # Errors
///
/// When the interface is missing or refuses.
pub fn full_checksums(interface: &str) -> Result<()> {
    set(interface, ETHTOOL_STXCSUM, 0).context("switch transmit checksums off")
}

/// Says where a device takes the VLAN tags of what it sends and hands over: beside
/// packets, as cards do that insert and remove them, or in them.
///
/// # Errors
///
/// When the interface is missing or refuses.
pub fn tags_beside_packets(interface: &str, beside: bool) -> Result<()> {
    let flags = if beside {
        ETH_FLAG_TXVLAN | ETH_FLAG_RXVLAN
    } else {
        0
    };
    set(interface, ETHTOOL_SFLAGS, flags).context("set the offloads of VLAN tags")
}

/// Undoes [`like_a_wire`].
///
/// # Errors
///
/// When the interface is missing or refuses.
pub fn like_veth(interface: &str) -> Result<()> {
    set(interface, ETHTOOL_STXCSUM, 1).context("switch transmit checksums on")?;
    set(interface, ETHTOOL_SGRO, 0).context("switch GRO off")
}

/// Makes a veth end in the caller's network namespace send what a wire carries:
/// one segment a packet, with its checksum.
///
/// # Errors
///
/// When the interface is missing or refuses.
pub fn none(interface: &str) -> Result<()> {
    for (command, what) in [
        (ETHTOOL_STSO, "TSO"),
        (ETHTOOL_SGSO, "GSO"),
        (ETHTOOL_STXCSUM, "transmit checksums"),
    ] {
        set(interface, command, 0).with_context(|| format!("switch {what} off"))?;
    }
    Ok(())
}

/// `struct ethtool_value` (include/uapi/linux/ethtool.h).
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

fn set(interface: &str, cmd: u32, data: u32) -> Result<()> {
    // SAFETY: socket has no preconditions.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0) };
    anyhow::ensure!(socket >= 0, std::io::Error::last_os_error());
    let mut value = EthtoolValue { cmd, data };
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes().take(15)) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request names a terminated interface and points at a value
    // that lives across the call; the socket is open.
    let status = unsafe { libc::ioctl(socket, SIOCETHTOOL, &raw mut request) };
    let outcome = if status == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error()).with_context(|| interface.to_owned())
    };
    // SAFETY: the descriptor is ours and not used again.
    unsafe {
        libc::close(socket);
    }
    outcome
}

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETH_FLAG_TXVLAN: u32 = 1 << 7;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
