// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a TCP socket says about itself, and how it is taken apart (tcp(7);
//! `TCP_REPAIR`: Linux `net/ipv4/tcp.c`, made for checkpoints of processes).

use std::{
    io,
    mem::size_of_val,
    os::fd::{AsFd, AsRawFd},
};

use socket2::SockRef;

/// Values of `TCP_REPAIR`. Ending it sends a window probe, which the far end
/// answers at once; or does not.
const REPAIR_OFF: libc::c_int = 0;
const REPAIR_ON: libc::c_int = 1;
const REPAIR_OFF_NO_PROBE: libc::c_int = -1;
/// Values of `TCP_REPAIR_QUEUE`.
const RECEIVE_QUEUE: libc::c_int = 1;
const SEND_QUEUE: libc::c_int = 2;
/// `TCP_ESTABLISHED` of `netinet/tcp.h`.
const ESTABLISHED: u8 = 1;

/// Bits of `tcpi_options`.
pub const OPTION_TIMESTAMPS: u8 = 1;
pub const OPTION_SACK: u8 = 2;
pub const OPTION_ECN: u8 = 8;

/// The part of `struct tcp_info` that decides (Linux `include/uapi/linux/tcp.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Neither end has closed it.
    pub is_established: bool,
    /// `OPTION_*` that both ends have agreed upon.
    pub options: u8,
    /// Scale of the windows the far end sends, 0 without scaling.
    pub their_scale: u8,
    /// Scale of the windows it is sent.
    pub our_scale: u8,
    /// Bytes of data in the longest segment sent.
    pub send_mss: u32,
    /// Bytes in the longest segment the far end was told it may send, options
    /// included.
    pub advertised_mss: u32,
}

/// Numbers of a socket in repair mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The sequence number expected next.
    pub received: u32,
    /// That of the next byte to be sent.
    pub written: u32,
}

/// Bytes that wait in the socket: received and not read, written and not
/// acknowledged.
///
/// # Errors
/// Those of ioctl(2).
pub fn queued(socket: &impl AsFd) -> io::Result<(u32, u32)> {
    const SIOCINQ: libc::Ioctl = 0x541B;
    const SIOCOUTQ: libc::Ioctl = 0x5411;
    let ask = |request| {
        let mut bytes: libc::c_int = 0;
        // SAFETY: both requests write one c_int to the pointer, which is that of
        // a live one; the descriptor is borrowed, so open.
        match unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), request, &raw mut bytes) } {
            0 => Ok(bytes.unsigned_abs()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    Ok((ask(SIOCINQ)?, ask(SIOCOUTQ)?))
}

/// Asks for [`Info`].
///
/// # Errors
/// Those of getsockopt(2).
pub fn info(socket: &impl AsFd) -> io::Result<Info> {
    // Up to `tcpi_advmss`; the structure only ever grows at its end.
    let mut bytes = [0_u8; 88];
    let read = get(socket, libc::TCP_INFO, &mut bytes)?;
    if read < bytes.len() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let word =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    // Two bit fields, the first in the lower bits where the lower byte comes
    // first.
    let (first, second) = (bytes[6] & 15, bytes[6] >> 4);
    let (their_scale, our_scale) = if cfg!(target_endian = "little") {
        (first, second)
    } else {
        (second, first)
    };
    Ok(Info {
        is_established: bytes[0] == ESTABLISHED,
        options: bytes[5],
        their_scale,
        our_scale,
        send_mss: word(16),
        advertised_mss: word(84),
    })
}

/// Segments received and sent so far (`tcpi_segs_in`, `tcpi_segs_out`); 0 where
/// the kernel does not say.
///
/// # Errors
/// Those of getsockopt(2).
pub fn segments(socket: &impl AsFd) -> io::Result<[u64; 2]> {
    let mut bytes = [0_u8; 144];
    get(socket, libc::TCP_INFO, &mut bytes)?;
    let word =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Ok([word(140).into(), word(136).into()])
}

/// Acknowledges what was received, now.
///
/// # Errors
/// Those of setsockopt(2).
pub fn acknowledge(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_tcp_quickack(true)
}

/// Sends no segment longer than `mss`, options included, and lets the far end
/// send none; before connect(2).
///
/// # Errors
/// Those of setsockopt(2).
pub fn limit_mss(socket: &impl AsFd, mss: u32) -> io::Result<()> {
    SockRef::from(socket).set_tcp_mss(mss)
}

/// Makes the far end say where it stands: it acknowledges all it has and says
/// its window. Nothing is taken apart.
///
/// # Errors
/// Those of setsockopt(2); `PermissionDenied` without CAP_NET_ADMIN.
pub fn poke(socket: &impl AsFd) -> io::Result<()> {
    set(socket, libc::TCP_REPAIR, REPAIR_ON)?;
    let poked = set(socket, libc::TCP_REPAIR, REPAIR_OFF);
    keep_reusable(socket);
    poked
}

/// The socket in repair mode: it still receives, but closes without a word.
/// Dropped, it is an ordinary socket again.
#[derive(Debug)]
pub struct Repair<'a, S: AsFd> {
    socket: &'a S,
    ends_with_drop: bool,
}

