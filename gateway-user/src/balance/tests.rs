// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Distribution, stability and counting.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    balance::Balancer,
    model::{ClusterId, HashPolicy, LoadBalancing, Sources},
    snapshot::{Cluster, Endpoint},
};

fn address(n: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 80))
}

fn cluster(load_balancing: LoadBalancing, weights: &[u32]) -> Arc<Cluster> {
    Arc::new(Cluster {
        id: ClusterId::new("backend", 80, None),
        endpoints: weights
            .iter()
            .enumerate()
            .map(|(n, &weight)| Endpoint {
                address: address(n as u16),
                weight,
            })
            .collect(),
        load_balancing,
        connect_timeout: Duration::from_secs(1),
        proxy_protocol: None,
        down: Vec::new(),
        leaving: Vec::new(),
        panic: false,
        health: None,
        sources: Sources::everyone(),
        source_address: crate::model::SourceAddress::Node,
    })
}

fn client(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, (n >> 8) as u8, n as u8], 40_000))
}

fn shares(picks: impl Iterator<Item = SocketAddr>) -> HashMap<SocketAddr, u32> {
    let mut shares = HashMap::new();
    for pick in picks {
        *shares.entry(pick).or_default() += 1;
    }
    shares
}

#[test]
fn weights_are_kept_by_every_algorithm() {
    for load_balancing in [
        LoadBalancing::LeastRequest,
        LoadBalancing::RoundRobin,
        LoadBalancing::Random,
    ] {
        let balancer = Balancer::new();
        let cluster = cluster(load_balancing, &[1, 3]);
        let shares = shares((0..40_000).map(|_| {
            let picked = balancer.pick(&cluster, client(1), &[]);
            picked.expect("an endpoint").address
        }));
        let second = shares[&address(1)];
        assert!(
            (29_000..=31_000).contains(&second),
            "{load_balancing:?}: {second}"
        );
    }
}

#[test]
fn round_robin_is_exact_and_smooth() {
    let balancer = Balancer::new();
    let cluster = cluster(LoadBalancing::RoundRobin, &[1, 1, 2]);
    let picks: Vec<_> = (0..400)
        .map(|_| {
            balancer
                .pick(&cluster, client(1), &[])
                .expect("an endpoint")
                .address
        })
        .collect();
    assert_eq!(
        shares(picks.iter().copied()),
        HashMap::from([(address(0), 100), (address(1), 100), (address(2), 200)])
    );
    let longest_run = picks.chunk_by(|a, b| a == b).map(<[_]>::len).max();
    assert!(longest_run <= Some(2), "{longest_run:?}");
}

#[test]
fn least_request_prefers_the_idle_endpoint() {
    let balancer = Balancer::new();
    let cluster = cluster(LoadBalancing::LeastRequest, &[1, 1]);
    let held: Vec<_> = (0..1000)
        .filter_map(|_| balancer.pick(&cluster, client(1), &[]))
        .collect();
    let shares = shares(held.iter().map(|picked| picked.address));
    assert!(
        shares.values().all(|&n| (490..=510).contains(&n)),
        "{shares:?}"
    );
    // All of one endpoint's connections end: new ones go there.
    let held: Vec<_> = held
        .into_iter()
        .filter(|picked| picked.address == address(1))
        .collect();
    let first = (0..100)
        .filter(|_| {
            balancer
                .pick(&cluster, client(1), &[])
                .expect("an endpoint")
                .address
                == address(0)
        })
        .count();
    assert!(
        first > 90,
        "{first} of 100 with {} on the other",
        held.len()
    );
}

