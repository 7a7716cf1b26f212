// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Random packets through the kernel programs and through the model: whatever
//! comes out, and whatever is counted and kept, is the same.
//!
//! One case is one packet through one program. Cases come in sequences, each on
//! a random map state of its own, so that there are answers, retransmissions,
//! fragments and errors about what was sent before. A sequence is made from one
//! number; where the two sides disagree, packets are left out while they still
//! do, and what remains is printed.
//!
//! `SLUICE_MODEL_CASES` (of both hooks together) and `SLUICE_MODEL_SEED` choose
//! how many and which.

mod compare;
pub mod draft;
mod errors;
mod handoffs;
mod install;
mod mutate;
mod traffic;
mod world;

use std::{env, fmt::Write, fs};

use gateway_common::{counters::VerdictCounter, drop_reason::DropReason};
use gateway_tests::skip;

use crate::{
    lab::{Hook, Lab, interface_index, ip},
    model::{
        Model,
        route::{COMMANDS, SLOW},
    },
    packet::hex,
};
use compare::Totals;
use traffic::{Frame, Traffic};
use world::World;

/// Cases at both hooks together.
const CASES: u64 = 200_000;
const SEED: u64 = 1;
/// Packets of the longest sequence.
const LONGEST: usize = 64;

#[test]
fn the_model_agrees_on_random_packets_at_tc() {
    prove(Hook::Tc);
}

#[test]
fn the_model_agrees_on_random_packets_at_xdp() {
    prove(Hook::Xdp);
}

fn prove(hook: Hook) {
    if !skip::is_root() {
        return skip::skipped("loading kernel programs needs root");
    }
    let number = |name: &str, default| match env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}: not a number: {text}")),
        Err(_) => default,
    };
    let cases = number("SLUICE_MODEL_CASES", CASES).div_ceil(2);
    let first = number("SLUICE_MODEL_SEED", SEED);
    let mut bench = Bench::new(hook);
    let (mut done, mut sequences) = (0, 0);
    while done < cases {
        // Sequences of one seed are not those of the next.
        let seed = first
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(sequences);
        done += bench.sequence(seed);
        sequences += 1;
    }
    eprintln!("{done} cases in {sequences} sequences at {hook:?} from seed {first}");
    bench.totals.report();
    bench.totals.assert_wide();
}

/// A lab, and what it has counted so far.
struct Bench {
    lab: Lab,
    wire: u32,
    pods: u32,
    totals: Totals,
}

impl Bench {
    fn new(hook: Hook) -> Self {
        let mut lab = Lab::new(hook);
        // How many are told what is too long depends on time: `too_big` has that.
        lab.exhaust_answers();
        for command in COMMANDS {
            if command.contains("addr add fd02") {
                fs::write(format!("/proc/sys/net/ipv6/conf/{SLOW}/disable_ipv6"), "0").unwrap();
            }
            ip(command);
        }
        Self {
            wire: interface_index(crate::lab::WIRE),
            pods: interface_index(crate::lab::PODS),
            totals: Totals::read(&lab),
            lab,
        }
    }

    /// Runs the sequence of a seed; its cases.
    fn sequence(&mut self, seed: u64) -> u64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let world = World::random(&mut random);
        let mut traffic = Traffic::new(random);
        let mut frames = Vec::new();
        let length = traffic.random.usize(1..=LONGEST);
        let result = self.run(&world, |model, ran| {
            if ran == length {
                return None;
            }
            let frame = traffic.next(&world, model);
            frames.push(frame.clone());
            Some(frame)
        });
        if let Err(disagreement) = result {
            self.fail(seed, &world, frames, disagreement);
        }
        frames.len() as u64
    }

    /// Runs frames on a map state until `next` has no more.
    fn run(
        &mut self,
        world: &World,
        mut next: impl FnMut(&Model, usize) -> Option<Frame>,
    ) -> Result<(), String> {
        let mut model = world.model(self.lab.hook);
        world.install(&mut self.lab);
        let mut result = Ok(());
        for ran in 0.. {
            let Some(frame) = next(&model, ran) else {
                break;
            };
            result = self.case(&mut model, &frame);
            if result.is_err() {
                break;
            }
        }
        let result = result.and_then(|()| compare::state(&mut self.lab, &model));
        world.remove(&mut self.lab, &model);
        result
    }

    /// One packet through both.
    fn case(&mut self, model: &mut Model, frame: &Frame) -> Result<(), String> {
        let expected = model.process(frame.interface, &frame.bytes);
        let ifindex = if frame.interface == crate::lab::WIRE {
            self.wire
        } else {
            self.pods
        };
        let outcome = self.lab.run_at(ifindex, &frame.bytes, 0);
        let counted = self.totals.advance(&self.lab);
        compare::outcome(&expected, &outcome, &counted, frame.bytes.len())
    }

    /// Leaves packets out as long as the two sides disagree, and says what is
    /// left.
    fn fail(&mut self, seed: u64, world: &World, mut frames: Vec<Frame>, mut why: String) -> ! {
        let mut chunk = frames.len().div_ceil(2).max(1);
        loop {
            let mut start = 0;
            while start < frames.len() {
                let mut fewer = frames.clone();
                fewer.drain(start..(start + chunk).min(frames.len()));
                match self.run(world, |_, ran| fewer.get(ran).cloned()) {
                    Err(still) => (frames, why) = (fewer, still),
                    Ok(()) => start += chunk,
                }
            }
            if chunk == 1 {
                break;
            }
            chunk = chunk.div_ceil(2);
        }
        let mut report = format!(
            "the model and the program at {:?} disagree; sequence {seed:#x}, {} packets are left\n",
            self.lab.hook,
            frames.len()
        );
        let _ = writeln!(report, "{world}");
        for Frame {
            interface,
            bytes,
            what,
        } in &frames
        {
            let _ = writeln!(report, "{what}, {} bytes in by {interface}:", bytes.len());
            // Behind the headers is nothing that matters.
            for line in hex(bytes).iter().take(12) {
                let _ = writeln!(report, "  {line}");
            }
        }
        panic!("{report}{why}");
    }
}

/// Names of drop reasons that no packet of these sequences can meet: there is
/// no socket, no helper fails, and one was retired.
const UNREACHED: [DropReason; 4] = [
    DropReason::Fragment,
    DropReason::HelperFailed,
    DropReason::NoSocket,
    DropReason::NewFlowFlood,
];
/// Verdicts likewise; a reply is known by its socket, which random packets have not.
const UNGIVEN: [VerdictCounter; 5] = [
    VerdictCounter::Steered,
    VerdictCounter::FlowAdopted,
    VerdictCounter::Challenged,
    VerdictCounter::Verified,
    VerdictCounter::ClientReply,
];
