// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The body of a request on its way up. It can be taken back for another
//! attempt as long as nothing of it was read.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// The body as hyper's client reads it.
pub struct RequestBody(Rc<Source>);

/// The body as the forwarder keeps it.
#[derive(Clone)]
pub struct BodyHandle(Rc<Source>);

struct Source {
    incoming: RefCell<Incoming>,
    begun: Cell<bool>,
    finished: Cell<bool>,
    failed: Cell<bool>,
    bytes: Cell<u64>,
}

impl BodyHandle {
    /// Nothing read yet.
    pub fn new(incoming: Incoming) -> Self {
        let finished = incoming.is_end_stream();
        Self(Rc::new(Source {
            incoming: RefCell::new(incoming),
            begun: Cell::new(false),
            finished: Cell::new(finished),
            failed: Cell::new(false),
            bytes: Cell::new(0),
        }))
    }

    /// For one attempt.
    pub fn body(&self) -> RequestBody {
        RequestBody(Rc::clone(&self.0))
    }

    /// Nothing of it was read, or there is nothing.
    pub fn is_whole(&self) -> bool {
        !self.0.begun.get()
    }

    /// There is no body.
    pub fn is_empty(&self) -> bool {
        self.0.finished.get() && !self.0.begun.get()
    }

    /// All of it was read.
    pub fn is_finished(&self) -> bool {
        self.0.finished.get()
    }

    /// The client broke off in the middle.
    pub fn is_failed(&self) -> bool {
        self.0.failed.get()
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.get()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let source = &self.0;
        source.begun.set(true);
        let mut incoming = source.incoming.borrow_mut();
        let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        match &frame {
            None => source.finished.set(true),
            Some(Err(_)) => source.failed.set(true),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    source.bytes.set(source.bytes.get() + data.len() as u64);
                }
                if incoming.is_end_stream() {
                    source.finished.set(true);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.incoming.borrow().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.incoming.borrow().size_hint()
    }
}
