// SPDX-License-Identifier: Apache-2.0 OR MIT
//! HTTP requests by curl.

use std::{net::Ipv4Addr, path::Path};

use anyhow::{Context, Result, bail};

use crate::netns::Netns;

/// One request, or many of the same on one connection.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host header and server name.
    pub host: &'a str,
    /// Where the connection goes.
    pub address: Ipv4Addr,
    /// Port there.
    pub port: u16,
    /// Path and query.
    pub path: &'a str,
    /// Authority whose certificates are trusted.
    pub authority: Option<&'a Path>,
    /// Further options of curl.
    pub options: &'a [&'a str],
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// `1.1` or `2`.
    pub version: String,
    /// Where a redirect points, as an absolute URL.
    pub location: String,
    /// Body as text.
    pub body: String,
}

impl Answer {
    /// A line `key=value` of nginx's id page.
    pub fn field(&self, key: &str) -> Option<&str> {
        self.body
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }
}

/// Sends one request.
///
/// # Errors
///
/// When no complete answer comes: refused, reset, bad certificate, timeout.
pub fn get(netns: &Netns, request: &Request<'_>) -> Result<Answer> {
    let mut answers = repeat(netns, request, 1)?;
    answers.pop().context("curl printed no answer")
}

/// Sends the same request `count` times over as few connections as it takes.
///
/// # Errors
///
/// As [`get`].
pub fn repeat(netns: &Netns, request: &Request<'_>, count: usize) -> Result<Vec<Answer>> {
    let Request {
        scheme,
        host,
        address,
        port,
        path,
        authority,
        options,
    } = request;
    let mut command = netns.command("curl");
    command
        .args([
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "--noproxy",
            "*",
        ])
        .args(["--resolve", &format!("{host}:{port}:{address}")])
        .args(["--write-out", WRITE_OUT])
        .args(*options);
    if let Some(authority) = authority {
        command.arg("--cacert").arg(authority);
    }
    let url = format!("{scheme}://{host}:{port}{path}");
    command.args(std::iter::repeat_n(&url, count));
    let output = command.output().context("start curl")?;
    if !output.status.success() {
        bail!(
            "curl {url}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_terminator(END)
        .map(|one| parse(one).with_context(|| format!("curl {url} printed {one:?}")))
        .collect()
}

fn parse(text: &str) -> Option<Answer> {
    let (body, trailer) = text.rsplit_once(MARK)?;
    let mut fields = trailer.splitn(3, ' ');
    Some(Answer {
        status: fields.next()?.parse().ok()?,
        version: fields.next()?.to_owned(),
        location: fields.next()?.to_owned(),
        body: body.to_owned(),
    })
}

const WRITE_OUT: &str = "\u{1}%{http_code} %{http_version} %{redirect_url}\u{2}";
const MARK: char = '\u{1}';
const END: char = '\u{2}';
