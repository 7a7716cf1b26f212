// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sending one request to some endpoint of a cluster: which connection, and
//! what is tried again.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;

use crate::{
    balance::Picked,
    http::{
        Client,
        request_body::{BodyHandle, RequestBody},
        upstream::{ConnectError, Link},
    },
    snapshot::Cluster,
};

/// Endpoints tried for one request (Istio: two retries of a failed connection).
const MAX_ENDPOINTS: usize = 3;

/// Why an upstream gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The rule names a cluster that does not exist.
    NoCluster,
    /// The cluster is not for the client's address.
    SourceDenied,
    /// The cluster has no endpoint.
    NoEndpoint,
    /// No endpoint took a connection.
    ConnectFailed,
    /// Nor did one within the connect timeout.
    ConnectTimeout,
    /// The connection ended before an answer.
    UpstreamReset,
    /// The answer breaks a rule.
    BadResponse,
    /// The request breaks a rule.
    BadRequest,
    /// The client broke off its request.
    ClientReset,
    /// The route's timeout passed.
    Timeout,
}

impl Failure {
    /// As Envoy answers, and the word in the record.
    pub fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::NoCluster => (StatusCode::SERVICE_UNAVAILABLE, "no_cluster"),
            Self::SourceDenied => (StatusCode::FORBIDDEN, "source_denied"),
            Self::NoEndpoint => (StatusCode::SERVICE_UNAVAILABLE, "no_endpoint"),
            Self::ConnectFailed => (StatusCode::SERVICE_UNAVAILABLE, "connect_failed"),
            Self::ConnectTimeout => (StatusCode::SERVICE_UNAVAILABLE, "connect_timeout"),
            Self::UpstreamReset => (StatusCode::SERVICE_UNAVAILABLE, "upstream_reset"),
            Self::BadResponse => (StatusCode::BAD_GATEWAY, "bad_response"),
            Self::BadRequest => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::ClientReset => (StatusCode::BAD_REQUEST, "client_reset"),
            Self::Timeout => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
        }
    }
}

/// An answer's head and what it came with.
pub struct Answer {
    /// Its head, the body to come.
    pub response: Response<Incoming>,
    /// What it comes on.
    pub link: Link,
    /// Who it comes from.
    pub picked: Picked,
}

/// A request on its way to some endpoint of a cluster.
pub struct Attempt<'r> {
    /// Who asks.
    pub client: &'r Client,
    /// Where to.
    pub cluster: &'r Arc<Cluster>,
    /// As sent.
    pub method: &'r Method,
    /// In origin form.
    pub uri: &'r Uri,
    /// Taken back for another attempt if nothing of it was read.
    pub body: &'r BodyHandle,
}

impl Attempt<'_> {
    /// Tries endpoints until one takes the request. `upstream` names the last
    /// one, also when this is dropped half way.
    ///
    /// # Errors
    /// Why none did.
    pub async fn run(
        &self,
        mut fields: HeaderMap,
        upstream: &mut Option<SocketAddr>,
    ) -> Result<Answer, Failure> {
        let worker = &self.client.worker;
        let mut tried = Vec::new();
        let mut failure = Failure::NoEndpoint;
        // A pooled connection may have been closed by its upstream just now.
        // That is tried again once, on a new one.
        let mut may_reuse = true;
        let mut again: Option<Picked> = None;
        while tried.len() < MAX_ENDPOINTS {
            let picked = again
                .take()
                .or_else(|| worker.balancer.pick(self.cluster, self.client.peer, &tried));
            let Some(picked) = picked else {
                break;
            };
            *upstream = Some(picked.address);
            let pooled = may_reuse
                .then(|| self.client.pool(self.cluster).take(picked.address))
                .flatten();
            let mut link = match pooled {
                Some(link) => {
                    worker.counters.upstream_reused.add(1);
                    link
                }
                None => {
                    let timeout = self.cluster.connect_timeout;
                    let header = self.client.header(self.cluster).map_err(|error| {
                        tracing::debug!(cluster = %self.cluster.id, %error, "no PROXY header");
                        Failure::ConnectFailed
                    })?;
                    match Link::open(picked.address, timeout, &worker.limits, &header).await {
                        Ok(link) => {
                            worker.counters.upstream_opened.add(1);
                            link
                        }
                        Err(error) => {
                            tracing::debug!(cluster = %self.cluster.id, %error, "connect failed");
                            failure = match error {
                                ConnectError::Failed { .. } => Failure::ConnectFailed,
                                ConnectError::Timeout { .. } => Failure::ConnectTimeout,
                            };
                            tried.push(picked.address);
                            continue;
                        }
                    }
                }
            };
            let idempotent = self.method.is_idempotent();
            let spare =
                (link.reused() && idempotent && self.body.is_whole()).then(|| fields.clone());
            let mut error = match link.send(self.request(fields)).await {
                Ok(response) => {
                    return Ok(Answer {
                        response,
                        link,
                        picked,
                    });
                }
                Err(error) => error,
            };
            // Unwritten, or written and not answered with one byte.
            let unwritten = error
                .take_message()
                .map(|request| request.into_parts().0.headers);
            let may_repeat = link.reused() && may_reuse && !link.received() && self.body.is_whole();
            match unwritten.or(spare).filter(|_| may_repeat) {
                Some(left) => {
                    fields = left;
                    may_reuse = false;
                    again = Some(picked);
                }
                None => return Err(self.classify(&link, error.error())),
            }
        }
        Err(failure)
    }

    fn request(&self, fields: HeaderMap) -> Request<RequestBody> {
        let mut request = Request::new(self.body.body());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = fields;
        request
    }

    /// What went wrong after the request was sent.
    fn classify(&self, link: &Link, error: &hyper::Error) -> Failure {
        tracing::debug!(cluster = %self.cluster.id, %error, "no answer");
        if self.body.is_failed() {
            Failure::ClientReset
        } else if let Some(violation) = link.violation() {
            tracing::warn!(cluster = %self.cluster.id, %violation, "upstream's answer refused");
            Failure::BadResponse
        } else if error.is_parse() || link.received() {
            Failure::BadResponse
        } else {
            Failure::UpstreamReset
        }
    }
}