#[test]
fn counts_survive_a_change_of_the_cluster() {
    let balancer = Balancer::new();
    let old = cluster(LoadBalancing::LeastRequest, &[1]);
    let held: Vec<_> = (0..100)
        .filter_map(|_| balancer.pick(&old, client(1), &[]))
        .collect();
    let new = cluster(LoadBalancing::LeastRequest, &[1, 1]);
    let fresh = (0..90)
        .filter_map(|_| balancer.pick(&new, client(1), &[]))
        .collect::<Vec<_>>()
        .iter()
        .filter(|picked| picked.address == address(1))
        .count();
    assert!(
        fresh > 45,
        "{fresh} of 90 to the new endpoint, {} on the old",
        held.len()
    );
}

#[test]
fn excluded_endpoints_are_never_chosen() {
    for load_balancing in [
        LoadBalancing::LeastRequest,
        LoadBalancing::RoundRobin,
        LoadBalancing::Random,
    ] {
        let balancer = Balancer::new();
        let cluster = cluster(load_balancing, &[1, 1, 1]);
        for policy in [HashPolicy::FiveTuple, HashPolicy::SourceAddress] {
            for n in 0..100 {
                let exclude = [address(0), address(2)];
                let picked = balancer.pick_for(&cluster, policy, client(n), &exclude);
                assert_eq!(picked.map(|picked| picked.address), Some(address(1)));
            }
            let all = [address(0), address(1), address(2)];
            assert!(
                balancer
                    .pick_for(&cluster, policy, client(1), &all)
                    .is_none()
            );
        }
    }
    assert!(
        Balancer::new()
            .pick(&cluster(LoadBalancing::Random, &[]), client(1), &[])
            .is_none()
    );
}

#[test]
fn one_client_keeps_to_one_endpoint_on_every_thread() {
    let cluster = cluster(LoadBalancing::LeastRequest, &[1, 2, 1]);
    let balancers = [Balancer::new(), Balancer::new()];
    let mut shares: HashMap<SocketAddr, u32> = HashMap::new();
    for n in 0..4000 {
        let picks = balancers.each_ref().map(|balancer| {
            balancer
                .pick_by_source(&cluster, client(n).ip(), &[])
                .expect("an endpoint")
                .address
        });
        assert_eq!(picks[0], picks[1]);
        *shares.entry(picks[0]).or_default() += 1;
    }
    assert!((1800..=2200).contains(&shares[&address(1)]), "{shares:?}");
}

#[test]
fn a_lost_endpoint_moves_only_its_own_clients() {
    let before = cluster(LoadBalancing::LeastRequest, &[1, 1, 1]);
    let after = cluster(LoadBalancing::LeastRequest, &[1, 1]);
    let balancer = Balancer::new();
    let pick = |cluster, n| {
        balancer
            .pick_by_source(cluster, client(n).ip(), &[])
            .map(|picked| picked.address)
    };
    for n in 0..1000 {
        let home = pick(&before, n);
        if home != Some(address(2)) {
            assert_eq!(pick(&after, n), home);
        }
    }
}

#[test]
fn weighted_choice_follows_the_weights() {
    let balancer = Balancer::new();
    let items = [("stable", 80), ("canary", 20), ("off", 0)];
    let mut counts: HashMap<&str, u32> = HashMap::new();
    for _ in 0..10_000 {
        *counts
            .entry(balancer.pick_weighted(&items).expect("an item"))
            .or_default() += 1;
    }
    assert!(
        (7800..=8200).contains(&counts["stable"]) && !counts.contains_key("off"),
        "{counts:?}"
    );
    let mut by_source: HashMap<&str, u32> = HashMap::new();
    for n in 0..10_000 {
        let first = balancer.pick_weighted_by_source(&items, client(n).ip());
        assert_eq!(
            first,
            balancer.pick_weighted_by_source(&items, client(n).ip())
        );
        *by_source.entry(first.expect("an item")).or_default() += 1;
    }
    assert!(
        (7700..=8300).contains(&by_source["stable"]),
        "{by_source:?}"
    );
    assert_eq!(balancer.pick_weighted::<u8>(&[]), None);
    assert_eq!(balancer.pick_weighted(&[("off", 0)]), None);
}
