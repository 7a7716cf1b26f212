// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One request: route it, send it on, bring the answer back.

use std::{rc::Rc, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode, Uri, Version, header,
    request::Parts,
    uri::{Authority, PathAndQuery},
};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::{
    http::{
        Client,
        attempt::{Answer, Attempt, Failure},
        exchange::Exchange,
        headers,
        path::normalise,
        request_body::BodyHandle,
        respond,
        response_body::{ResponseBody, Upstream},
        router::{self, RequestHead, RouteMatch},
        validate,
    },
    model::{HttpAction, HttpDestination, HttpRule, PathRewrite, StringMatch},
    snapshot::HttpTable,
};

/// Serves one request of a client.
pub async fn serve(client: Rc<Client>, request: Request<Incoming>) -> Response<ResponseBody> {
    let (head, body) = request.into_parts();
    let host = host(&head).to_owned();
    let body = BodyHandle::new(body);
    let mut exchange = Exchange::begin(
        Rc::clone(&client),
        &head,
        router::host_name(&host),
        body.clone(),
    );
    if head.version == Version::HTTP_2
        && let Err(violation) = validate::http2_request(&head.method, &head.uri, &head.headers)
    {
        tracing::debug!(%violation, "request refused");
        client.worker.counters.bad_requests.add(1);
        return own(exchange, respond::status(violation.status()), "bad_request");
    }
    // The one expectation there is (RFC 9110 section 10.1.1). hyper answers it
    // when the body is first asked for.
    if let Some(expect) = head.headers.get(header::EXPECT)
        && !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        let refusal = respond::status(StatusCode::EXPECTATION_FAILED);
        return own(exchange, refusal, "bad_request");
    }
    let table = (client.table)();
    let asked = respond::Asked {
        scheme: client.scheme(),
        host: &host,
        target: head
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str()),
    };
    let route = router::find(
        &table,
        &host,
        &RequestHead {
            method: head.method.as_str(),
            path: head.uri.path(),
            headers: &head.headers,
        },
    );
    let (rule, matched) = match route {
        RouteMatch::Rule(rule, matched, _) => (rule, matched),
        RouteMatch::Redirect301(_) => {
            return own(exchange, respond::https_redirect(asked), "https_redirect");
        }
        RouteMatch::NoRoute(_) => {
            return own(exchange, respond::status(StatusCode::NOT_FOUND), "no_route");
        }
        RouteMatch::NoHost => {
            return own(exchange, respond::status(StatusCode::NOT_FOUND), "no_host");
        }
    };
    exchange.rule = Some(Arc::clone(&rule));
    let (mut response, reason) = match &rule.action {
        HttpAction::Redirect(redirect) => (respond::redirect(redirect, asked), "redirect"),
        HttpAction::Respond(direct) => (respond::direct(direct), "direct_response"),
        HttpAction::Route {
            destinations,
            timeout,
            rewrite,
        } => {
            let route = Route {
                table: &table,
                rule: &rule,
                matched,
                destinations,
                rewrite,
                deadline: timeout.map(|timeout| exchange.started() + timeout),
            };
            return route.forward(exchange, head, body, &host).await;
        }
    };
    headers::edit(response.headers_mut(), &rule.response_headers);
    own(exchange, response, reason)
}

/// The host a request is for: the target's authority, else `Host`. Where both
/// are there they agree, the validators see to that.
fn host(head: &Parts) -> &str {
    head.uri.authority().map_or_else(
        || {
            head.headers
                .get(header::HOST)
                .and_then(|host| host.to_str().ok())
                .unwrap_or_default()
        },
        Authority::as_str,
    )
}

/// An answer of the gateway itself.
fn own(
    mut exchange: Exchange,
    response: Response<Bytes>,
    reason: &'static str,
) -> Response<ResponseBody> {
    exchange.status = response.status().as_u16();
    exchange.reason = reason;
    let (head, bytes) = response.into_parts();
    Response::from_parts(head, ResponseBody::own(bytes, exchange))
}

/// A rule that sends requests on, and what it does with this one.
struct Route<'r> {
    table: &'r HttpTable,
    rule: &'r HttpRule,
    matched: Option<usize>,
    destinations: &'r [HttpDestination],
    rewrite: &'r PathRewrite,
    deadline: Option<Instant>,
}

