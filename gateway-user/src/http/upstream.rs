// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Upstream connections of one thread: opened, kept while idle, used again.

use std::{cell::RefCell, collections::HashMap, io, net::SocketAddr, rc::Rc, time::Duration};

use http::{Method, Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt, net::TcpStream, task::AbortHandle};

use crate::http::{
    HttpLimits,
    request_body::RequestBody,
    upstream_guard::{Line, UpstreamGuard},
    validate::Violation,
};

/// Endpoints remembered before those without a live connection are forgotten.
const REMEMBERED_ENDPOINTS: usize = 256;

/// Idle connections by endpoint.
#[derive(Default)]
pub struct Pool {
    idle: RefCell<HashMap<SocketAddr, Vec<Link>>>,
}

/// One upstream connection. Dropping it closes the connection.
pub struct Link {
    sender: http1::SendRequest<RequestBody>,
    line: Rc<Line>,
    driver: AbortHandle,
    address: SocketAddr,
    /// It began with the PROXY header of one client.
    is_personal: bool,
    reused: bool,
}

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Refused, unreachable, or nothing left to open a socket with.
    #[error("connection to {address} failed: {source}")]
    Failed {
        /// Where to.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The cluster's connect timeout passed.
    #[error("no connection to {address} within {timeout:?}")]
    Timeout {
        /// Where to.
        address: SocketAddr,
        /// The limit.
        timeout: Duration,
    },
}

impl Pool {
    /// The connection used last, if one is idle and alive.
    pub fn take(&self, address: SocketAddr) -> Option<Link> {
        let mut idle = self.idle.borrow_mut();
        let links = idle.get_mut(&address)?;
        while links.last().is_some_and(|link| link.sender.is_closed()) {
            links.pop();
        }
        // One whose driver has not had its turn since the last answer is not
        // ready, and left where it is.
        let at = links
            .iter()
            .rposition(|link| link.line.reusable() && link.sender.is_ready())?;
        let mut link = links.remove(at);
        link.reused = true;
        Some(link)
    }

    /// Keeps a connection whose answer is complete, if it is fit for another.
    pub fn put(&self, link: Link, max_idle: usize) {
        if !link.line.reusable() || link.sender.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= REMEMBERED_ENDPOINTS {
            idle.retain(|_, links| {
                links.retain(|link| !link.sender.is_closed());
                !links.is_empty()
            });
        }
        let links = idle.entry(link.address).or_default();
        if links.len() >= max_idle {
            links.retain(|link| !link.sender.is_closed());
        }
        if links.len() < max_idle {
            links.push(link);
        }
    }
}

impl Link {
    /// Opens a connection, which begins with `header`.
    ///
    /// # Errors
    /// When there is none within `timeout`.
    pub async fn open(
        address: SocketAddr,
        timeout: Duration,
        limits: &HttpLimits,
        header: &[u8],
    ) -> Result<Self, ConnectError> {
        let failed = |source| ConnectError::Failed { address, source };
        let connected = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            stream.write_all(header).await?;
            io::Result::Ok(stream)
        };
        let stream = tokio::time::timeout(timeout, connected)
            .await
            .map_err(|_| ConnectError::Timeout { address, timeout })?
            .map_err(failed)?;
        let line = Rc::new(Line::default());
        let guard = UpstreamGuard::new(stream, limits, Rc::clone(&line));
        let (sender, connection) = http1::Builder::new()
            .max_headers(limits.max_headers)
            .max_buf_size(limits.max_head + 16 * 1024)
            .handshake(TokioIo::new(guard))
            .await
            .map_err(|error| failed(io::Error::other(error)))?;
        let driver = tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "upstream connection ended");
            }
        })
        .abort_handle();
        Ok(Self {
            sender,
            line,
            driver,
            address,
            is_personal: !header.is_empty(),
            reused: false,
        })
    }

    /// Sends a request; the head of its answer.
    ///
    /// # Errors
    /// With the request, when none of it was written.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        self.line.queue(request.method() == Method::HEAD);
        self.sender.try_send_request(request).await
    }

    /// Whether it is for one client alone.
    pub fn is_personal(&self) -> bool {
        self.is_personal
    }

    /// Whether it served another request before.
    pub fn reused(&self) -> bool {
        self.reused
    }

    /// Whether any byte of an answer has come.
    pub fn received(&self) -> bool {
        self.line.received()
    }

    /// The rule the upstream broke.
    pub fn violation(&self) -> Option<Violation> {
        self.line.violation()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Not only when idle: an upload that nobody waits for ends here too.
        self.driver.abort();
    }
}
