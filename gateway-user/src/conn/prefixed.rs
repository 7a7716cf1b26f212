// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The client's socket, with what was peeked in front of it and its bytes
//! counted.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::telemetry::counters::WorkerCounters;

/// Bytes of one connection, as they pass its socket.
#[derive(Debug)]
pub struct ByteCounts {
    read: Cell<u64>,
    written: Cell<u64>,
    spliced: Cell<bool>,
    total: Arc<WorkerCounters>,
}

/// Gives the peeked bytes once more, then goes on reading.
#[derive(Debug)]
pub struct Prefixed<IO> {
    io: IO,
    prefix: Vec<u8>,
    at: usize,
    counts: Rc<ByteCounts>,
}

impl ByteCounts {
    /// Zero of both; the thread's totals grow along.
    pub fn new(total: Arc<WorkerCounters>) -> Rc<Self> {
        Rc::new(Self {
            read: Cell::new(0),
            written: Cell::new(0),
            spliced: Cell::new(false),
            total,
        })
    }

    /// Counts bytes from the client.
    pub fn add_read(&self, len: usize) {
        self.read.set(self.read.get() + len as u64);
        self.total.bytes_in.add(len as u64);
    }

    /// Counts bytes to the client.
    pub fn add_written(&self, len: usize) {
        self.written.set(self.written.get() + len as u64);
        self.total.bytes_out.add(len as u64);
    }

    /// Some bytes did not pass through the agent's memory.
    pub fn set_spliced(&self) {
        self.spliced.set(true);
    }

    /// Whether that is so.
    pub fn is_spliced(&self) -> bool {
        self.spliced.get()
    }

    /// Bytes from the client so far.
    pub fn read(&self) -> u64 {
        self.read.get()
    }

    /// Bytes to the client so far.
    pub fn written(&self) -> u64 {
        self.written.get()
    }
}

impl<IO> Prefixed<IO> {
    /// `prefix` was read, and counted, before.
    pub fn new(io: IO, prefix: Vec<u8>, counts: Rc<ByteCounts>) -> Self {
        Self {
            io,
            prefix,
            at: 0,
            counts,
        }
    }

    /// Whether the next read gives peeked bytes.
    pub fn has_prefix(&self) -> bool {
        self.at < self.prefix.len()
    }

    /// Its bytes.
    pub fn counts(&self) -> &ByteCounts {
        &self.counts
    }

    /// What reads and writes go to.
    pub fn inner(&self) -> &IO {
        &self.io
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Prefixed<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = this.prefix.get(this.at..).unwrap_or_default();
        if !left.is_empty() && buf.remaining() > 0 {
            let len = left.len().min(buf.remaining());
            buf.put_slice(&left[..len]);
            this.at += len;
            if this.at == this.prefix.len() {
                this.prefix = Vec::new();
                this.at = 0;
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        this.counts.add_read(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Prefixed<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let len = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
        this.counts.add_written(len);
        Poll::Ready(Ok(len))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let len = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, bufs))?;
        this.counts.add_written(len);
        Poll::Ready(Ok(len))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