impl<'a, S: AsFd> Repair<'a, S> {
    /// Begins it.
    ///
    /// # Errors
    /// Those of setsockopt(2); `PermissionDenied` without CAP_NET_ADMIN.
    pub fn begin(socket: &'a S) -> io::Result<Self> {
        set(socket, libc::TCP_REPAIR, REPAIR_ON)?;
        Ok(Self {
            socket,
            ends_with_drop: true,
        })
    }

    /// Where it stands.
    ///
    /// # Errors
    /// Those of getsockopt(2).
    pub fn numbers(&self) -> io::Result<Numbers> {
        let number = |queue| {
            set(self.socket, libc::TCP_REPAIR_QUEUE, queue)?;
            get_u32(self.socket, libc::TCP_QUEUE_SEQ)
        };
        // The send queue first: with it chosen, the socket would send nothing.
        Ok(Numbers {
            written: number(SEND_QUEUE)?,
            received: number(RECEIVE_QUEUE)?,
        })
    }

    /// The timestamp a segment would have now.
    ///
    /// # Errors
    /// Those of getsockopt(2).
    pub fn timestamp(&self) -> io::Result<u32> {
        get_u32(self.socket, libc::TCP_TIMESTAMP)
    }

    /// Leaves the socket so, to be closed.
    pub fn keep(mut self) {
        // Never out of repair again, not for a moment: an agent that is killed in
        // it would reset what is the kernel's by now.
        self.ends_with_drop = false;
    }
}

impl<S: AsFd> Drop for Repair<'_, S> {
    fn drop(&mut self) {
        if self.ends_with_drop {
            // Fails on a socket that is not one.
            let _ = set(self.socket, libc::TCP_REPAIR, REPAIR_OFF_NO_PROBE);
            keep_reusable(self.socket);
        }
    }
}

/// Ending repair takes SO_REUSEADDR away, without which a listener could not be
/// bound again while this socket is in TIME_WAIT.
fn keep_reusable(socket: &impl AsFd) {
    let _ = SockRef::from(socket).set_reuse_address(true);
}

fn set(socket: &impl AsFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: pointer and length are those of a live integer; the descriptor is
    // borrowed, so open.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn get_u32(socket: &impl AsFd, option: libc::c_int) -> io::Result<u32> {
    let mut bytes = [0; 4];
    match get(socket, option, &mut bytes)? {
        4 => Ok(u32::from_ne_bytes(bytes)),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Bytes written to `value`.
fn get(socket: &impl AsFd, option: libc::c_int, value: &mut [u8]) -> io::Result<usize> {
    let mut length = value.len() as libc::socklen_t;
    // SAFETY: the pointer is that of `length` live bytes, of which the kernel
    // writes so many at most; the descriptor is borrowed, so open.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    match done {
        0 => Ok(length as usize),
        _ => Err(io::Error::last_os_error()),
    }
}
