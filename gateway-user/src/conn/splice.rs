// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Moves bytes from socket to socket through a pipe, without copying them
//! (splice(2)): for bulk, where copying is what a proxy costs. Small messages
//! gain nothing by it.
//!
//! A direction has a pipe while bytes are in it and no longer, so that
//! connections at rest hold none.

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    task::{Context, Poll, ready},
};

use tokio::{io::Interest, net::TcpStream};

use crate::conn::scratch;

/// Pipes of one thread at most; directions beyond it copy. Each is two open
/// files.
pub const MAX_PIPES: usize = 256;
/// Empty ones kept for the next direction.
const SPARE_PIPES: usize = 16;
/// Bytes moved at a time at most: what a stalled connection holds in its pipe.
const LEN: usize = scratch::LEN;

thread_local! {
    static SPARE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
    static IN_USE: Cell<usize> = const { Cell::new(0) };
}

/// A pipe with bytes on their way.
#[derive(Debug)]
pub struct Pipe {
    /// Present until it is dropped.
    ends: Option<Ends>,
    len: usize,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// What the reader had.
#[derive(Debug)]
pub enum Filled {
    /// Bytes, which are in this pipe now.
    Bytes(Pipe),
    /// It has ended.
    End,
    /// That is not known: no pipe is to be had, or the socket cannot be spliced.
    Unable,
}

/// Takes what `reader` has, as much as fits into a pipe.
///
/// # Errors
///
/// Those of the reader.
pub fn poll_fill(cx: &mut Context<'_>, reader: &TcpStream) -> Poll<io::Result<Filled>> {
    loop {
        ready!(reader.poll_read_ready(cx))?;
        let Ok(ends) = take() else {
            return Poll::Ready(Ok(Filled::Unable));
        };
        // The pipe is empty, so would-block is said of the reader.
        let filled = reader.try_io(Interest::READABLE, || splice(reader, &ends.write, LEN));
        let len = *filled.as_ref().unwrap_or(&0);
        let pipe = Pipe {
            ends: Some(ends),
            len,
        };
        return Poll::Ready(match filled {
            Ok(0) => Ok(Filled::End),
            Ok(_) => Ok(Filled::Bytes(pipe)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Filled::Unable),
            Err(error) => Err(error),
        });
    }
}

impl Pipe {
    /// Bytes in it.
    pub fn pending(&self) -> usize {
        self.len
    }

    /// Gives `writer` as much as it takes, at least one byte; how much.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        writer: &TcpStream,
    ) -> Poll<io::Result<usize>> {
        let Some(ends) = self.ends.as_ref().filter(|_| self.len > 0) else {
            return Poll::Ready(Ok(0));
        };
        loop {
            ready!(writer.poll_write_ready(cx))?;
            let moved = writer.try_io(Interest::WRITABLE, || splice(&ends.read, writer, self.len));
            match moved {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(moved) => {
                    self.len -= moved;
                    return Poll::Ready(Ok(moved));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // Both are gone when the thread ends.
        let _ = IN_USE.try_with(|count| count.set(count.get().saturating_sub(1)));
        // One with bytes in it would give them to another connection.
        let Some(ends) = self.ends.take().filter(|_| self.len == 0) else {
            return;
        };
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_PIPES {
                spare.push(ends);
            }
        });
    }
}

/// An empty pipe, which [`Pipe`] gives back.
fn take() -> io::Result<Ends> {
    let count = IN_USE.get();
    if count >= MAX_PIPES {
        return Err(io::ErrorKind::QuotaExceeded.into());
    }
    let ends = SPARE.with_borrow_mut(Vec::pop).map_or_else(open, Ok)?;
    IN_USE.set(count + 1);
    Ok(ends)
}

fn open() -> io::Result<Ends> {
    let mut ends = [-1; 2];
    // SAFETY: the pointer is that of two live integers, which the call fills.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: pipe2 succeeded: both are open descriptors, and nobody else's.
    let [read, write] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    Ok(Ends { read, write })
}

fn splice(from: &impl AsFd, to: &impl AsFd, len: usize) -> io::Result<usize> {
    // SAFETY: both descriptors are borrowed, so open across the call; the null
    // offsets are what descriptors without a position want.
    let moved = unsafe {
        libc::splice(
            from.as_fd().as_raw_fd(),
            std::ptr::null_mut(),
            to.as_fd().as_raw_fd(),
            std::ptr::null_mut(),
            len,
            libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK,
        )
    };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}
