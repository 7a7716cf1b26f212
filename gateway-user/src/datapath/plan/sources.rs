// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Source lists: which are there, which are to come, which can go.
//!
//! A list never changes: other prefixes are another list, complete before a
//! service names it and taken apart after none does any more. An id is given
//! out again only after all others, so that a program that has just read it
//! never finds another list behind it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use gateway_common::source::NO_SOURCE_LIST;

use crate::{
    datapath::plan::{MapOp, State},
    model::SourcePrefix,
};

/// The list of services that take nobody: no prefix is ever added to it.
const NOBODY: u32 = u32::MAX;

/// What the kernel's source map holds.
#[derive(Clone, Debug)]
pub struct SourceLists {
    lists: BTreeMap<u32, BTreeSet<SourcePrefix>>,
    entries: usize,
    capacity: usize,
    /// The last id given out.
    last: u32,
}

/// Where the lists of a plan are.
#[derive(Debug, Default)]
pub struct Placement {
    ids: HashMap<*const SourcePrefix, u32>,
    /// To be run before services are written.
    pub before: Vec<MapOp>,
    /// To be run after.
    pub after: Vec<MapOp>,
}

impl Placement {
    /// The id of a list; none when it found no room.
    pub fn id(&self, list: Option<&Arc<[SourcePrefix]>>) -> Option<u32> {
        match list {
            None => Some(NO_SOURCE_LIST),
            Some(list) if list.is_empty() => Some(NOBODY),
            Some(list) => self.ids.get(&list.as_ptr()).copied(),
        }
    }
}

impl SourceLists {
    /// An empty map of `capacity` entries.
    pub fn new(capacity: usize) -> Self {
        Self {
            lists: BTreeMap::new(),
            entries: 0,
            capacity,
            last: NO_SOURCE_LIST,
        }
    }

    /// Records a prefix that the map has.
    pub fn add(&mut self, list: u32, prefix: SourcePrefix) {
        self.last = self.last.max(list);
        if self.lists.entry(list).or_default().insert(prefix) {
            self.entries += 1;
        }
    }

    /// Records a prefix that the map does not have any more.
    pub fn remove(&mut self, list: u32, prefix: SourcePrefix) {
        let Some(prefixes) = self.lists.get_mut(&list) else {
            return;
        };
        if prefixes.remove(&prefix) {
            self.entries -= 1;
        }
        if prefixes.is_empty() {
            self.lists.remove(&list);
        }
    }

    fn removal(&self, lists: &BTreeSet<u32>) -> Vec<MapOp> {
        let of = |id: &u32| {
            let prefixes = self.lists[id].iter();
            let id = *id;
            prefixes.map(move |prefix| MapOp::RemoveSource(id, *prefix))
        };
        lists.iter().flat_map(of).collect()
    }

    fn next_id(&mut self, taken: &BTreeSet<u32>) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            let id = self.last;
            if id != NO_SOURCE_LIST
                && id != NOBODY
                && !self.lists.contains_key(&id)
                && !taken.contains(&id)
            {
                return id;
            }
        }
    }
}

