// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The books of one request: whatever way it ends, it is counted and recorded
//! exactly once, when the last byte of its answer is gone or given up.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use tokio::time::Instant;

use crate::{
    http::{Client, request_body::BodyHandle},
    model::{ClusterId, HttpRule},
    telemetry::access::RequestRecord,
};

/// One request, from its head to the end of its answer.
pub struct Exchange {
    client: Rc<Client>,
    started: Instant,
    /// Only where records are written.
    text: Option<Box<Text>>,
    /// The rule that served it.
    pub rule: Option<Arc<HttpRule>>,
    /// The cluster it went to.
    pub cluster: Option<ClusterId>,
    /// The endpoint it went to.
    pub upstream: Option<SocketAddr>,
    /// The body of the request.
    pub request_body: BodyHandle,
    /// Sent to the client; 0 until then.
    pub status: u16,
    /// Body bytes of the answer.
    pub bytes_out: u64,
    /// `routed`, or why the gateway answered by itself.
    pub reason: &'static str,
}

/// What a record says about the request.
struct Text {
    method: http::Method,
    host: String,
    path: String,
    request_id: Option<http::HeaderValue>,
}

impl Exchange {
    /// A request has come.
    pub fn begin(
        client: Rc<Client>,
        head: &http::request::Parts,
        host: &str,
        request_body: BodyHandle,
    ) -> Self {
        client.active.set(client.active.get() + 1);
        let text = tracing::enabled!(target: "access", tracing::Level::INFO).then(|| {
            Box::new(Text {
                method: head.method.clone(),
                host: host.to_ascii_lowercase(),
                path: head.uri.path().to_owned(),
                request_id: None,
            })
        });
        Self {
            client,
            started: Instant::now(),
            text,
            rule: None,
            cluster: None,
            upstream: None,
            request_body,
            status: 0,
            bytes_out: 0,
            reason: "client_reset",
        }
    }

    /// The connection it came on.
    pub fn client(&self) -> &Rc<Client> {
        &self.client
    }

    /// When its head was complete.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The id sent upstream.
    pub fn identify(&mut self, id: http::HeaderValue) {
        if let Some(text) = &mut self.text {
            text.request_id = Some(id);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let client = &self.client;
        client.active.set(client.active.get() - 1);
        client.last_active.set(Instant::now());
        if let Some(turn) = &client.turn {
            turn.finish();
        }
        if self.status != 0 {
            client.worker.counters.count_response(self.status);
        }
        let Some(text) = &self.text else {
            return;
        };
        RequestRecord {
            peer: client.peer,
            local: client.local,
            mode: client.mode,
            method: text.method.as_str(),
            host: &text.host,
            path: &text.path,
            request_id: text
                .request_id
                .as_ref()
                .and_then(|id| id.to_str().ok())
                .unwrap_or_default(),
            rule: self.rule.as_ref().map(|rule| rule.origin.to_string()),
            cluster: self.cluster.as_ref().map(ClusterId::as_str),
            upstream: self.upstream,
            status: self.status,
            bytes_in: self.request_body.bytes(),
            bytes_out: self.bytes_out,
            duration: self.started.elapsed(),
            reason: self.reason,
        }
        .emit();
    }
}
