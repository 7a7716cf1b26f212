// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Choice of an endpoint: one algorithm a file.
//!
//! Every worker thread has one [`Balancer`]; nothing in it is shared, so that a
//! choice takes no lock. A new algorithm is a file with a `choose` function and
//! an arm in [`Balancer::pick`].

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use crate::{
    model::{ClusterId, HashPolicy, LoadBalancing},
    snapshot::{Cluster, Endpoint},
};

mod least_request;
mod random;
mod round_robin;
mod source_hash;

/// Chooses endpoints for one worker thread and counts what is active on each.
pub struct Balancer {
    clusters: RefCell<HashMap<ClusterId, State>>,
    rng: RefCell<fastrand::Rng>,
}

/// An endpoint chosen for one connection or request.
#[derive(Debug)]
pub struct Picked {
    /// Where.
    pub address: SocketAddr,
    /// Counts it as active until dropped.
    pub guard: ActiveGuard,
}

/// Counts one connection or request on an endpoint for as long as it lives.
#[derive(Debug)]
pub struct ActiveGuard(Rc<Cell<u32>>);

/// What a thread remembers of a cluster.
struct State {
    /// The cluster the vectors below follow; held, so that its address is not
    /// given to another one.
    cluster: Arc<Cluster>,
    /// Active connections and requests by endpoint, in the cluster's order.
    active: Vec<Rc<Cell<u32>>>,
    /// Every endpoint has the same weight.
    uniform: bool,
    /// Where the next turn of [`round_robin`] is.
    turn: round_robin::Turn,
}

/// What the algorithms choose from.
struct Candidates<'a> {
    endpoints: &'a [Endpoint],
    active: &'a [Rc<Cell<u32>>],
    uniform: bool,
    exclude: &'a [SocketAddr],
}

/// Clusters remembered before those that nothing uses are forgotten.
const REMEMBERED_CLUSTERS: usize = 256;

impl Balancer {
    /// Knows nothing yet.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            clusters: RefCell::new(HashMap::new()),
            rng: RefCell::new(fastrand::Rng::new()),
        })
    }

    /// An endpoint of `cluster` by its own algorithm, none of `exclude`; nothing
    /// when no other is left.
    pub fn pick(
        &self,
        cluster: &Arc<Cluster>,
        _client: SocketAddr,
        exclude: &[SocketAddr],
    ) -> Option<Picked> {
        self.choose(cluster, exclude, |candidates, turn, rng| {
            match cluster.load_balancing {
                LoadBalancing::LeastRequest => least_request::choose(candidates, rng),
                LoadBalancing::RoundRobin => round_robin::choose(candidates, turn, rng),
                LoadBalancing::Random => random::choose(candidates, rng),
            }
        })
    }

    /// The endpoint of `cluster` that belongs to the client's address, whatever
    /// the cluster's algorithm; the next best one when it is in `exclude`.
    pub fn pick_by_source(
        &self,
        cluster: &Arc<Cluster>,
        client: IpAddr,
        exclude: &[SocketAddr],
    ) -> Option<Picked> {
        self.choose(cluster, exclude, |candidates, _, _| {
            source_hash::choose(candidates, client)
        })
    }

    /// [`Self::pick`] or [`Self::pick_by_source`], as `policy` says.
    pub fn pick_for(
        &self,
        cluster: &Arc<Cluster>,
        policy: HashPolicy,
        client: SocketAddr,
        exclude: &[SocketAddr],
    ) -> Option<Picked> {
        match policy {
            HashPolicy::FiveTuple => self.pick(cluster, client, exclude),
            HashPolicy::SourceAddress => self.pick_by_source(cluster, client.ip(), exclude),
        }
    }

    /// One of `items` in proportion to weight. Nothing when the weights add up
    /// to 0.
    pub fn pick_weighted<'a, T>(&self, items: &'a [(T, u32)]) -> Option<&'a T> {
        match items {
            [] | [(_, 0)] => None,
            [(only, _)] => Some(only),
            _ => {
                let total: u64 = items.iter().map(|(_, weight)| u64::from(*weight)).sum();
                if total == 0 {
                    return None;
                }
                at_weight(items, self.rng.borrow_mut().u64(..total))
            }
        }
    }

    /// The same, the same one for every connection of one client.
    pub fn pick_weighted_by_source<'a, T>(
        &self,
        items: &'a [(T, u32)],
        client: IpAddr,
    ) -> Option<&'a T> {
        let total: u64 = items.iter().map(|(_, weight)| u64::from(*weight)).sum();
        if total == 0 {
            return None;
        }
        let share = u128::from(source_hash::address(client)) * u128::from(total);
        at_weight(items, (share >> 64) as u64)
    }

    fn choose(
        &self,
        cluster: &Arc<Cluster>,
        exclude: &[SocketAddr],
        algorithm: impl FnOnce(
            &Candidates<'_>,
            &mut round_robin::Turn,
            &mut fastrand::Rng,
        ) -> Option<usize>,
    ) -> Option<Picked> {
        if cluster.endpoints.is_empty() {
            return None;
        }
        let mut clusters = self.clusters.borrow_mut();
        if clusters.len() >= REMEMBERED_CLUSTERS && !clusters.contains_key(&cluster.id) {
            clusters.retain(|_, state| state.active.iter().any(|active| active.get() > 0));
        }
        let state = clusters
            .entry(cluster.id.clone())
            .or_insert_with(|| State::new(cluster));
        state.follow(cluster);
        let candidates = Candidates {
            endpoints: &cluster.endpoints,
            active: &state.active,
            uniform: state.uniform,
            exclude,
        };
        let index = algorithm(&candidates, &mut state.turn, &mut self.rng.borrow_mut())?;
        let count = state.active.get(index)?;
        Some(Picked {
            address: cluster.endpoints.get(index)?.address,
            guard: ActiveGuard::new(count),
        })
    }
}

