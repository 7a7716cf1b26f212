// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Moves bytes both ways until both sides have finished.
//!
//! Reads go into the thread's scratch buffer and out again at once; only what
//! the other side does not take is kept, in memory of its own, until it does.
//! So an idle connection holds no buffer, and a slow one holds one read's
//! worth. While reads come back full, and no TLS ends here, the bytes are
//! spliced instead.
//!
//! The end of one direction is passed on after its last byte, and the other
//! direction goes on. A reset is passed on as a reset, once the other side's
//! kernel has sent what it was given.

use std::{
    future::{Future, poll_fn},
    io,
    os::fd::AsRawFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_rustls::server::TlsStream;

use crate::{
    conn::{
        handoff::Handoff,
        prefixed::Prefixed,
        scratch,
        splice::{self, Filled, Pipe},
    },
    telemetry::access::CloseReason,
};

/// A byte stream on a TCP socket.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// The socket.
    fn socket(&self) -> &TcpStream;

    /// The socket again, when the stream's next bytes are those of the socket.
    fn plain(&self) -> Option<&TcpStream> {
        None
    }

    /// Counts bytes that were spliced from [`Stream::plain`].
    fn add_read(&self, _len: usize) {}

    /// Counts bytes that were spliced to it.
    fn add_written(&self, _len: usize) {}
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }

    fn plain(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Stream for Prefixed<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.inner()
    }

    fn plain(&self) -> Option<&TcpStream> {
        (!self.has_prefix()).then(|| self.inner())
    }

    fn add_read(&self, len: usize) {
        self.counts().set_spliced();
        self.counts().add_read(len);
    }

    fn add_written(&self, len: usize) {
        self.counts().set_spliced();
        self.counts().add_written(len);
    }
}

impl<S: Stream> Stream for TlsStream<S> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0.socket()
    }
}

/// Bytes one direction moves before the other connections of the thread have
/// their turn.
const TURN: u64 = 512 * 1024;

/// How long a reset waits for the data before it.
const RESET_GRACE: Duration = Duration::from_millis(500);

/// Bytes asked for at a time, by what the direction has moved before: what a
/// stalled connection may hold grows with what it has proved to need. (The
/// steps are ztunnel's, but for the first: without a buffer per connection a
/// smaller one would only cost system calls.)
const fn read_len(moved: u64) -> usize {
    match moved {
        0..0x2_0000 => 16 * 1024,
        0x2_0000..0xa0_0000 => 64 * 1024,
        _ => scratch::LEN,
    }
}

/// Bytes of one read from which on the next ones are spliced: a whole TLS record
/// and less than any bulk.
const STREAMING: usize = 16 * 1024;

/// Copies until both directions have ended, one side is reset, or nothing moves
/// for `idle`; or until the kernel has taken the connection over, for which it is
/// asked where `handoff` is given. On a reset the other side is set to be reset
/// when it is dropped.
pub async fn bidirectional<C: Stream, U: Stream>(
    client: &mut C,
    upstream: &mut U,
    idle: Option<Duration>,
    mut handoff: Option<Box<Handoff>>,
) -> CloseReason {
    let mut inbound = Direction::default();
    let mut outbound = Direction::default();
    let mut quiet = idle.map(Quiet::new);
    let mut grace: Option<Pin<Box<Sleep>>> = None;
    let reason = poll_fn(|cx| {
        let before = inbound.moved + outbound.moved;
        let inbound_ended = inbound.poll(cx, client, upstream).is_ready();
        let outbound_ended = outbound.poll(cx, upstream, client).is_ready();
        if let Some(reason) = broken(&inbound, &outbound) {
            // A side that takes no more may have said something before it went:
            // what it said is passed on first, for as long as the grace lasts.
            if !(inbound_ended && outbound_ended)
                && inbound.state != State::ReadFailed
                && outbound.state != State::ReadFailed
            {
                inbound.ends_in_reset = true;
                outbound.ends_in_reset = true;
                let grace = grace.get_or_insert_with(|| Box::pin(sleep(RESET_GRACE)));
                ready!(grace.as_mut().poll(cx));
            }
            return Poll::Ready(reason);
        }
        if inbound_ended && outbound_ended {
            return Poll::Ready(CloseReason::Done);
        }
        if let Some(handoff) = &mut handoff
            && let (Some(client), Some(upstream)) = (client.plain(), upstream.plain())
        {
            let moved = [inbound.moved, outbound.moved];
            let quiet = inbound.is_quiet() && outbound.is_quiet();
            if handoff.poll(cx, moved, quiet, client, upstream).is_ready() {
                return Poll::Ready(CloseReason::HandedOff);
            }
        }
        if let Some(quiet) = &mut quiet {
            ready!(quiet.poll(cx, inbound.moved + outbound.moved != before));
            return Poll::Ready(CloseReason::IdleTimeout);
        }
        Poll::Pending
    })
    .await;
    match reason {
        CloseReason::ClientReset => reset(upstream).await,
        CloseReason::UpstreamReset => reset(client).await,
        _ => {}
    }
    reason
}