impl Route<'_> {
    async fn forward(
        &self,
        mut exchange: Exchange,
        mut head: Parts,
        body: BodyHandle,
        host: &str,
    ) -> Response<ResponseBody> {
        let Some(destination) = self.destination(exchange.client()) else {
            return fail(exchange, Failure::NoCluster);
        };
        exchange.cluster = Some(destination.cluster.clone());
        let Some(cluster) = self.table.clusters.get(&destination.cluster) else {
            return fail(exchange, Failure::NoCluster);
        };
        if !cluster.sources.contain(exchange.client().peer.ip()) {
            return fail(exchange, Failure::SourceDenied);
        }
        let Some(uri) = self.upstream_uri(&head.uri) else {
            return fail(exchange, Failure::BadRequest);
        };
        let id = self.upstream_headers(&mut head, exchange.client(), destination, &body, host);
        exchange.identify(id);
        let client = Rc::clone(exchange.client());
        let mut upstream = None;
        let attempt = Attempt {
            client: &client,
            cluster,
            method: &head.method,
            uri: &uri,
            body: &body,
        };
        let answer = attempt.run(head.headers, &mut upstream);
        let answer = match self.deadline {
            None => answer.await,
            Some(deadline) => tokio::time::timeout_at(deadline, answer)
                .await
                .unwrap_or(Err(Failure::Timeout)),
        };
        exchange.upstream = upstream;
        match answer {
            Ok(answer) => self.answer(exchange, answer, destination),
            Err(failure) => {
                // A body that broke a rule ends what was sent of it.
                let violated = client.turn.as_ref().and_then(|turn| turn.violation());
                fail(
                    exchange,
                    if violated.is_some() {
                        Failure::BadRequest
                    } else {
                        failure
                    },
                )
            }
        }
    }

    /// One of the destinations, in proportion to weight.
    fn destination(&self, client: &Client) -> Option<&HttpDestination> {
        if let [only] = self.destinations {
            return Some(only);
        }
        let weighted: Vec<_> = self
            .destinations
            .iter()
            .map(|destination| (destination, destination.weight))
            .collect();
        client.worker.balancer.pick_weighted(&weighted).copied()
    }

    /// Where the request goes, in origin form.
    fn upstream_uri(&self, asked: &Uri) -> Option<Uri> {
        let path = normalise(asked.path());
        let rewritten = self.rewrite.path.as_ref().map(|new| {
            let condition = self
                .matched
                .and_then(|index| self.rule.matches.get(index))
                .and_then(|matched| matched.path.as_ref());
            let rest = match condition {
                Some(StringMatch::Exact(_)) => "",
                Some(StringMatch::Prefix(prefix)) => path.get(prefix.len()..).unwrap_or_default(),
                // Every path begins with a slash.
                None => path.get(1..).unwrap_or_default(),
            };
            let slash = if new.starts_with('/') { "" } else { "/" };
            format!("{slash}{new}{rest}")
        });
        let path = match rewritten {
            Some(path) => path,
            None if path == asked.path() => {
                let target = asked.path_and_query().cloned();
                return Some(Uri::from(
                    target.unwrap_or_else(|| PathAndQuery::from_static("/")),
                ));
            }
            None => path.into_owned(),
        };
        let target = match asked.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        PathAndQuery::try_from(target).ok().map(Uri::from)
    }

    /// Header fields as the upstream gets them; the request id.
    fn upstream_headers(
        &self,
        head: &mut Parts,
        client: &Client,
        destination: &HttpDestination,
        body: &BodyHandle,
        host: &str,
    ) -> HeaderValue {
        let fields = &mut head.headers;
        let takes_trailers = headers::takes_trailers(fields);
        headers::strip_hop_by_hop(fields);
        headers::join_cookies(fields);
        // hyper has answered, or answers when the upstream reads.
        fields.remove(header::EXPECT);
        let id = headers::announce_client(fields, client.peer.ip(), client.scheme());
        headers::edit(fields, &self.rule.request_headers);
        headers::edit(fields, &destination.request_headers);
        if takes_trailers {
            fields.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        if !body.is_empty() && !fields.contains_key(header::CONTENT_LENGTH) {
            // hyper's client would send no body with GET otherwise.
            fields.insert(
                header::TRANSFER_ENCODING,
                HeaderValue::from_static("chunked"),
            );
        }
        let authority = destination
            .request_headers
            .authority
            .as_ref()
            .or(self.rule.request_headers.authority.as_ref())
            .or(self.rewrite.authority.as_ref());
        match authority {
            Some(authority) => {
                fields.insert(header::HOST, authority.clone());
            }
            // HTTP/1.0 may come without, HTTP/1.1 may not go on without.
            None if host.is_empty() => {
                if let Ok(local) = HeaderValue::try_from(client.local.to_string()) {
                    fields.insert(header::HOST, local);
                }
            }
            None => {
                if let Ok(host) = HeaderValue::from_str(host) {
                    fields.insert(header::HOST, host);
                }
            }
        }
        id
    }

    /// The answer as the client gets it.
    fn answer(
        &self,
        mut exchange: Exchange,
        answer: Answer,
        destination: &HttpDestination,
    ) -> Response<ResponseBody> {
        let (mut head, incoming) = answer.response.into_parts();
        head.version = Version::HTTP_11;
        headers::strip_hop_by_hop(&mut head.headers);
        if head.status == StatusCode::NO_CONTENT {
            head.headers.remove(header::CONTENT_LENGTH);
        }
        headers::edit(&mut head.headers, &destination.response_headers);
        headers::edit(&mut head.headers, &self.rule.response_headers);
        exchange.status = head.status.as_u16();
        exchange.reason = "routed";
        let upstream = Upstream {
            incoming,
            link: Some(answer.link),
            guard: answer.picked.guard,
            deadline: self
                .deadline
                .map(|deadline| Box::pin(tokio::time::sleep_until(deadline))),
            complete: false,
        };
        Response::from_parts(head, ResponseBody::upstream(upstream, exchange))
    }
}

/// An answer to a request that got none.
fn fail(exchange: Exchange, failure: Failure) -> Response<ResponseBody> {
    let (status, reason) = failure.answer();
    let mut response = respond::status(status);
    if matches!(failure, Failure::BadRequest | Failure::ClientReset) {
        // What follows on the connection is not known to be a request.
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    own(exchange, response, reason)
}
