// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stands between an upstream's socket and hyper's HTTP/1 client: checks every
//! response head before hyper sees it, knows where each response ends, and
//! makes a connection useless that sends anything nobody asked for.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::{
    HttpLimits,
    deadline::Deadline,
    framing::{Framer, Side, Step},
    guard::{fill, pass_direct},
    validate::Violation,
};

/// Bytes asked of the socket at once.
const READ_SIZE: usize = 16 * 1024;

/// What the guard and the sender of requests tell each other.
#[derive(Debug, Default)]
pub struct Line {
    /// The next request written is this one: whether it is HEAD.
    queued: Cell<Option<bool>>,
    /// A request is on its way and its answer is not complete.
    asked: Cell<bool>,
    /// Bytes of the answer have come.
    received: Cell<bool>,
    /// The upstream broke a rule.
    violation: Cell<Option<Violation>>,
    /// Not to be used for another request.
    spent: Cell<bool>,
}

impl Line {
    /// The next request will be sent. It counts as asked only when its bytes
    /// are written: what comes before that is the answer to nothing.
    pub fn queue(&self, to_head: bool) {
        self.queued.set(Some(to_head));
        self.received.set(false);
    }

    /// Whether any byte of an answer to the last request has come.
    pub fn received(&self) -> bool {
        self.received.get()
    }

    /// The rule the upstream broke.
    pub fn violation(&self) -> Option<Violation> {
        self.violation.get()
    }

    /// Whether the last answer is complete and another request may follow.
    pub fn reusable(&self) -> bool {
        !self.spent.get() && !self.asked.get() && self.queued.get().is_none()
    }
}

/// The wrapper of an upstream's stream.
pub struct UpstreamGuard<IO> {
    io: IO,
    framer: Framer,
    line: Rc<Line>,
    buffer: BytesMut,
    passable: usize,
    idle_timeout: Duration,
    idle: Deadline,
    /// Writing failed; the answer may still be there to be read.
    deaf: bool,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> UpstreamGuard<IO> {
    /// Guards a new connection.
    pub fn new(io: IO, limits: &HttpLimits, line: Rc<Line>) -> Self {
        Self {
            io,
            framer: Framer::new(Side::Response, limits.max_head, limits.max_headers),
            line,
            buffer: BytesMut::new(),
            passable: 0,
            idle_timeout: limits.upstream_idle_timeout,
            idle: Deadline::default(),
            deaf: false,
        }
    }

    fn refuse(&mut self, violation: Violation) -> io::Error {
        self.line.violation.set(Some(violation));
        self.line.spent.set(true);
        self.buffer.clear();
        io::Error::new(io::ErrorKind::InvalidData, violation)
    }

    /// Between answers only the end of the stream is in order.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            match fill(&mut self.io, &mut self.buffer, 64, cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if !self.idle.is_set() {
                        self.idle.set(self.idle_timeout);
                    }
                    ready!(self.idle.poll(cx));
                    self.line.spent.set(true);
                    return Poll::Ready(Ok(()));
                }
            }
        }
        Poll::Ready(Err(self.refuse(Violation::Unasked)))
    }

    /// `n` bytes may pass; the answer may be complete with them.
    fn pass(&mut self, n: usize) {
        self.passable = n;
        if self.framer.between_messages() {
            self.line.asked.set(false);
            if self.buffer.len() > n {
                self.line.spent.set(true);
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for UpstreamGuard<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.passable > 0 {
                let n = this.passable.min(out.remaining());
                out.put_slice(&this.buffer[..n]);
                this.buffer.advance(n);
                this.passable -= n;
                return Poll::Ready(Ok(()));
            }
            if !this.line.asked.get() {
                return this.poll_idle(cx);
            }
            match this.framer.step(&this.buffer) {
                Ok(Step::More) => {}
                Ok(Step::Skip(n)) => {
                    this.buffer.advance(n);
                    continue;
                }
                Ok(Step::Head(n) | Step::Body(n)) => {
                    this.pass(n);
                    continue;
                }
                Err(violation) => return Poll::Ready(Err(this.refuse(violation))),
            }
            let direct = this.framer.opaque();
            let n = if direct > 0 && this.buffer.is_empty() {
                let n = ready!(pass_direct(&mut this.io, out, direct, cx))?;
                this.framer.passed(n as u64);
                if n > 0 {
                    this.pass(0);
                    return Poll::Ready(Ok(()));
                }
                n
            } else {
                ready!(fill(&mut this.io, &mut this.buffer, READ_SIZE, cx))?
            };
            if n == 0 {
                this.line.spent.set(true);
                let clean =
                    this.framer.until_close() || this.framer.at_head() && this.buffer.is_empty();
                return Poll::Ready(if clean {
                    Ok(())
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                });
            }
            this.line.received.set(true);
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> UpstreamGuard<IO> {
    /// A request begins to be written.
    fn asks(&mut self) {
        if let Some(to_head) = self.line.queued.take() {
            self.framer.to_head = to_head;
            self.line.asked.set(true);
            self.idle.clear();
        }
    }

    /// An upstream that answers early and closes makes writing fail while its
    /// answer is still to be read: what is written then is thrown away, and
    /// reading tells how it ends.
    fn written<T>(&mut self, polled: Poll<io::Result<T>>, all: T) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(Err(_)) if self.line.asked.get() => {
                self.deaf = true;
                self.line.spent.set(true);
                Poll::Ready(Ok(all))
            }
            other => other,
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for UpstreamGuard<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.asks();
        if this.deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        let polled = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.written(polled, bytes.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.asks();
        let all = slices.iter().map(|slice| slice.len()).sum();
        if this.deaf {
            return Poll::Ready(Ok(all));
        }
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.written(polled, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.deaf {
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut this.io).poll_flush(cx);
        this.written(polled, ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