/// Bytes from one side to the other.
#[derive(Debug, Default)]
struct Direction {
    state: State,
    /// What the writer did not take, from `at`.
    pending: Vec<u8>,
    at: usize,
    /// The same of what was spliced.
    pipe: Option<Pipe>,
    /// The last read took as much as it could: more is to be expected.
    streams: bool,
    /// Bytes read so far.
    moved: u64,
    /// The writer may hold bytes back until flushed (TLS).
    unflushed: bool,
    /// The end of the reader's bytes is not to be passed on as a proper one.
    ends_in_reset: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The reader has ended, the writer does not know yet.
    Closing,
    Done,
    ReadFailed,
    WriteFailed,
}

/// What one read brought.
enum Read {
    Nothing,
    End,
    Bytes(usize),
}

/// Whose socket is broken, when one is.
fn broken(inbound: &Direction, outbound: &Direction) -> Option<CloseReason> {
    match (inbound.state, outbound.state) {
        (State::ReadFailed, _) | (_, State::WriteFailed) => Some(CloseReason::ClientReset),
        (State::WriteFailed, _) | (_, State::ReadFailed) => Some(CloseReason::UpstreamReset),
        _ => None,
    }
}

impl Direction {
    /// Whether every byte that was read has been given to the writer, and there
    /// may be more.
    fn is_quiet(&self) -> bool {
        self.state == State::Open && self.pending.is_empty() && self.pipe.is_none()
    }

