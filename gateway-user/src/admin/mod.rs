// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Admin endpoints: health, readiness, metrics, status, snapshot, flows,
//! explain. They read; nothing here changes routing.

use std::net::IpAddr;

use ::http::StatusCode;
use axum::{
    Json, Router,
    extract::{self, Query as Params},
    response::IntoResponse,
    routing::get,
};
use serde::Deserialize;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};

use crate::{
    explain,
    model::Transport,
    snapshot::SnapshotHandle,
    status::{
        Readiness, Report,
        flows::{self, FlowFilter, FlowList},
        matching::AddressMatch,
    },
};

mod dump;
mod handoff_metrics;
mod metrics;

/// A question to the agent's loop, with where to answer.
pub enum Query {
    /// What the agent does.
    Status(oneshot::Sender<Report>),
    /// Flows the kernel tracks.
    Flows(FlowFilter, oneshot::Sender<FlowList>),
}

/// What the endpoints read.
#[derive(Clone)]
pub struct State {
    queries: mpsc::Sender<Query>,
    readiness: watch::Receiver<Readiness>,
    snapshot: SnapshotHandle,
}

impl State {
    /// State over the channels that `app` made.
    pub fn new(
        queries: mpsc::Sender<Query>,
        readiness: watch::Receiver<Readiness>,
        snapshot: SnapshotHandle,
    ) -> Self {
        Self {
            queries,
            readiness,
            snapshot,
        }
    }
}

/// Serves until the task is aborted.
pub async fn serve(listener: TcpListener, state: State) {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/snapshot", get(snapshot))
        .route("/flows", get(self::flows))
        .route("/explain", get(explain))
        .with_state(state);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "admin endpoints ended");
    }
}

async fn readyz(extract::State(state): extract::State<State>) -> impl IntoResponse {
    match &*state.readiness.borrow() {
        Readiness::Ready => (StatusCode::OK, "ready\n".to_owned()),
        Readiness::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n".to_owned()),
        Readiness::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned()),
        Readiness::Failing(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("failing: {why}\n")),
    }
}

/// Asks the loop; unavailable while it starts or ends.
async fn ask<T>(
    state: &State,
    query: impl FnOnce(oneshot::Sender<T>) -> Query,
) -> Result<T, StatusCode> {
    let (reply, answer) = oneshot::channel();
    state
        .queries
        .send(query(reply))
        .await
        .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    answer.await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}

async fn status(extract::State(state): extract::State<State>) -> impl IntoResponse {
    ask(&state, Query::Status).await.map(Json)
}

/// Parameters of `/flows`, named as the options of `sluice flows`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowParams {
    service: Option<String>,
    client: Option<String>,
    backend: Option<String>,
    state: Option<String>,
    sni: Option<String>,
    kind: Option<String>,
    limit: Option<usize>,
}

async fn flows(
    extract::State(state): extract::State<State>,
    Params(params): Params<FlowParams>,
) -> Result<Json<FlowList>, (StatusCode, String)> {
    let FlowParams {
        service,
        client,
        backend,
        state: flow_state,
        sni,
        kind,
        limit,
    } = params;
    let parse = |name: &str, text: Option<String>| -> Result<Option<AddressMatch>, _> {
        text.map(|text| text.parse::<AddressMatch>())
            .transpose()
            .map_err(|error| (StatusCode::BAD_REQUEST, format!("{name}: {error}\n")))
    };
    let filter = FlowFilter {
        service: parse("service", service)?,
        client: parse("client", client)?,
        backend: parse("backend", backend)?,
        state: flow_state,
        sni: sni
            .map(|sni| sni.parse())
            .transpose()
            .map_err(|error| (StatusCode::BAD_REQUEST, format!("sni: {error}\n")))?,
        kind,
        limit: limit.unwrap_or(flows::DEFAULT_LIMIT),
    };
    match ask(&state, |reply| Query::Flows(filter, reply)).await {
        Ok(list) => Ok(Json(list)),
        Err(status) => Err((status, String::new())),
    }
}

async fn metrics(extract::State(state): extract::State<State>) -> impl IntoResponse {
    let report = ask(&state, Query::Status).await?;
    let text = metrics::encode(&report).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok::<_, StatusCode>(([(::http::header::CONTENT_TYPE, content_type)], text))
}

async fn snapshot(extract::State(state): extract::State<State>) -> impl IntoResponse {
    Json(dump::snapshot(&state.snapshot.load()))
}

/// Parameters of `/explain`, named as the options of `sluice explain`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainParams {
    port: u16,
    address: Option<IpAddr>,
    sni: Option<String>,
    protocol: Option<Protocol>,
    host: Option<String>,
    method: Option<String>,
    path: Option<String>,
    source: Option<IpAddr>,
}

#[derive(Clone, Copy, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    #[default]
    Tcp,
    Udp,
}

async fn explain(
    extract::State(state): extract::State<State>,
    Params(params): Params<ExplainParams>,
) -> impl IntoResponse {
    let ExplainParams {
        port,
        address,
        sni,
        protocol,
        host,
        method,
        path,
        source,
    } = params;
    let query = explain::Query {
        address,
        port,
        transport: match protocol.unwrap_or_default() {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
        },
        sni,
        host,
        method: method.unwrap_or_else(|| "GET".to_owned()),
        path: path.unwrap_or_else(|| "/".to_owned()),
        headers: Vec::new(),
        source,
    };
    Json(explain::explain(&state.snapshot.load(), &query))
}