/// Finds or makes a place for every list of `wanted`.
pub fn place<'a>(
    state: &mut State,
    wanted: impl Iterator<Item = &'a Arc<[SourcePrefix]>>,
) -> Placement {
    let named = state.services.values().map(|old| old.value.source_list);
    let named: BTreeSet<u32> = named.collect();
    let mut placement = Placement::default();
    let mut distinct: BTreeMap<&[SourcePrefix], Vec<*const SourcePrefix>> = BTreeMap::new();
    for list in wanted.filter(|list| !list.is_empty()) {
        let places = distinct.entry(list).or_default();
        if !places.contains(&list.as_ptr()) {
            places.push(list.as_ptr());
        }
    }

    let sources = &mut state.sources;
    let mut kept = BTreeSet::new();
    for (id, prefixes) in &sources.lists {
        let prefixes: Vec<SourcePrefix> = prefixes.iter().copied().collect();
        if let Some(places) = distinct.remove(&prefixes[..]) {
            placement.ids.extend(places.into_iter().map(|at| (at, *id)));
            kept.insert(*id);
        }
    }
    // Left by a plan that was broken off: nothing names them.
    let ids = || sources.lists.keys().copied();
    let orphans: BTreeSet<u32> = ids()
        .filter(|id| !kept.contains(id) && !named.contains(id))
        .collect();
    let stale: BTreeSet<u32> = ids()
        .filter(|id| !kept.contains(id) && named.contains(id))
        .collect();
    placement.before = sources.removal(&orphans);
    placement.after = sources.removal(&stale);
    let mut entries = sources.entries - placement.before.len();
    for (list, places) in distinct {
        if entries + list.len() > sources.capacity {
            continue;
        }
        entries += list.len();
        let id = sources.next_id(&named);
        let add = list.iter().map(|prefix| MapOp::SetSource(id, *prefix));
        placement.before.extend(add);
        placement.ids.extend(places.into_iter().map(|at| (at, id)));
    }
    placement
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        net::{Ipv4Addr, SocketAddr},
        sync::Arc,
    };

    use gateway_common::{guard::Guard, service::ServiceValue};

    use crate::{
        datapath::{
            Destination,
            plan::{MapOp, Plan, State, plan, tests::SETTINGS},
            serves::NotInKernel,
            tables::{Entry, Tables},
        },
        model::{SourcePrefix, Sources},
    };

    type List = Option<Arc<[SourcePrefix]>>;

    fn list(networks: &[&str]) -> List {
        let networks = networks.iter().map(|text| text.parse().expect(text));
        Sources::of(networks).prefixes().map(Arc::from)
    }

    fn destination(port: u16) -> Destination {
        SocketAddr::from((Ipv4Addr::new(10, 97, 0, 1), port)).into()
    }

    fn wanted(services: &[(u16, &List)]) -> Tables {
        let entry = |(port, sources): &(u16, &List)| {
            let entry = Entry {
                service_id: u32::from(*port),
                ring: Arc::default(),
                hash_policy: 0,
                established_timeout_s: 0,
                sources: (*sources).clone(),
                guard: Guard::NONE,
            };
            (destination(*port), entry)
        };
        Tables {
            services: services.iter().map(entry).collect(),
            ..Tables::default()
        }
    }

    fn state(capacity: usize) -> State {
        State::new(SETTINGS, 64, 100, capacity)
    }

    fn run(state: &mut State, ops: &[MapOp]) {
        for op in ops {
            state.applied(op);
        }
    }

    fn prefixes(state: &State, value: &ServiceValue) -> BTreeSet<SourcePrefix> {
        let lists = &state.sources.lists;
        lists.get(&value.source_list).cloned().unwrap_or_default()
    }

    /// What each service has, by port.
    fn in_force(state: &State) -> BTreeMap<u16, (u32, BTreeSet<SourcePrefix>)> {
        let services = state.services.iter();
        services
            .map(|(destination, service)| {
                let value = &service.value;
                let prefixes = prefixes(state, value);
                (destination.address.port(), (value.source_list, prefixes))
            })
            .collect()
    }

    #[test]
    fn equal_lists_are_one_and_an_unchanged_plan_does_nothing() {
        let mut state = state(100);
        let (one, same) = (list(&["10.0.0.0/8"]), list(&["10.0.0.0/8"]));
        let (nobody, everyone) = (list(&[]), None);
        let tables = wanted(&[(1, &one), (2, &same), (3, &nobody), (4, &everyone)]);
        let Plan { ops, proxied } = plan(&mut state, &tables);
        assert!(proxied.is_empty());
        run(&mut state, &ops);
        let now = in_force(&state);
        assert_eq!(now[&1], now[&2]);
        assert_eq!(now[&1].1.len(), 1);
        assert!(now[&3].1.is_empty() && now[&3].0 != 0);
        assert_eq!(now[&4].0, 0);
        assert_eq!(state.sources.entries, 1);
        assert_eq!(plan(&mut state, &tables).ops, []);
    }

    #[test]
    fn a_service_never_names_a_list_that_is_not_complete() {
        let (old, new) = (
            list(&["10.0.0.0/8", "192.0.2.0/24", "fd00::/8"]),
            list(&["10.0.0.0/8", "198.51.100.0/24"]),
        );
        let (before, after) = (wanted(&[(1, &old)]), wanted(&[(1, &new)]));
        let whole = |list: &List| list.iter().flat_map(|l| l.iter().copied()).collect();
        let (whole_old, whole_new): (BTreeSet<_>, BTreeSet<_>) = (whole(&old), whole(&new));
        let mut start = state(100);
        let ops = plan(&mut start, &before).ops;
        run(&mut start, &ops);
        let steps = plan(&mut start.clone(), &after).ops.len();
        for stop in 0..=steps {
            let mut state = start.clone();
            let ops = plan(&mut state, &after).ops;
            for op in &ops[..stop] {
                state.applied(op);
                let (_, now) = in_force(&state)[&1].clone();
                assert!(now == whole_old || now == whole_new, "after {op:?}");
            }
            // The next plan finishes, whatever was left.
            let ops = plan(&mut state, &after).ops;
            run(&mut state, &ops);
            assert_eq!(in_force(&state)[&1].1, whole_new);
            assert_eq!(state.sources.entries, whole_new.len(), "stopped at {stop}");
        }
    }

    #[test]
    fn a_service_whose_list_finds_no_room_is_left_to_the_agent() {
        let mut state = state(2);
        let (small, large) = (
            list(&["10.0.0.0/8"]),
            list(&["10.0.0.0/8", "192.0.2.0/24", "fd00::/8"]),
        );
        let tables = wanted(&[(1, &small), (2, &large)]);
        let Plan { ops, proxied } = plan(&mut state, &tables);
        run(&mut state, &ops);
        let left: Vec<_> = proxied
            .iter()
            .map(|one| (one.destination.address.port(), one.reason))
            .collect();
        assert_eq!(left, [(2, NotInKernel::SourcesFull)]);
        assert_eq!(in_force(&state).keys().copied().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn an_id_is_not_given_out_again_at_once() {
        let mut state = state(100);
        let mut seen = BTreeSet::new();
        for host in 1..=5 {
            let text = format!("10.0.0.{host}/32");
            let ops = plan(&mut state, &wanted(&[(1, &list(&[&text]))])).ops;
            run(&mut state, &ops);
            assert!(seen.insert(in_force(&state)[&1].0));
        }
    }
}