    /// Ready once it has ended, one way or another.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W) -> Poll<()>
    where
        R: Stream,
        W: Stream,
    {
        let turn_ends = self.moved + TURN;
        loop {
            match self.state {
                State::Done | State::ReadFailed | State::WriteFailed => return Poll::Ready(()),
                State::Open | State::Closing => {}
            }
            match ready!(self.poll_step(cx, reader, writer)) {
                Ok(state) => self.state = state,
                Err(_) => self.state = State::WriteFailed,
            }
            if self.moved >= turn_ends {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// The next state; an error is one of the writer.
    fn poll_step<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<io::Result<State>>
    where
        R: Stream,
        W: Stream,
    {
        ready!(self.drain(cx, writer))?;
        while self.at < self.pending.len() {
            self.at += ready!(poll_write(cx, writer, &self.pending[self.at..]))?;
        }
        if !self.pending.is_empty() {
            self.pending = Vec::new();
            self.at = 0;
        }
        if self.state == State::Closing {
            if !self.ends_in_reset {
                // An error means that the writer is gone altogether; it has
                // taken every byte before, and there is none after.
                let _ = ready!(Pin::new(writer).poll_shutdown(cx));
            }
            return Poll::Ready(Ok(State::Done));
        }
        if self.streams
            && writer.plain().is_some()
            && let Some(socket) = reader.plain()
        {
            match ready!(splice::poll_fill(cx, socket)) {
                Ok(Filled::Bytes(pipe)) => {
                    reader.add_read(pipe.pending());
                    self.moved += pipe.pending() as u64;
                    self.streams = pipe.pending() >= STREAMING;
                    self.pipe = Some(pipe);
                    return Poll::Ready(Ok(State::Open));
                }
                Ok(Filled::End) => return Poll::Ready(Ok(State::Closing)),
                Ok(Filled::Unable) => self.streams = false,
                Err(_) => return Poll::Ready(Ok(State::ReadFailed)),
            }
        }
        match self.read_and_write(cx, reader, writer) {
            Ok(Ok(Read::Bytes(len))) => {
                self.streams = len == read_len(self.moved);
                self.moved += len as u64;
                self.unflushed = true;
                Poll::Ready(Ok(State::Open))
            }
            Ok(Ok(Read::End)) => Poll::Ready(Ok(State::Closing)),
            Ok(Ok(Read::Nothing)) => {
                if self.unflushed {
                    ready!(Pin::new(writer).poll_flush(cx))?;
                    self.unflushed = false;
                }
                Poll::Pending
            }
            Ok(Err(_)) => Poll::Ready(Ok(State::ReadFailed)),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Gives the writer what is in the pipe, all of it.
    fn drain<W: Stream>(&mut self, cx: &mut Context<'_>, writer: &W) -> Poll<io::Result<()>> {
        while let Some(pipe) = &mut self.pipe {
            if pipe.pending() == 0 {
                self.pipe = None;
                break;
            }
            let len = ready!(pipe.poll_drain(cx, writer.socket()))?;
            writer.add_written(len);
        }
        Poll::Ready(Ok(()))
    }

    /// One read, written on as far as possible. The outer error is the
    /// writer's, the inner one the reader's.
    fn read_and_write<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> io::Result<io::Result<Read>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        scratch::with(|scratch| {
            let mut buf = ReadBuf::new(&mut scratch[..read_len(self.moved)]);
            match Pin::new(reader).poll_read(cx, &mut buf) {
                Poll::Pending => return Ok(Ok(Read::Nothing)),
                Poll::Ready(Ok(())) => {}
                // Many TLS clients close TCP without a close_notify; to the
                // upstream that is the end it would see without TLS.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(Ok(Read::End));
                }
                Poll::Ready(Err(error)) => return Ok(Err(error)),
            }
            let bytes = buf.filled();
            let mut at = 0;
            while at < bytes.len() {
                match poll_write(cx, writer, &bytes[at..]) {
                    Poll::Ready(len) => at += len?,
                    Poll::Pending => {
                        self.pending = bytes[at..].to_vec();
                        break;
                    }
                }
            }
            Ok(Ok(match bytes.len() {
                0 => Read::End,
                len => Read::Bytes(len),
            }))
        })
    }
}

fn poll_write<W: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    writer: &mut W,
    bytes: &[u8],
) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(writer).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        result => Poll::Ready(result),
    }
}

/// Ends a connection by a reset when `target` is dropped; what it was given is
/// sent first, because a peer would have had it without a gateway in between.
/// That it arrived is not waited for: a peer may acknowledge 40 ms later, and
/// without a gateway nobody would have waited either.
async fn reset<S: Stream>(target: &mut S) {
    let sent = async {
        target.flush().await?;
        while unsent(target.socket())? > 0 {
            sleep(Duration::from_millis(2)).await;
        }
        io::Result::Ok(())
    };
    let _ = timeout(RESET_GRACE, sent).await;
    reset_on_drop(target.socket());
}

/// Makes the kernel send RST instead of FIN when the socket is closed.
pub fn reset_on_drop(socket: &TcpStream) {
    // Fails only on a socket that is not one.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Bytes that have not been sent yet (SIOCOUTQNSD, linux/sockios.h).
fn unsent(socket: &TcpStream) -> io::Result<i32> {
    const SIOCOUTQNSD: libc::Ioctl = 0x894B;
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQNSD writes one c_int to the pointer, which is that of a
    // live one; the descriptor is open while `socket` is.
    match unsafe { libc::ioctl(socket.as_raw_fd(), SIOCOUTQNSD, &raw mut bytes) } {
        0 => Ok(bytes),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends a connection that moves nothing.
struct Quiet {
    idle: Duration,
    last: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Quiet {
    fn new(idle: Duration) -> Self {
        Self {
            idle,
            last: Instant::now(),
            sleep: Box::pin(sleep(idle)),
        }
    }

    /// Ready when nothing has moved for the idle time. The timer is set again
    /// when it fires, not at every byte.
    fn poll(&mut self, cx: &mut Context<'_>, moved: bool) -> Poll<()> {
        if moved {
            self.last = Instant::now();
        }
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let due = self.last + self.idle;
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(due);
        }
    }
}
