// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the tests share: a lab or a skip, a running agent, configuration for
//! the usual shapes.

use std::net::SocketAddr;

use gateway_tests::{
    gateway::{Datapath, Gateway},
    lab::Lab,
    skip, wait,
};

/// A lab, or none where there cannot be one.
pub fn lab() -> Option<Lab> {
    if !skip::is_root() {
        skip::skipped("network namespaces need root");
        return None;
    }
    Some(Lab::new().expect("make a lab"))
}

/// An agent with kernel programs that serves `files` (name and YAML).
pub fn serve<'lab>(lab: &'lab Lab, files: &[(&str, String)]) -> Gateway<'lab> {
    serve_with(lab, Datapath::Ebpf, "", files)
}

/// [`serve`] with more bootstrap settings and another data path.
pub fn serve_with<'lab>(
    lab: &'lab Lab,
    datapath: Datapath,
    bootstrap: &str,
    files: &[(&str, String)],
) -> Gateway<'lab> {
    let mut gateway = Gateway::new(lab, datapath, bootstrap).expect("prepare the agent");
    for (file, yaml) in files {
        gateway.write(file, yaml).expect("write the configuration");
    }
    gateway.start().expect("start the agent");
    gateway
}

/// The address of a port of the VIP.
pub fn vip(lab: &Lab, port: u16) -> SocketAddr {
    SocketAddr::from((lab.vip(), lab.port(port)))
}

/// The address of a port of a backend, 0 to 2.
pub fn backend(lab: &Lab, index: usize, port: u16) -> SocketAddr {
    SocketAddr::from((lab.backend_address(index), port))
}

/// A forwarded TCP port.
pub fn tcp(name: &str, port: u16, targets: &[SocketAddr]) -> String {
    format!(
        "{}{}{}",
        gateway(name, port, "TCP", "*", ""),
        virtual_service(
            name,
            "*",
            &format!("  tcp:\n  - route:\n    - destination: {{host: {name}.internal}}\n")
        ),
        service(name, targets)
    )
}

/// A server name passed through to one cluster.
pub fn passthrough(name: &str, port: u16, host: &str, targets: &[SocketAddr]) -> String {
    format!(
        "{}{}{}",
        gateway(name, port, "TLS", host, "    tls: {mode: PASSTHROUGH}\n"),
        virtual_service(
            name,
            host,
            &format!(
                "  tls:\n  - match:\n    - sniHosts: [\"{host}\"]\n    route:\n    - destination: {{host: {name}.internal}}\n"
            )
        ),
        service(name, targets)
    )
}

/// A Gateway with one server; `tls` is its TLS block, indented.
pub fn gateway(name: &str, port: u16, protocol: &str, host: &str, tls: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec:\n  selector: {{istio: ingressgateway}}\n  servers:\n  - port:\n      number: {port} # vip port\n      name: p{port}\n      protocol: {protocol}\n    hosts: [\"{host}\"]\n{tls}"
    )
}

/// A VirtualService bound to the Gateway of the same name; `rules` is its
/// `http`, `tls` or `tcp` block, indented.
pub fn virtual_service(name: &str, host: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec:\n  hosts: [\"{host}\"]\n  gateways: [{name}]\n{rules}"
    )
}

/// A ServiceEntry `NAME.internal` with the endpoints.
pub fn service(name: &str, targets: &[SocketAddr]) -> String {
    let port = targets.first().map_or(1, SocketAddr::port);
    let mut yaml = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n  hosts: [{name}.internal]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  ports:\n  - {{number: {port}, name: main, protocol: TCP}}\n  endpoints:\n"
    );
    for target in targets {
        assert_eq!(target.port(), port, "one port a service");
        yaml.push_str(&format!("  - address: \"{}\"\n", target.ip()));
    }
    yaml
}

/// Waits until at least `least` connections have ended in `mode` for `reason`.
pub fn expect_closed(gateway: &Gateway<'_>, mode: &str, reason: &str, least: u64) {
    let what = format!("{least} connections ended as {mode} {reason}");
    let deadline = std::time::Duration::from_secs(5);
    let counted = wait::until(&what, deadline, || {
        let now = gateway.closed(mode, reason)?;
        anyhow::ensure!(now >= least, "{now} counted");
        Ok(Some(()))
    });
    if let Err(error) = counted {
        let status = gateway.status().expect("status");
        panic!(
            "{error:#}; all of them: {}",
            status["connections"]["closed"]
        );
    }
}
