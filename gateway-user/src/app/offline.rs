// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Commands that need no running agent: `check` and `explain`.

use std::{process::ExitCode, time::Duration};

use crate::{
    app::pipeline::{self, Pipeline},
    cli,
    compile::{DnsAnswers, Observed},
    explain::{self, Query},
    snapshot::Snapshot,
    source::dns::Resolver,
    status,
};

/// How long `explain` waits for names to be resolved.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);

/// `sluice check`: findings to standard output, one a line.
///
/// # Errors
/// When a path does not exist or the bootstrap cannot be used.
pub fn check(options: &cli::Check) -> anyhow::Result<ExitCode> {
    pipeline::existing(&options.paths)?;
    let bootstrap = pipeline::bootstrap(options.bootstrap.as_deref())?;
    let mut pipeline = Pipeline::new(options.paths.clone(), &bootstrap);
    pipeline.load();
    let compiled = pipeline.compile(&Observed::default(), &Snapshot::default());
    match options.output {
        cli::Output::Text => {
            for diagnostic in &compiled.diagnostics {
                println!("{diagnostic}");
            }
        }
        cli::Output::Json => {
            println!(
                "{}",
                serde_json::to_string_pretty(&status::findings(&compiled.diagnostics))?
            );
        }
    }
    let errors = pipeline::has_errors(&compiled.diagnostics);
    Ok(if errors {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// `sluice explain`: exit status 0 when something would serve it, 1 when it
/// would be refused.
///
/// # Errors
/// When a path does not exist or the bootstrap cannot be used.
pub fn explain(options: &cli::Explain) -> anyhow::Result<ExitCode> {
    pipeline::existing(&options.paths)?;
    let bootstrap = pipeline::bootstrap(options.bootstrap.as_deref())?;
    let mut pipeline = Pipeline::new(options.paths.clone(), &bootstrap);
    pipeline.load();
    let observed = Observed {
        dns: resolve(&pipeline)?,
        ..Observed::default()
    };
    let compiled = pipeline.compile(&observed, &Snapshot::default());
    let query = Query {
        address: options.address,
        port: options.port,
        transport: options.protocol.into(),
        sni: options.sni.clone(),
        host: options.host.clone(),
        method: options.method.clone(),
        path: options.path.clone(),
        headers: options.headers.clone(),
        source: options.source,
    };
    let answer = explain::explain(&compiled.snapshot, &query);
    match options.output {
        cli::Output::Text => print!("{answer}"),
        cli::Output::Json => println!("{}", serde_json::to_string_pretty(&answer)?),
    }
    let served = answer.reason.is_none() || answer.status.is_some();
    Ok(if served {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Resolves the names of the configuration once, as far as that goes.
fn resolve(pipeline: &Pipeline) -> anyhow::Result<DnsAnswers> {
    let names = pipeline.dns_names();
    if names.is_empty() {
        return Ok(DnsAnswers::new());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut resolver = Resolver::new();
        resolver.want(names.clone());
        let all = async {
            while resolver.answers().len() < names.len() {
                resolver.changed().await;
            }
        };
        let _ = tokio::time::timeout(RESOLVE_LIMIT, all).await;
        Ok(resolver.answers())
    })
}
