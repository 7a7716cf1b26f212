// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Client connections: which version they speak, and hyper's server for it.

use std::{
    cell::Cell,
    convert::Infallible,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use hyper::{server::conn, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::{
    http::{
        Client, Connection, HttpWorker, Pool, forward,
        guard::{Ended, Guard, HEAD_READ, Turn},
    },
    telemetry::access::{CloseReason, Mode},
};

/// What a client of HTTP/2 sends first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves HTTP on `io` until the connection ends. Runs where tasks can be
/// spawned locally.
pub async fn serve<IO: AsyncRead + AsyncWrite + Unpin + 'static>(
    mut io: IO,
    connection: Connection,
    worker: &Rc<HttpWorker>,
) -> CloseReason {
    let mut read = BytesMut::with_capacity(HEAD_READ);
    let mut http2 = connection.http2;
    // Over TLS the version is for ALPN to say (RFC 9113 section 3.2).
    if !http2 && connection.mode == Mode::PlainHttp {
        let mut drain = worker.drain.clone();
        let preface = tokio::select! {
            preface = has_preface(&mut io, &mut read) => preface,
            () = tokio::time::sleep(worker.limits.head_timeout) => {
                return CloseReason::RequestTimeout;
            }
            () = drain.started() => return CloseReason::Drained,
        };
        match preface {
            Ok(found) => http2 = found,
            Err(_) => return CloseReason::ClientReset,
        }
        if read.is_empty() {
            return CloseReason::Done;
        }
    }
    let client = |turn| {
        Rc::new(Client {
            peer: connection.peer,
            local: connection.local,
            mode: connection.mode,
            sni: connection.sni.clone(),
            tls: connection.tls,
            table: connection.table,
            own: Pool::default(),
            worker: Rc::clone(worker),
            turn,
            active: Cell::new(0),
            last_active: Cell::new(Instant::now()),
        })
    };
    if http2 {
        Box::pin(serve_http2(Rewound { io, read }, client(None))).await
    } else {
        let turn = Rc::new(Turn::default());
        let guard = Guard::new(io, read, Rc::clone(&worker.limits), Rc::clone(&turn));
        let client = client(Some(Rc::clone(&turn)));
        Box::pin(serve_http1(guard, client, &turn)).await
    }
}

/// Reads until it is known whether the client begins with [`PREFACE`].
async fn has_preface(io: &mut (impl AsyncRead + Unpin), read: &mut BytesMut) -> io::Result<bool> {
    loop {
        let n = read.len().min(PREFACE.len());
        if read[..n] != PREFACE[..n] {
            return Ok(false);
        }
        if n == PREFACE.len() {
            return Ok(true);
        }
        if io.read_buf(read).await? == 0 {
            return Ok(false);
        }
    }
}

async fn serve_http1<IO: AsyncRead + AsyncWrite + Unpin + 'static>(
    guard: Guard<IO>,
    client: Rc<Client>,
    turn: &Turn,
) -> CloseReason {
    let worker = Rc::clone(&client.worker);
    let service = service_fn(move |request| {
        let client = Rc::clone(&client);
        async move { Ok::<_, Infallible>(forward::serve(client, request).await) }
    });
    // The guard keeps the timeouts.
    let mut connection = conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .keep_alive(true)
        .half_close(false)
        .max_headers(worker.limits.max_headers)
        .max_buf_size(worker.limits.max_head + 16 * 1024)
        .serve_connection(TokioIo::new(guard), service);
    let mut drain = worker.drain.clone();
    let mut drained = false;
    let result = tokio::select! {
        result = &mut connection => result,
        () = drain.started() => {
            drained = true;
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    if let Some(status) = turn.replied() {
        worker.counters.count_response(status.as_u16());
    }
    match (turn.ended(), result) {
        (Some(Ended::BadRequest), _) => {
            worker.counters.bad_requests.add(1);
            CloseReason::BadRequest
        }
        (Some(Ended::HeadTimeout), _) => CloseReason::RequestTimeout,
        (Some(Ended::Stalled), _) => CloseReason::IdleTimeout,
        (Some(Ended::Idle), _) => CloseReason::Done,
        (None, result) => {
            let reason = close_reason(result, drained);
            if reason == CloseReason::BadRequest {
                // hyper's parser refused what ours let pass, and answered.
                worker.counters.bad_requests.add(1);
            }
            reason
        }
    }
}

async fn serve_http2<IO: AsyncRead + AsyncWrite + Unpin + 'static>(
    io: Rewound<IO>,
    client: Rc<Client>,
) -> CloseReason {
    let worker = Rc::clone(&client.worker);
    let limits = &worker.limits;
    let served = Rc::clone(&client);
    let service = service_fn(move |request| {
        let client = Rc::clone(&served);
        async move { Ok::<_, Infallible>(forward::serve(client, request).await) }
    });
    let mut connection = conn::http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(limits.max_header_list)
        .max_pending_accept_reset_streams(limits.max_pending_resets)
        .max_local_error_reset_streams(limits.max_pending_resets)
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.head_timeout)
        .serve_connection(TokioIo::new(io), service);
    let mut drain = worker.drain.clone();
    let mut drained = false;
    let result = tokio::select! {
        result = &mut connection => result,
        () = drain.started() => {
            drained = true;
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
        () = unused(&client) => {
            Pin::new(&mut connection).graceful_shutdown();
            tokio::time::timeout(limits.head_timeout, &mut connection)
                .await
                .unwrap_or(Ok(()))
        }
    };
    close_reason(result, drained)
}

/// Resolves when a client of HTTP/2 has had no stream for the idle timeout.
async fn unused(client: &Client) {
    let timeout = client.worker.limits.idle_timeout;
    loop {
        let idle = client.last_active.get().elapsed();
        if client.active.get() == 0 && idle >= timeout {
            return;
        }
        let left = timeout.saturating_sub(idle);
        // Open streams are looked after again when the timeout has passed once
        // more.
        tokio::time::sleep(if left.is_zero() { timeout } else { left }).await;
    }
}

fn close_reason(result: hyper::Result<()>, drained: bool) -> CloseReason {
    match result {
        _ if drained => CloseReason::Drained,
        Ok(()) => CloseReason::Done,
        Err(error) if error.is_parse() => CloseReason::BadRequest,
        Err(error) => {
            tracing::debug!(%error, "client connection ended");
            CloseReason::ClientReset
        }
    }
}

/// Spawns on the thread of the connection.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// A stream of which the beginning has been read already.
struct Rewound<IO> {
    io: IO,
    read: BytesMut,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Rewound<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, out);
        }
        let n = this.read.len().min(out.remaining());
        out.put_slice(&this.read[..n]);
        this.read.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Rewound<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
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
