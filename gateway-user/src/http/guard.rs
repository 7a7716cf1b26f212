// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stands between a client's socket and hyper's HTTP/1 server: follows the
//! framing of the byte stream and lets a request head pass only when it is
//! complete, well formed and the answer to the one before is finished.
//!
//! A request that breaks a rule therefore never reaches hyper. To hyper the
//! stream ends in front of it; when hyper then closes, after all answers it
//! owes, the guard writes the one refusal in its place. A body that breaks a
//! rule is a read error to hyper, and the service answers.
//!
//! The timeouts of reading and writing are kept here as well: hyper's own
//! re-arms a timer with every head.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::http::{
    HttpLimits,
    deadline::Deadline,
    framing::{Framer, Side, Step},
    validate::Violation,
};

/// Bytes asked of the socket at once where a head is expected: what an idle
/// connection holds.
pub const HEAD_READ: usize = 4 * 1024;
/// The same where a body is.
const BODY_READ: usize = 16 * 1024;
/// How long bytes of a client that was refused are read and dropped, so that
/// its kernel does not throw our answer away (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(2);

/// What the guard and the service of one connection tell each other.
#[derive(Debug, Default)]
pub struct Turn {
    busy: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
    violation: Cell<Option<Violation>>,
    ended: Cell<Option<Ended>>,
    replied: Cell<Option<StatusCode>>,
}

/// Why the guard ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A violation was found.
    BadRequest,
    /// No complete head in time.
    HeadTimeout,
    /// A keep-alive connection was not used any more.
    Idle,
    /// The client stopped sending a body or taking an answer.
    Stalled,
}

impl Turn {
    /// The answer to the current request is finished, or given up.
    pub fn finish(&self) {
        self.busy.set(false);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    /// The rule the client broke.
    pub fn violation(&self) -> Option<Violation> {
        self.violation.get()
    }

    /// The status of the answer the guard wrote, when it did.
    pub fn replied(&self) -> Option<StatusCode> {
        self.replied.get()
    }

    /// Why the guard ended the connection, when it did.
    pub fn ended(&self) -> Option<Ended> {
        self.ended.get()
    }
}

/// What the read deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Nothing,
    Head,
    NextHead,
    Body,
}

/// The wrapper of a client's stream.
pub struct Guard<IO> {
    io: IO,
    framer: Framer,
    limits: Rc<HttpLimits>,
    turn: Rc<Turn>,
    /// Read and not yet passed on.
    buffer: BytesMut,
    /// Of `buffer`, what may be passed on.
    passable: usize,
    end_of_input: bool,
    waiting: Waiting,
    read_deadline: Deadline,
    write_deadline: Deadline,
    closing: Closing,
}

/// The steps of a close.
#[derive(Debug)]
enum Closing {
    /// None yet; the refusal to be written, if any.
    No(Option<StatusCode>),
    Reply(io::Cursor<Vec<u8>>),
    Flush,
    Shutdown,
    Linger,
}

/// Reads at least once into `buffer`; 0 at the end of the input.
pub fn fill(
    io: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    size: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    buffer.reserve(size);
    // The future has no state of its own, so that it may be made anew.
    pin!(io.read_buf(buffer)).poll(cx)
}

