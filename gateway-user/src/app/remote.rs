// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Commands that act on what an agent left or runs: `status`, `flows` and
//! `detach`.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::{app::pipeline, cli, datapath, status};

/// How long an answer of the admin endpoints may take.
const ADMIN_LIMIT: Duration = Duration::from_secs(5);

/// `sluice status`: the report of a running agent.
///
/// # Errors
/// When no agent answers at the admin address.
pub fn status(options: &cli::Status) -> anyhow::Result<ExitCode> {
    let body = ask(options.admin, "/status")?;
    match options.output {
        cli::Output::Json => println!("{}", String::from_utf8_lossy(&body)),
        cli::Output::Text => {
            print!("{}", status::text(&serde_json::from_slice(&body)?));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `sluice flows`: the flows of a running agent.
///
/// # Errors
/// When no agent answers at the admin address.
pub fn flows(options: &cli::Flows) -> anyhow::Result<ExitCode> {
    let cli::Flows {
        service,
        client,
        backend,
        state,
        sni,
        kind,
        limit,
        admin,
        output,
    } = options;
    // Neither addresses nor names nor states (letters and dashes) have a character
    // that a query would have to escape.
    let mut path = format!("/flows?limit={limit}");
    for (name, wanted) in [
        ("service", service),
        ("client", client),
        ("backend", backend),
    ] {
        if let Some(wanted) = wanted {
            path.push_str(&format!("&{name}={wanted}"));
        }
    }
    if let Some(state) = state {
        path.push_str(&format!("&state={state}"));
    }
    if let Some(sni) = sni {
        path.push_str(&format!("&sni={sni}"));
    }
    if let Some(kind) = kind {
        path.push_str(&format!("&kind={kind}"));
    }
    let body = ask(*admin, &path)?;
    match output {
        cli::Output::Json => println!("{}", String::from_utf8_lossy(&body)),
        cli::Output::Text => {
            print!(
                "{}",
                status::flows::flows_text(&serde_json::from_slice(&body)?)
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// An answer of the admin endpoints.
///
/// # Errors
/// When no agent answers in time.
pub fn ask(admin: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    block_on(async {
        tokio::time::timeout(ADMIN_LIMIT, get(admin, path))
            .await
            .context("no answer in time")?
    })
    .with_context(|| {
        format!("{admin}: no agent answers (is `sluice run` up, and is --admin right?)")
    })
}

/// `sluice detach`: removes what the agent keeps in the kernel.
///
/// # Errors
/// When something could not be removed; what is left is named.
pub fn detach(options: &cli::Detach) -> anyhow::Result<ExitCode> {
    let bootstrap = pipeline::bootstrap(options.bootstrap.as_deref())?;
    let removed = block_on(async { Ok(datapath::detach(&bootstrap.datapath()).await?) })?;
    println!(
        "removed {} links, {} maps and {} addresses",
        removed.links.len(),
        removed.maps.len(),
        removed.vips.len()
    );
    Ok(ExitCode::SUCCESS)
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = ::http::Request::get(path)
        .header("host", address.to_string())
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        anyhow::ensure!(
            response.status().is_success(),
            "{path}: status {}",
            response.status()
        );
        Ok(response.into_body().collect().await?.to_bytes())
    };
    tokio::pin!(connection, answer);
    loop {
        tokio::select! {
            answer = &mut answer => return answer,
            ended = &mut connection => ended?,
        }
    }
}
