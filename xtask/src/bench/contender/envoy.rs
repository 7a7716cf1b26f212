// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Envoy as a contender.

use anyhow::Result;

use super::{
    Start,
    peer::{self, Files},
};
use crate::{
    bench::{scenario::Service, stage::Stage},
    setup,
};

/// Starts Envoy for `service`.
///
/// # Errors
///
/// When it does not come up.
pub fn start<'lab>(stage: &'lab Stage<'lab>, service: Service) -> Result<Start<'lab>> {
    let files = Files::write(stage, "envoy.yaml")?;
    files.add_routes("envoy-routes.yaml", ROUTES_HEAD, |prefix| {
        format!("            {prefix}: {ROUTE}\n")
    })?;
    let binary = setup::envoy();
    let mut command = stage.lab.gateway.command(&binary.to_string_lossy());
    command
        .arg("--config-path")
        .arg(&files.configuration)
        .args(["--concurrency", "2", "--disable-hot-restart"])
        .args(["--log-level", "error"]);
    peer::start(stage, service, command, "envoy")
}

/// A tree of prefixes, because Envoy tries the routes of a plain list one after
/// the other: 15 % fewer requests a second with 1,000 of them.
const ROUTES_HEAD: &str = r#"resources:
- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    matcher:
      matcher_tree:
        input:
          name: path
          typed_config:
            "@type": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput
            header_name: ":path"
        prefix_match_map:
          map:
"#;
/// What a prefix leads to. No time limit for an answer, as in the other
/// listeners.
const ROUTE: &str = r#"{action: {name: route, typed_config: {"@type": type.googleapis.com/envoy.config.route.v3.Route, match: {prefix: /}, route: {cluster: plain, timeout: 0s}}}}"#;