/// Reads body bytes that need no look straight to where they go, at most
/// `opaque`; 0 at the end of the input.
pub fn pass_direct(
    io: &mut (impl AsyncRead + Unpin),
    out: &mut ReadBuf<'_>,
    opaque: u64,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let room = usize::try_from(opaque).map_or(out.remaining(), |n| n.min(out.remaining()));
    let mut limited = ReadBuf::new(out.initialize_unfilled_to(room));
    ready!(Pin::new(io).poll_read(cx, &mut limited))?;
    let n = limited.filled().len();
    out.advance(n);
    Poll::Ready(Ok(n))
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Guard<IO> {
    /// Guards `io`, of which `read` has been read already.
    pub fn new(io: IO, read: BytesMut, limits: Rc<HttpLimits>, turn: Rc<Turn>) -> Self {
        let mut read_deadline = Deadline::default();
        read_deadline.set(limits.head_timeout);
        Self {
            io,
            framer: Framer::new(Side::Request, limits.max_head, limits.max_headers),
            limits,
            turn,
            buffer: read,
            passable: 0,
            end_of_input: false,
            waiting: Waiting::Head,
            read_deadline,
            write_deadline: Deadline::default(),
            closing: Closing::No(None),
        }
    }

    /// Reads into the buffer; 0 at the end of the input.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.end_of_input {
            return Poll::Ready(Ok(0));
        }
        let size = if self.framer.at_head() {
            HEAD_READ
        } else {
            BODY_READ
        };
        let n = ready!(fill(&mut self.io, &mut self.buffer, size, cx))?;
        self.end_of_input = n == 0;
        Poll::Ready(Ok(n))
    }

    /// The client broke a rule. hyper sees the end of the stream, or an error
    /// when it is already in the middle of a message.
    fn refuse(&mut self, violation: Violation, in_body: bool) -> io::Result<()> {
        tracing::debug!(%violation, "request refused");
        self.turn.violation.set(Some(violation));
        self.turn.ended.set(Some(Ended::BadRequest));
        self.buffer.clear();
        self.end_of_input = true;
        if in_body {
            return Err(io::Error::new(io::ErrorKind::InvalidData, violation));
        }
        self.closing = Closing::No(Some(violation.status()));
        Ok(())
    }

    /// Sets the deadline for what is waited for now, unless it runs already.
    fn wait_for(&mut self, waiting: Waiting) {
        if self.waiting != waiting {
            self.waiting = waiting;
            match waiting {
                Waiting::Nothing => self.read_deadline.clear(),
                Waiting::Head => self.read_deadline.set(self.limits.head_timeout),
                Waiting::NextHead => self.read_deadline.set(self.limits.idle_timeout),
                Waiting::Body => self.read_deadline.set(self.limits.stall_timeout),
            }
        }
    }

    /// The read deadline came first.
    fn timed_out(&mut self) -> io::Result<()> {
        self.end_of_input = true;
        let (ended, reply) = match self.waiting {
            Waiting::NextHead => (Ended::Idle, None),
            Waiting::Body => (Ended::Stalled, None),
            _ if self.buffer.is_empty() => (Ended::HeadTimeout, None),
            _ => (Ended::HeadTimeout, Some(StatusCode::REQUEST_TIMEOUT)),
        };
        self.buffer.clear();
        self.turn.ended.set(Some(ended));
        if ended == Ended::Stalled {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.closing = Closing::No(reply);
        Ok(())
    }

    /// What hyper may not have yet waits in the buffer, while the socket is
    /// watched for the end of a client that gave up.
    fn read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wait_for(Waiting::Nothing);
        while self.buffer.len() < BODY_READ {
            match self.fill(cx)? {
                Poll::Ready(0) if self.buffer.is_empty() => return Poll::Ready(Ok(())),
                // Requests in front of the end are still answered.
                Poll::Ready(0) => break,
                Poll::Ready(_) => {}
                Poll::Pending => break,
            }
        }
        *self.turn.waiting.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// A chunked body whose beginning is at hand is tried before its head goes
    /// on, so that a broken one in the same segment reaches no upstream.
    fn body_holds(&self, head: usize) -> Result<(), Violation> {
        let mut trial = self.framer.clone();
        let mut rest = &self.buffer[head..];
        while !trial.at_head() {
            match trial.step(rest)? {
                Step::Body(n) => rest = &rest[n..],
                _ => break,
            }
        }
        Ok(())
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<IO> {
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
            if matches!(this.closing, Closing::No(Some(_))) {
                // The end of the stream, as far as hyper is concerned.
                return Poll::Ready(Ok(()));
            }
            let at_head = this.framer.at_head();
            if at_head && this.turn.busy.get() {
                return this.read_ahead(cx);
            }
            match this.framer.step(&this.buffer) {
                Ok(Step::More) => {}
                Ok(Step::Skip(n)) => {
                    this.buffer.advance(n);
                    continue;
                }
                Ok(Step::Head(n)) => {
                    if let Err(violation) = this.body_holds(n) {
                        return Poll::Ready(this.refuse(violation, false));
                    }
                    this.wait_for(Waiting::Nothing);
                    this.turn.busy.set(true);
                    this.passable = n;
                    continue;
                }
                Ok(Step::Body(n)) => {
                    this.wait_for(Waiting::Nothing);
                    this.passable = n;
                    continue;
                }
                Err(violation) => return Poll::Ready(this.refuse(violation, !at_head)),
            }
            let direct = this.framer.opaque();
            let filled = if direct > 0 && this.buffer.is_empty() {
                let n = pass_direct(&mut this.io, out, direct, cx)?;
                if let Poll::Ready(n) = n {
                    this.framer.passed(n as u64);
                    if n > 0 {
                        this.wait_for(Waiting::Nothing);
                        return Poll::Ready(Ok(()));
                    }
                }
                n
            } else {
                this.fill(cx)?
            };
            match filled {
                Poll::Ready(0) if at_head => return Poll::Ready(Ok(())),
                Poll::Ready(0) => {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Poll::Ready(_) => {}
                Poll::Pending => {
                    this.wait_for(match (at_head, this.buffer.is_empty()) {
                        (false, _) => Waiting::Body,
                        (true, false) => Waiting::Head,
                        (true, true) if this.waiting == Waiting::Head => Waiting::Head,
                        (true, true) => Waiting::NextHead,
                    });
                    ready!(this.read_deadline.poll(cx));
                    return Poll::Ready(this.timed_out());
                }
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Guard<IO> {
    /// Ends a client that takes nothing for too long.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.write_deadline.clear();
            return polled;
        }
        if !self.write_deadline.is_set() {
            self.write_deadline.set(self.limits.stall_timeout);
        }
        ready!(self.write_deadline.poll(cx));
        self.turn.ended.set(Some(Ended::Stalled));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads and drops what still comes, for a while.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 4096];
        for _ in 0..64 {
            let mut read = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.io).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.read_deadline.poll(cx),
            }
        }
        // Others have a turn.
        cx.waker().wake_by_ref();
        self.read_deadline.poll(cx)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.written(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.written(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_flush(cx);
        this.written(cx, polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            this.closing = match &mut this.closing {
                Closing::No(None) => Closing::Shutdown,
                Closing::No(Some(status)) => {
                    this.turn.replied.set(Some(*status));
                    Closing::Reply(io::Cursor::new(crate::http::respond::raw(*status)))
                }
                Closing::Reply(reply) if reply.has_remaining() => {
                    let polled = Pin::new(&mut this.io).poll_write(cx, reply.chunk());
                    let n = match polled {
                        Poll::Ready(result) => result?,
                        Poll::Pending => return this.written(cx, Poll::Pending),
                    };
                    if n == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    reply.advance(n);
                    continue;
                }
                Closing::Reply(_) => Closing::Flush,
                Closing::Flush => {
                    let polled = Pin::new(&mut this.io).poll_flush(cx);
                    ready!(this.written(cx, polled))?;
                    Closing::Shutdown
                }
                Closing::Shutdown => {
                    let polled = Pin::new(&mut this.io).poll_shutdown(cx);
                    ready!(this.written(cx, polled))?;
                    // A client in the middle of a message still sends.
                    let unread = this.turn.violation.get().is_some()
                        || !this.framer.at_head()
                        || !this.buffer.is_empty();
                    if !unread {
                        return Poll::Ready(Ok(()));
                    }
                    this.read_deadline.set(LINGER);
                    Closing::Linger
                }
                Closing::Linger => {
                    ready!(this.linger(cx));
                    return Poll::Ready(Ok(()));
                }
            };
        }
    }
}
