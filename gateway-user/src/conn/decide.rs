// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is done with a connection, from what is known of it. Pure; `explain`
//! asks the same functions.

use std::{net::IpAddr, sync::Arc};

use rustls::ServerConfig;

use crate::{
    conn::client_hello::{Hello, Outcome},
    snapshot::{ChainAction, HttpTable, Listener, ListenerTable, SniTable, TcpAction, TlsChain},
    telemetry::access::CloseReason,
};

/// What is done with a connection.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Its bytes go on untouched, the ClientHello first.
    Passthrough(Arc<TlsChain>, Arc<TcpAction>),
    /// TLS ends here, bytes go on.
    TerminateTcp(Arc<TlsChain>, Arc<ServerConfig>, Arc<TcpAction>),
    /// TLS ends here, HTTP is routed.
    TerminateHttp(Arc<TlsChain>, Arc<ServerConfig>, Arc<HttpTable>),
    /// HTTP in the clear.
    PlainHttp(Arc<HttpTable>),
    /// Bytes go on, nothing is read first.
    Forward(Arc<TcpAction>),
    /// Closed.
    Refuse(CloseReason),
}

/// A decision, or what it takes to make one.
#[derive(Debug)]
pub enum Step<'a> {
    /// Nothing more needs to be known.
    Act(Decision),
    /// The ClientHello decides: see [`decide_tls`].
    Peek(&'a SniTable),
}

/// What is done with a connection of `client` that was accepted for `listener`.
pub fn decide(listener: Option<&Listener>, client: IpAddr) -> Step<'_> {
    let Some(listener) = listener else {
        return Step::Act(Decision::Refuse(CloseReason::NoListener));
    };
    if !listener.sources.contain(client) {
        return Step::Act(Decision::Refuse(CloseReason::SourceDenied));
    }
    match &listener.table {
        ListenerTable::Forward(action) => Step::Act(Decision::Forward(Arc::clone(action))),
        ListenerTable::PlainHttp(table) => Step::Act(Decision::PlainHttp(Arc::clone(table))),
        ListenerTable::Tls(table) => Step::Peek(table),
    }
}

/// What is done with a connection whose first bytes are `outcome`.
pub fn decide_tls(table: &SniTable, outcome: &Outcome) -> Decision {
    let hello = match outcome {
        Outcome::Hello(hello) => hello,
        Outcome::NeedMore => return Decision::Refuse(CloseReason::HelloIncomplete),
        Outcome::NotTls => return Decision::Refuse(CloseReason::NotTls),
        Outcome::Malformed => return Decision::Refuse(CloseReason::HelloMalformed),
        Outcome::TooLarge => return Decision::Refuse(CloseReason::HelloTooLarge),
    };
    let Hello { sni, .. } = hello;
    let Some(chain) = find_chain(table, sni.as_deref()) else {
        return Decision::Refuse(match sni {
            Some(_) => CloseReason::UnknownSni,
            None => CloseReason::NoSni,
        });
    };
    let chain = Arc::clone(chain);
    match &chain.action {
        ChainAction::Passthrough(action) => {
            let action = Arc::clone(action);
            Decision::Passthrough(chain, action)
        }
        ChainAction::TerminateTcp(config, action) => {
            let (config, action) = (Arc::clone(config), Arc::clone(action));
            Decision::TerminateTcp(chain, config, action)
        }
        ChainAction::TerminateHttp(config, http) => {
            let (config, http) = (Arc::clone(config), Arc::clone(http));
            Decision::TerminateHttp(chain, config, http)
        }
    }
}

/// The chain for a lower-case server name: its own, else the one of the longest
/// suffix, else the default; without a name the default only.
pub fn find_chain<'a>(table: &'a SniTable, sni: Option<&str>) -> Option<&'a Arc<TlsChain>> {
    let named = sni.and_then(|name| {
        table.exact.get(name).or_else(|| {
            // A suffix starts with its dot and matches below it only, so that
            // the first dot from the left begins the longest candidate.
            name.match_indices('.')
                .filter(|(at, _)| *at > 0)
                .find_map(|(at, _)| table.suffixes.get(&name[at..]))
        })
    });
    named.or(table.default.as_ref())
}

/// The HTTP table a kept connection is to use now: that of its listener and
/// server name, when there still is one.
pub fn http_table(listener: Option<&Listener>, sni: Option<&str>) -> Option<Arc<HttpTable>> {
    match &listener?.table {
        ListenerTable::PlainHttp(table) => Some(Arc::clone(table)),
        ListenerTable::Tls(table) => match &find_chain(table, sni)?.action {
            ChainAction::TerminateHttp(_, table) => Some(Arc::clone(table)),
            _ => None,
        },
        ListenerTable::Forward(_) => None,
    }
}
