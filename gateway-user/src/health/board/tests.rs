// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Verdicts and times of simulated endpoints.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::Board;
use crate::{
    health::{Outcome, Verdict, judge::Judge, schedule},
    model::{Probe, ProbeProtocol, ProbeTarget},
};

fn probe(interval_ms: u64, unhealthy: u32, healthy: u32) -> Probe {
    Probe {
        protocol: ProbeProtocol::Tcp,
        port: None,
        proxy_protocol: None,
        interval: Duration::from_millis(interval_ms),
        timeout: Duration::from_millis(interval_ms),
        unhealthy_threshold: unhealthy,
        healthy_threshold: healthy,
    }
}

fn target(number: u16, probe: &Arc<Probe>) -> ProbeTarget {
    ProbeTarget {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, number)),
        probe: Arc::clone(probe),
    }
}

fn outcome(passed: bool) -> Outcome {
    if passed {
        Outcome::Passed
    } else {
        Outcome::Refused
    }
}

proptest! {
    /// The verdict is the one that the last row of equal results, as long as
    /// the threshold, speaks for.
    #[test]
    fn a_verdict_turns_after_as_many_results_in_a_row_as_its_threshold(
        results in prop::collection::vec(any::<bool>(), 1..60),
        unhealthy in 1_u32..5,
        healthy in 1_u32..5,
    ) {
        let probe = probe(1_000, unhealthy, healthy);
        let mut judge = Judge::default();
        for end in 1..=results.len() {
            let turned = judge.take(results[end - 1], &probe);
            // From the definition: the latest place where a long enough row of
            // equal results ends, else the first result.
            let row = |passed: bool, length: u32| {
                let length = length as usize;
                (length..=end)
                    .rev()
                    .find(|at| results[at - length..*at].iter().all(|one| *one == passed))
            };
            let expected = match (row(true, healthy), row(false, unhealthy)) {
                (None, None) => results[0],
                (up, down) => {
                    let first = |found: Option<usize>, passed: bool| {
                        found.or((results[0] == passed).then_some(1)).unwrap_or(0)
                    };
                    first(up, true) > first(down, false)
                }
            };
            let expected = if expected { Verdict::Up } else { Verdict::Down };
            prop_assert_eq!(judge.verdict(), expected, "after {:?}", &results[..end]);
            prop_assert!(end > 1 || turned, "the first result decides");
        }
    }

    #[test]
    fn pauses_stay_within_their_bounds(
        interval_ms in 100_u64..3_600_000,
        unhealthy in 1_u32..100,
        chance in 0.0_f64..1.0,
    ) {
        let probe = probe(interval_ms, unhealthy, 2);
        let mut judge = Judge::default();
        let part = |judge: &Judge| {
            schedule::pause(&probe, judge, chance).as_secs_f64() / probe.interval.as_secs_f64()
        };
        prop_assert!((0.699..=0.901).contains(&part(&judge)));
        judge.take(true, &probe);
        prop_assert!((0.699..=0.901).contains(&part(&judge)));
        judge.take(false, &probe);
        if unhealthy > 1 {
            prop_assert!(part(&judge) * f64::from(unhealthy - 1) <= 0.101, "confirming");
        } else {
            prop_assert!((0.699..=0.901).contains(&part(&judge)), "down");
        }
    }

    /// The promise of the interval, for an endpoint whose probes take no time.
    #[test]
    fn an_endpoint_that_refuses_is_down_within_one_interval(
        seed in any::<u64>(),
        interval_ms in 100_u64..10_000,
        unhealthy in 1_u32..10,
        dies_after in 0.0_f64..5.0,
    ) {
        let probe = Arc::new(probe(interval_ms, unhealthy, 2));
        let mut board = Board::new(seed);
        let begin = Instant::now();
        board.want(&BTreeSet::from([target(1, &probe)]), begin);
        let dies = begin + probe.interval.mul_f64(dies_after);
        let down = loop {
            let now = board.next_due().expect("a probe is due");
            prop_assert!(now <= dies + probe.interval, "not down one interval later");
            let (id, _) = board.start(now).expect("it is due");
            board.finish(id, outcome(now < dies), now);
            if board.down().len() == 1 {
                break now;
            }
        };
        prop_assert!(down >= dies);
        prop_assert_eq!(board.report(down).late, 0);
    }
}

