// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sluice as a contender, in each of its paths.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use gateway_tests::{
    gateway::{Datapath, Gateway},
    lab::Lab,
    netns::Netns,
    offload,
};

use super::{Running, Start};
use crate::bench::{
    scenario::{ROUTES, Service, route_prefix},
    stage::{HOST, Stage, template},
};

/// A way through Sluice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Kernel programs at tcx.
    Kernel,
    /// The agent alone.
    Userspace,
    /// Kernel program at native XDP.
    Xdp,
    /// Kernel programs at tcx, and connections handed over to them.
    Handoff,
}

/// Starts an agent that serves `service` on the VIP.
///
/// # Errors
///
/// When it does not become ready.
pub fn start<'lab>(stage: &'lab Stage<'lab>, service: Service, path: Path) -> Result<Start<'lab>> {
    let lab = stage.lab;
    stage.fresh_dir("config")?;
    let datapath = match path {
        Path::Userspace => Datapath::Userspace,
        Path::Kernel | Path::Xdp | Path::Handoff => Datapath::Ebpf,
    };
    let mut bootstrap = template("sluice.yaml", &[])?;
    bootstrap.push_str(match path {
        Path::Xdp => "attach: xdp-native\nhandoff: {mode: off}\n",
        // After the ClientHello: every connection that lasts.
        Path::Handoff => "handoff: {mode: auto, after_bytes: 256}\n",
        // A row of its own; here the agent relays to the end.
        Path::Kernel | Path::Userspace => "handoff: {mode: off}\n",
    });
    let gateway = Gateway::with_binary(lab, stage.agent.clone(), datapath, &bootstrap)?;
    configure(stage, &gateway, service)?;
    // Held from here on, so that a failed start is cleaned up too.
    let mut held = Agent {
        gateway,
        datapath,
        _vip: (path == Path::Userspace)
            .then(|| Vip::claim(lab))
            .transpose()?,
        _wires: (path == Path::Xdp).then(|| Wires::make(lab)).transpose()?,
    };
    held.gateway.start().context("start the agent")?;
    let target = SocketAddr::from((lab.vip(), service.port()));
    Ok(Start::Running(Running::new(target, held)))
}

fn configure(stage: &Stage<'_>, gateway: &Gateway<'_>, service: Service) -> Result<()> {
    let file = match service {
        Service::L4Bulk | Service::L4Http => "sluice-l4.yaml",
        Service::Sni => "sluice-sni.yaml",
        Service::Https | Service::H2 => {
            let secret = stage.certificate.secret("bench-cert", "default")?;
            gateway.write("secret.yaml", &secret)?;
            "sluice-https.yaml"
        }
        Service::Http => "sluice-http.yaml",
        Service::HttpRoutes => {
            gateway.write("routes.yaml", &routes())?;
            "sluice-http-routes.yaml"
        }
    };
    gateway.write("bench.yaml", &template(file, &[])?)
}

/// A VirtualService with a rule for each route.
fn routes() -> String {
    let mut yaml = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {{name: routes}}\nspec:\n  hosts: [{HOST}]\n  gateways: [bench]\n  http:\n"
    );
    for index in 0..ROUTES {
        yaml.push_str(&format!(
            "  - match: [{{uri: {{prefix: {}}}}}]\n    route: [{{destination: {{host: web.internal}}}}]\n",
            route_prefix(index)
        ));
    }
    yaml
}

/// An agent and what it put into the kernel.
struct Agent<'lab> {
    gateway: Gateway<'lab>,
    datapath: Datapath,
    _vip: Option<Vip<'lab>>,
    _wires: Option<Wires<'lab>>,
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        // Not a drain: nobody is connected any more.
        self.gateway.kill();
        // Without kernel programs nothing is pinned.
        if self.datapath == Datapath::Ebpf
            && let Err(error) = self.gateway.detach()
        {
            eprintln!("bench: {error:#}");
        }
    }
}

/// The VIP as an address of the node: without kernel programs the agent claims
/// none.
struct Vip<'lab>(&'lab Lab);

impl<'lab> Vip<'lab> {
    fn claim(lab: &'lab Lab) -> Result<Self> {
        lab.gateway
            .ip(&format!("addr add {}/32 dev lo", lab.vip()))?;
        Ok(Self(lab))
    }
}

impl Drop for Vip<'_> {
    fn drop(&mut self) {
        let Self(lab) = self;
        let removed = lab.gateway.ip(&format!("addr del {}/32 dev lo", lab.vip()));
        if let Err(error) = removed {
            eprintln!("bench: {error:#}");
        }
    }
}

/// Links with a network card's offloads: a frame that XDP redirects to a veth
/// end that does not poll is lost, and checksums left to be finished stay so.
/// Super-packets go with the checksums, so bulk data is not comparable with the
/// other contenders'.
struct Wires<'lab>(&'lab Lab);

impl<'lab> Wires<'lab> {
    fn make(lab: &'lab Lab) -> Result<Self> {
        let wires = Self(lab);
        for netns in wires.ends() {
            netns
                .run(|| offload::like_a_wire("eth0"))
                .context("set offloads")?;
        }
        Ok(wires)
    }

    fn ends(&self) -> impl Iterator<Item = &'lab Netns> {
        let Self(lab) = self;
        [&lab.client].into_iter().chain(&lab.backends)
    }
}

impl Drop for Wires<'_> {
    fn drop(&mut self) {
        for netns in self.ends() {
            if let Err(error) = netns.run(|| offload::like_veth("eth0")) {
                eprintln!("bench: {error:#}");
            }
        }
    }
}
