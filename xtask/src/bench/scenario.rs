// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The table of scenarios: what is served, which load asks for it, who takes
//! part.

use anyhow::Result;

use super::{
    configuration,
    contender::Contender,
    idle,
    load::{Load, wrk::Requests},
    packet,
    sample::Figure,
    stage::Stage,
};

/// What a contender serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// TCP to iperf3 of backend 1.
    L4Bulk,
    /// TCP to the web servers of all three backends.
    L4Http,
    /// TLS to the web servers of all three backends, told by the server name,
    /// not decrypted.
    Sni,
    /// HTTPS, decrypted; HTTP/1.1 to all three backends.
    Https,
    /// [`Service::Https`] for clients that speak HTTP/2.
    H2,
    /// HTTP to all three backends.
    Http,
    /// HTTP with [`ROUTES`] path prefixes; each leads to all three backends.
    HttpRoutes,
}

impl Service {
    /// Whether the client speaks TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Sni | Self::Https | Self::H2)
    }

    /// The port it is served on, by a contender and, for `direct`, by the
    /// backend itself.
    pub fn port(self) -> u16 {
        match self {
            Self::L4Bulk => 5201,
            Self::L4Http | Self::Http | Self::HttpRoutes => 8080,
            Self::Sni | Self::Https | Self::H2 => 8443,
        }
    }

    /// The port of the backends that contenders connect to.
    pub fn backend_port(self) -> u16 {
        match self {
            Self::L4Bulk => 5201,
            Self::L4Http | Self::Http | Self::HttpRoutes | Self::Https | Self::H2 => 8080,
            Self::Sni => 8443,
        }
    }
}

/// Path prefixes of [`Service::HttpRoutes`].
pub const ROUTES: usize = 1000;

/// One of them, from 0: `/service-0000/`. Any path below it is served.
pub fn route_prefix(index: usize) -> String {
    format!("/service-{index:04}/")
}

/// A row of the table.
pub struct Scenario {
    /// As in `--only` and in reports.
    pub name: &'static str,
    /// What is done.
    pub kind: Kind,
}

impl Scenario {
    /// Whether `--only PATTERN` means it: its name, or a beginning of it up to
    /// a hyphen.
    pub fn matches(&self, pattern: &str) -> bool {
        self.name
            .strip_prefix(pattern)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

/// What a scenario does.
pub enum Kind {
    /// Measures contenders side by side.
    Compare(Compare),
    /// Measures Sluice alone.
    Figures(fn(&Stage<'_>) -> Result<Vec<Figure>>),
}

/// A scenario with contenders.
pub struct Compare {
    /// What they serve.
    pub service: Service,
    /// What asks for it.
    pub plan: Plan,
    /// Who takes part, in the order of a round.
    pub contenders: &'static [Contender],
}

/// The load of a scenario.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Plan {
    /// As much as goes.
    Most(Load),
    /// Half of what the slowest contender reaches in the scenario of this name
    /// with this load, the same for all.
    HalfOfSlowest(&'static str, Load),
}

use Contender::{
    Direct, Envoy, Haproxy, Nftables, Nginx, Sluice, SluiceHandoff, SluiceUserspace, SluiceXdp,
};

/// Layer 4: each of Sluice's paths, and who forwards TCP.
const L4: &[Contender] = &[
    Direct,
    Nftables,
    Haproxy,
    Nginx,
    Envoy,
    Sluice,
    SluiceUserspace,
    SluiceXdp,
];
/// Who reads server names, with what comes after it as the agent's or the kernel's;
/// and the NAT that forwards all of them to anybody.
const SNI: &[Contender] = &[
    Direct,
    Nftables,
    Haproxy,
    Nginx,
    Envoy,
    Sluice,
    SluiceHandoff,
];
/// Who reads HTTP. Sluice's agent does with either data path.
const L7: &[Contender] = &[Direct, Haproxy, Nginx, Envoy, Sluice];

/// All scenarios, in the order they run. A latency scenario comes after the one
/// it takes its rate from.
pub const SCENARIOS: &[Scenario] = &[
    compare("l4-bulk", Service::L4Bulk, bulk(1, false), L4),
    compare("l4-bulk-8", Service::L4Bulk, bulk(8, false), L4),
    compare("l4-bulk-reverse", Service::L4Bulk, bulk(1, true), L4),
    compare("l4-requests", Service::L4Http, most(Requests::KEPT), L4),
    compare("l4-connections", Service::L4Http, most(Requests::NEW), L4),
    compare("sni-bulk", Service::Sni, most(Requests::MEBIBYTE), SNI),
    compare("sni-requests", Service::Sni, most(Requests::KEPT), SNI),
    compare("sni-connections", Service::Sni, most(Requests::NEW), SNI),
    compare("https-requests", Service::Https, most(Requests::KEPT), L7),
    compare("https-connections", Service::Https, most(Requests::NEW), L7),
    compare("h2-requests", Service::H2, Plan::Most(Load::H2), L7),
    compare("http-requests", Service::Http, most(Requests::KEPT), L7),
    compare("http-100kb", Service::Http, most(Requests::HUNDRED_KB), L7),
    compare(
        "http-1000-routes",
        Service::HttpRoutes,
        most(Requests::ROUTES),
        L7,
    ),
    compare("latency-l4", Service::L4Http, half_of("l4-requests"), L4),
    compare("latency-sni", Service::Sni, half_of("sni-requests"), SNI),
    compare("latency-http", Service::Http, half_of("http-requests"), L7),
    figures("packet", packet::measure),
    figures("idle", idle::measure),
    figures("configuration", configuration::measure),
];

const fn compare(
    name: &'static str,
    service: Service,
    plan: Plan,
    contenders: &'static [Contender],
) -> Scenario {
    let kind = Kind::Compare(Compare {
        service,
        plan,
        contenders,
    });
    Scenario { name, kind }
}

const fn figures(name: &'static str, measure: fn(&Stage<'_>) -> Result<Vec<Figure>>) -> Scenario {
    let kind = Kind::Figures(measure);
    Scenario { name, kind }
}

const fn bulk(streams: u32, reverse: bool) -> Plan {
    Plan::Most(Load::Bulk { streams, reverse })
}

const fn most(requests: Requests) -> Plan {
    Plan::Most(Load::Requests(requests))
}

const fn half_of(scenario: &'static str) -> Plan {
    Plan::HalfOfSlowest(scenario, Load::Requests(Requests::KEPT))
}

#[cfg(test)]
mod tests {
    use super::{Kind, Plan, SCENARIOS, route_prefix};

    #[test]
    fn names_match_whole_words_from_the_beginning() {
        let count = |pattern: &str| SCENARIOS.iter().filter(|it| it.matches(pattern)).count();
        assert_eq!(count("l4"), 5);
        assert_eq!(count("l4-bulk"), 3);
        assert_eq!(count("http"), 3);
        assert_eq!(count("https-requests"), 1);
        assert_eq!(count("pack"), 0);
    }

    #[test]
    fn a_rate_is_taken_from_an_earlier_scenario() {
        for (index, scenario) in SCENARIOS.iter().enumerate() {
            if let Kind::Compare(compare) = &scenario.kind
                && let Plan::HalfOfSlowest(of, _) = compare.plan
            {
                assert!(SCENARIOS[..index].iter().any(|earlier| earlier.name == of));
            }
        }
    }

    #[test]
    fn no_route_is_the_beginning_of_another() {
        assert_eq!(route_prefix(7), "/service-0007/");
        assert!(!route_prefix(100).starts_with(&route_prefix(10)));
    }
}