#[test]
fn probes_of_many_endpoints_spread_over_time() {
    let probe = Arc::new(probe(1_000, 2, 2));
    let targets: BTreeSet<ProbeTarget> = (1..=200).map(|port| target(port, &probe)).collect();
    let mut board = Board::new(1);
    let begin = Instant::now();
    board.want(&targets, begin);
    let mut starts = Vec::new();
    while let Some(now) = board
        .next_due()
        .filter(|at| *at < begin + 10 * probe.interval)
    {
        let (id, _) = board.start(now).expect("due");
        starts.push(now.duration_since(begin).as_millis());
        board.finish(id, Outcome::Passed, now);
    }
    // In the tenth interval no tenth of it has more than a fifth of the probes.
    let last: Vec<u128> = starts.into_iter().filter(|ms| *ms >= 9_000).collect();
    for tenth in (9_000..10_000).step_by(100) {
        let within = last
            .iter()
            .filter(|ms| (tenth..tenth + 100).contains(*ms))
            .count();
        assert!(within * 5 < last.len(), "{within} of {} probes", last.len());
    }
}

#[test]
fn a_target_that_left_is_forgotten_and_one_that_stays_is_not() {
    let probe = Arc::new(probe(1_000, 2, 2));
    let [a, b] = [1, 2].map(|port| target(port, &probe));
    let mut board = Board::new(1);
    let now = Instant::now();
    board.want(&BTreeSet::from([a.clone(), b.clone()]), now);
    assert_eq!(board.unknown(), 2);
    let jobs: Vec<_> = std::iter::from_fn(|| board.start(now)).collect();
    assert_eq!(jobs.len(), 2);
    assert_eq!(board.next_due(), None, "all are under way");
    for (id, _) in &jobs {
        let turn = board.finish(*id, Outcome::Refused, now).expect("turned");
        assert_eq!(turn.verdict, Verdict::Down);
    }
    assert_eq!(board.unknown(), 0);
    assert!(board.want(&BTreeSet::from([b.clone()]), now), "a was down");
    assert_eq!(board.down(), BTreeSet::from([b.clone()]));

    // It comes back while a probe of its earlier stay is under way.
    let due = board.next_due().expect("due");
    let (stale, _) = board.start(due).expect("b");
    board.want(&BTreeSet::new(), due);
    assert_eq!(board.next_due(), None);
    board.want(&BTreeSet::from([b]), due);
    assert_eq!(board.finish(stale, Outcome::Refused, due), None);
    assert_eq!(board.unknown(), 1, "the old answer is not for the new stay");
    assert!(board.down().is_empty());
}

#[test]
fn a_probe_that_could_not_be_made_says_nothing() {
    let probe = Arc::new(probe(1_000, 1, 1));
    let mut board = Board::new(1);
    let begin = Instant::now();
    board.want(&BTreeSet::from([target(1, &probe)]), begin);
    for wanted in [
        (Outcome::NotAsked, 1),
        (Outcome::Passed, 0),
        (Outcome::NotAsked, 0),
    ] {
        let now = board.next_due().expect("due");
        let (id, _) = board.start(now).expect("due");
        board.finish(id, wanted.0, now);
        assert_eq!(board.unknown(), wanted.1);
        assert!(board.down().is_empty());
    }
    let report = board.report(begin);
    assert_eq!((report.went_up, report.went_down), (1, 0));
    assert_eq!(report.probes.iter().map(|one| one.count).sum::<u64>(), 3);
}

#[test]
fn a_probe_that_waited_longer_than_its_interval_is_late() {
    let probe = Arc::new(probe(1_000, 1, 1));
    let mut board = Board::new(1);
    let begin = Instant::now();
    board.want(&BTreeSet::from([target(1, &probe)]), begin);
    let (id, _) = board
        .start(begin + Duration::from_millis(900))
        .expect("due");
    let now = begin + Duration::from_millis(900);
    board.finish(id, Outcome::Passed, now);
    assert_eq!(board.report(now).late, 0);
    let due = board.next_due().expect("due");
    board
        .start(due + Duration::from_millis(1_100))
        .expect("due");
    assert_eq!(board.report(due).late, 1);
}
