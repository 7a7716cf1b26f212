// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The body of an answer on its way to the client. It owns all that the
//! exchange holds: the upstream connection, which goes back to the pool when
//! the answer is complete and closes when it is not; the place at the
//! balancer; the books.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use crate::{
    balance::ActiveGuard,
    http::{exchange::Exchange, headers, upstream::Link},
};

/// The body as hyper's server reads it.
pub struct ResponseBody {
    source: Source,
    exchange: Exchange,
}

enum Source {
    Own(Option<Bytes>),
    Upstream(Upstream),
}

/// The rest of an upstream's answer.
pub struct Upstream {
    /// Its body.
    pub incoming: Incoming,
    /// The connection it comes on.
    pub link: Option<Link>,
    /// The place at the balancer.
    #[expect(dead_code, reason = "held, not read")]
    pub guard: ActiveGuard,
    /// When the whole answer must be there.
    pub deadline: Option<Pin<Box<Sleep>>>,
    /// Set when the end has been read.
    pub complete: bool,
}

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The upstream did.
    #[error("upstream broke off: {0}")]
    Upstream(#[from] hyper::Error),
    /// The route's timeout passed.
    #[error("the route's timeout passed")]
    Timeout,
}

impl ResponseBody {
    /// An answer of the gateway.
    pub fn own(bytes: Bytes, exchange: Exchange) -> Self {
        Self {
            source: Source::Own((!bytes.is_empty()).then_some(bytes)),
            exchange,
        }
    }

    /// An answer of an upstream.
    pub fn upstream(upstream: Upstream, exchange: Exchange) -> Self {
        Self {
            source: Source::Upstream(upstream),
            exchange,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let upstream = match &mut this.source {
            Source::Own(bytes) => {
                return Poll::Ready(bytes.take().map(|bytes| {
                    this.exchange.bytes_out += bytes.len() as u64;
                    Ok(Frame::data(bytes))
                }));
            }
            Source::Upstream(upstream) => upstream,
        };
        if let Some(deadline) = &mut upstream.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            this.exchange.reason = "timeout";
            return Poll::Ready(Some(Err(BodyError::Timeout)));
        }
        let frame = match ready!(Pin::new(&mut upstream.incoming).poll_frame(cx)) {
            None => {
                upstream.complete = true;
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                this.exchange.reason = "upstream_reset";
                return Poll::Ready(Some(Err(error.into())));
            }
            Some(Ok(frame)) => frame,
        };
        upstream.complete = upstream.incoming.is_end_stream();
        let frame = match frame.into_data() {
            Ok(data) => {
                this.exchange.bytes_out += data.len() as u64;
                Frame::data(data)
            }
            Err(frame) => frame.into_trailers().map_or_else(
                |frame| frame,
                |mut trailers: HeaderMap| {
                    headers::strip_hop_by_hop(&mut trailers);
                    Frame::trailers(trailers)
                },
            ),
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_none(),
            Source::Upstream(upstream) => upstream.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Source::Upstream(upstream) => upstream.incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let Source::Upstream(upstream) = &mut self.source else {
            return;
        };
        let complete = upstream.complete || upstream.incoming.is_end_stream();
        // A connection on which the upload still runs is not fit for another
        // request.
        if complete
            && self.exchange.request_body.is_finished()
            && let Some(link) = upstream.link.take()
        {
            self.exchange.client().keep(link);
        }
        if !complete && self.exchange.reason == "routed" {
            self.exchange.reason = "client_reset";
        }
    }
}
