// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The rules of Istio's kinds.
//!
//! Order of precedence is that of [`ResourceSet`](crate::resource::ResourceSet):
//! where Istio says "oldest first", this does.

use crate::{
    model::Listener,
    translate::{Context, flow_limits, sources},
};

mod attach;
mod attach_check;
mod authorization;
mod destination;
mod destination_conflict;
mod destination_rule;
mod destination_select;
pub mod gateway;
mod http;
mod http_action;
mod http_match;
mod port_ranges;
mod server_tls;
mod tcp;
mod tls;

pub use attach::Candidates;
pub use authorization::Authorization;
pub use destination::FORWARDING;
pub use destination_rule::Policies;
pub use port_ranges::PORT_RANGES;

/// Every listener of every Gateway that this agent serves.
pub fn listeners(context: &mut Context<'_>) -> Vec<Listener> {
    destination_conflict::check(context.resources, &mut context.findings);
    let binds = gateway::binds(context);
    attach_check::check(context, &binds);
    binds
        .iter()
        .filter_map(|bind| {
            let listener = match bind.family {
                gateway::Family::Tcp | gateway::Family::Udp => tcp::listener(context, bind)?,
                gateway::Family::Tls => tls::listener(context, bind)?,
                gateway::Family::Http => http::listener(context, bind),
            };
            Some(Listener {
                sources: sources::of_bind(context, bind),
                limits: flow_limits::of_bind(context, bind, &listener.kind),
                ..listener
            })
        })
        .collect()
}