impl ActiveGuard {
    fn new(count: &Rc<Cell<u32>>) -> Self {
        count.set(count.get().saturating_add(1));
        Self(Rc::clone(count))
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl State {
    fn new(cluster: &Arc<Cluster>) -> Self {
        Self {
            active: cluster.endpoints.iter().map(|_| Rc::default()).collect(),
            uniform: uniform(&cluster.endpoints),
            turn: round_robin::Turn::default(),
            cluster: Arc::clone(cluster),
        }
    }

    /// Keeps the counts of endpoints that are in the new version too.
    fn follow(&mut self, cluster: &Arc<Cluster>) {
        if Arc::ptr_eq(&self.cluster, cluster) {
            return;
        }
        if self.cluster.endpoints != cluster.endpoints {
            let known: HashMap<SocketAddr, &Rc<Cell<u32>>> = self
                .cluster
                .endpoints
                .iter()
                .map(|endpoint| endpoint.address)
                .zip(&self.active)
                .collect();
            self.active = cluster
                .endpoints
                .iter()
                .map(|endpoint| {
                    known
                        .get(&endpoint.address)
                        .map_or_else(Rc::default, |&c| Rc::clone(c))
                })
                .collect();
            self.uniform = uniform(&cluster.endpoints);
            self.turn = round_robin::Turn::default();
        }
        self.cluster = Arc::clone(cluster);
    }
}

impl Candidates<'_> {
    fn allowed(&self, index: usize) -> bool {
        self.exclude.is_empty()
            || self
                .endpoints
                .get(index)
                .is_some_and(|endpoint| !self.exclude.contains(&endpoint.address))
    }

    /// Weight of an endpoint, 0 when it is excluded.
    fn weight(&self, index: usize) -> u64 {
        match self.endpoints.get(index) {
            Some(endpoint) if self.allowed(index) => u64::from(endpoint.weight.max(1)),
            _ => 0,
        }
    }

    /// An endpoint at random in proportion to weight.
    fn draw(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        let count = self.endpoints.len();
        if self.uniform && self.exclude.is_empty() {
            return (count > 0).then(|| rng.usize(..count));
        }
        let total: u64 = (0..count).map(|index| self.weight(index)).sum();
        if total == 0 {
            return None;
        }
        let mut left = rng.u64(..total);
        (0..count).find(|&index| {
            let weight = self.weight(index);
            let found = left < weight;
            left = left.saturating_sub(weight);
            found
        })
    }

    fn active(&self, index: usize) -> u32 {
        self.active.get(index).map_or(0, |count| count.get())
    }
}

fn uniform(endpoints: &[Endpoint]) -> bool {
    endpoints
        .windows(2)
        .all(|pair| pair[0].weight == pair[1].weight)
}

/// The item that the point `at` of the weights laid end to end falls into.
fn at_weight<T>(items: &[(T, u32)], mut at: u64) -> Option<&T> {
    items.iter().find_map(|(item, weight)| {
        let weight = u64::from(*weight);
        if at < weight {
            return Some(item);
        }
        at -= weight;
        None
    })
}

#[cfg(test)]
mod tests;
