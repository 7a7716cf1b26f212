// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What one packet costs in the kernel programs: nanoseconds by kind of packet,
//! at tc, at XDP and at socket look-up. Prints one JSON object a line.
//!
//! BPF_PROG_TEST_RUN with `repeat` hands a program its own output again, so a
//! program that rewrites would be measured passing on what it has sent. Tried
//! for a hit at tc, on one machine, each less an empty program run alike:
//!
//! | method | ns |
//! |---|---|
//! | one packet a call, clock of this process around 20,000 calls | 460 to 550 |
//! | one packet a call, the kernel's statistics (`run_time_ns`) | 400 |
//! | one packet a call, the kernel's clock around the run | 370 to 380 |
//! | 64 packets a call, the kernel's clock, a flow that turns them round | 250 to 270 |
//!
//! The first is the difference of two large numbers. The second and third also
//! pay for caches and branches that a system call has left cold. The last is
//! what a driver's burst costs: a second flow maps what the first one sends back
//! to what came in, so that each run is a hit. It is used at tc. At XDP the
//! kernel waits for a grace period around each call with `repeat`, and a burst
//! after that sleep costs more a packet than single ones do (360 to 460 ns, not
//! 240); so there it is the third, and for packets that stay as they are a very
//! long repetition.
//!
//! Runs of the empty program alternate with those measured. The programs' own
//! counters are compared before and after: each run took the way that it is
//! named after.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    os::fd::{AsFd, OwnedFd},
};

use aya::{
    maps::{HashMap, SockMap},
    programs::{SchedClassifier, SkLookup, Xdp},
};
use gateway_common::{
    addr::Addr16,
    counters::VerdictCounter,
    flow::{DIR_TO_BACKEND, DIR_TO_CLIENT, FlowKey, FlowRef, SLOT_ACTIVE, SLOT_FREE},
    names,
    steer::{SteerKey, SteerValue},
    tcp_state::TCP_ESTABLISHED,
};
use gateway_tests::skip;
use serde_json::json;

use crate::{
    executed::Executed,
    kinds::{V4, V6},
    lab::{Hook, Lab, WIRE, ip},
    packet::{ACK, BACKEND, CLIENT, SYN, SYN_ACK, Segment, VIP, at},
    timed::Kind,
};

mod executed;
mod kinds;
#[expect(dead_code, reason = "the test target `bpf` uses all of it")]
mod lab;
#[expect(dead_code, reason = "the test target `bpf` uses all of it")]
mod maps;
#[expect(dead_code, reason = "the test target `bpf` uses all of it")]
mod packet;
mod timed;

/// How often a program runs in a batch.
#[derive(Clone, Copy)]
struct Pace {
    /// Calls of the kernel.
    calls: usize,
    /// Runs in each.
    repeat: u32,
}

/// What a driver hands over at once (NAPI_POLL_WEIGHT of the kernel).
const BURSTS: Pace = Pace {
    calls: 1_000,
    repeat: 64,
};
const SINGLE: Pace = Pace {
    calls: 1_000,
    repeat: 1,
};
/// For packets that stay as they are, at XDP: the sleep before does not matter
/// any more.
const LONG: Pace = Pace {
    calls: 3,
    repeat: 20_000,
};
/// The first slot of the flows that are made and removed for each batch.
const FIRST_SLOT: u32 = 2;

fn main() {
    let options = Options::read();
    if !skip::is_root() {
        return skip::skipped("loading kernel programs needs root");
    }
    for hook in [Hook::Tc, Hook::Xdp] {
        let mut bench = Bench::new(hook, options.clone());
        bench.bursts();
        bench.single();
        if hook == Hook::Xdp {
            bench.programs();
            bench.steering();
        }
    }
}

/// What the command line asks for.
#[derive(Clone)]
struct Options {
    /// `--batches N`.
    batches: usize,
    /// `--only TEXT`: cases whose name contains it, for a profiler.
    only: String,
}

impl Options {
    fn read() -> Self {
        let mut options = Self {
            batches: 20,
            only: String::new(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--batches" => {
                    let number = arguments.next().and_then(|text| text.parse().ok());
                    options.batches = number
                        .filter(|&number| number > 0)
                        .expect("--batches takes a number over 0");
                }
                "--only" => options.only = arguments.next().expect("--only takes a text"),
                other => panic!("{other}: the options are --batches N and --only TEXT"),
            }
        }
        options
    }
}

/// The programs of one hook, and what they are measured against.
struct Bench {
    lab: Lab,
    options: Options,
    program: OwnedFd,
    empty: OwnedFd,
    executed: Executed,
}

impl Bench {
    fn new(hook: Hook, options: Options) -> Self {
        let mut lab = Lab::new(hook);
        let program = match hook {
            Hook::Tc => {
                let tc: &mut SchedClassifier = lab::program(&mut lab.ebpf, names::PROG_TC);
                tc.fd().unwrap().as_fd().try_clone_to_owned()
            }
            Hook::Xdp => {
                let xdp: &mut Xdp = lab::program(&mut lab.ebpf, names::PROG_XDP);
                xdp.fd().unwrap().as_fd().try_clone_to_owned()
            }
        };
        let empty = match hook {
            Hook::Tc => timed::empty_program(Kind::Tc),
            Hook::Xdp => timed::empty_program(Kind::Xdp),
        };
        configure(&mut lab);
        Self {
            lab,
            options,
            program: program.unwrap(),
            empty,
            executed: Executed::new(),
        }
    }

    /// Packets that a burst is made of.
    fn bursts(&mut self) {
        for case in kinds::repeated() {
            if !case.name.contains(&self.options.only) {
                continue;
            }
            let pace = match (self.lab.hook, case.counter) {
                (Hook::Tc, _) => BURSTS,
                (Hook::Xdp, VerdictCounter::Forwarded) => SINGLE,
                (Hook::Xdp, _) => LONG,
            };
            let before = self.lab.verdicts(case.counter);
            let context = self.context(case.interface, &case.frame);
            let frames = [case.frame];
            let figures = (0..self.options.batches)
                .map(|_| self.batch(&frames, &context, pace))
                .collect();
            let runs = self.lab.verdicts(case.counter) - before;
            assert_eq!(
                runs,
                self.runs(pace),
                "{}: some went another way",
                case.name
            );
            let hook = hook_name(self.lab.hook);
            self.report(hook, case.name, pace, figures);
        }
    }

    /// Packets that are measured once each: new flows, then one more on each.
    fn single(&mut self) {
        const NEW: &str = "miss: new flow";
        const KNOWN: &str = "1,000 known flows in turn";
        if ![NEW, KNOWN]
            .iter()
            .any(|name| name.contains(&self.options.only))
        {
            return;
        }
        let (mut new, mut known) = (Vec::new(), Vec::new());
        let before = self.lab.verdicts(VerdictCounter::Forwarded);
        for number in 0..self.options.batches {
            let clients: Vec<_> = (0..SINGLE.calls)
                .map(|call| {
                    // Another address than that of the flow there is.
                    let port = 1024 + (number * SINGLE.calls + call) % 60_000;
                    SocketAddr::new(Ipv4Addr::new(192, 0, 2, 3).into(), port as u16)
                })
                .collect();
            let slots = FIRST_SLOT..FIRST_SLOT + SINGLE.calls as u32;
            self.lab.free_slots(slots.clone());
            for (flags, figures) in [(SYN, &mut new), (ACK, &mut known)] {
                let frames: Vec<_> = clients
                    .iter()
                    .map(|&client| Segment::from_client(client, at(VIP), flags).frame())
                    .collect();
                let context = self.context(WIRE, &frames[0]);
                figures.push(self.batch(&frames, &context, SINGLE));
            }
            self.forget(&clients, slots);
        }
        let runs = self.lab.verdicts(VerdictCounter::Forwarded) - before;
        assert_eq!(runs, 2 * self.runs(SINGLE), "not all were forwarded");
        let hook = hook_name(self.lab.hook);
        self.report(hook, NEW, SINGLE, new);
        self.report(hook, KNOWN, SINGLE, known);
    }

    /// The program at socket look-up, on a steered listener.
    fn steering(&mut self) {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let sockets = self.lab.ebpf.map_mut(names::MAP_SOCKETS).unwrap();
        let mut sockets: SockMap<_> = sockets.try_into().unwrap();
        sockets.set(0, &listener, 0).unwrap();
        let steer = self.lab.ebpf.map_mut(names::MAP_STEER).unwrap();
        let mut steer: HashMap<_, SteerKey, SteerValue> = steer.try_into().unwrap();
        for addr in [
            Addr16::from(IpAddr::from(V4)),
            Addr16::from(IpAddr::from(V6)),
        ] {
            let key = SteerKey {
                addr,
                port_be: 443u16.to_be(),
                last_port_be: 443u16.to_be(),
                proto: 6,
                _pad: [0; 3],
            };
            let value = SteerValue {
                socket_base: 0,
                socket_count: 1,
            };
            steer.insert(key, value, 0).unwrap();
        }
        let program: &mut SkLookup = lab::program(&mut self.lab.ebpf, names::PROG_SK_LOOKUP);
        self.program = program.fd().unwrap().as_fd().try_clone_to_owned().unwrap();
        self.empty = timed::empty_program(Kind::SkLookup);
        for (name, context, steered) in [
            ("steered", kinds::look_up(V4.into(), 443), true),
            ("steered, IPv6", kinds::look_up(V6.into(), 443), true),
            ("pass", kinds::look_up(V4.into(), 444), false),
        ] {
            if !name.contains(&self.options.only) {
                continue;
            }
            let before = self.lab.verdicts(VerdictCounter::Steered);
            let figures = (0..self.options.batches)
                .map(|_| self.batch(&[Vec::new()], &context, BURSTS))
                .collect();
            let runs = self.lab.verdicts(VerdictCounter::Steered) - before;
            assert_eq!(runs, if steered { self.runs(BURSTS) } else { 0 }, "{name}");
            self.report("sk_lookup", name, BURSTS, figures);
        }
    }

    /// How large the programs are.
    fn programs(&self) {
        for name in [names::PROG_TC, names::PROG_XDP, names::PROG_SK_LOOKUP] {
            let info = lab::program_info(&self.lab, name);
            let line = json!({
                "program": name,
                "instructions": info.size_translated().unwrap() / 8,
                "verified": info.verified_instruction_count().unwrap(),
            });
            println!("{line}");
        }
    }

    /// Runs of all batches of one case.
    fn runs(&self, pace: Pace) -> u64 {
        (self.options.batches * pace.calls) as u64 * u64::from(pace.repeat)
    }

    /// Measures calls that take the frames in turn, each right after one of the
    /// empty program.
    fn batch(&mut self, frames: &[Vec<u8>], context: &[u8], pace: Pace) -> Figures {
        let Pace { calls, repeat } = pace;
        let (mut empty, mut measured) = (Vec::new(), Vec::new());
        let Self {
            program,
            empty: empty_program,
            executed,
            ..
        } = self;
        executed.reset();
        for frame in frames.iter().cycle().take(calls) {
            let run = || timed::run(empty_program.as_fd(), frame, context, repeat);
            empty.push(executed.empty(run));
            let run = || timed::run(program.as_fd(), frame, context, repeat);
            measured.push(executed.measured(run));
        }
        let empty_ns = middle(&mut empty);
        Figures {
            ns: middle(&mut measured) - empty_ns,
            empty_ns,
            instructions: executed
                .difference()
                .map(|sum| sum / (calls as f64 * f64::from(repeat))),
        }
    }

    /// Removes the flows of a batch.
    fn forget(&mut self, clients: &[SocketAddr], slots: Range<u32>) {
        let flows = self.lab.ebpf.map_mut(names::MAP_FLOWS).unwrap();
        let mut flows: HashMap<_, FlowKey, FlowRef> = flows.try_into().unwrap();
        for &client in clients {
            flows.remove(&maps::key(client, at(VIP))).unwrap();
            flows.remove(&maps::key(at(BACKEND), client)).unwrap();
        }
        for index in slots {
            let mut slot = self.lab.slot(index);
            slot.state = SLOT_FREE;
            self.lab.set_slot(index, slot);
        }
    }

    fn context(&self, interface: &str, frame: &[u8]) -> Vec<u8> {
        let ifindex = lab::interface_index(interface);
        match self.lab.hook {
            Hook::Tc => lab::skb_context(ifindex, 0).to_vec(),
            Hook::Xdp => lab::xdp_context(ifindex, frame.len()).to_vec(),
        }
    }

    fn report(&self, hook: &str, case: &str, pace: Pace, mut figures: Vec<Figures>) {
        figures.sort_by(|a, b| a.ns.total_cmp(&b.ns));
        let middle = &figures[figures.len() / 2];
        let line = json!({
            "hook": hook,
            "case": case,
            "burst": pace.repeat,
            "ns": middle.ns,
            "min": figures[0].ns,
            "max": figures[figures.len() - 1].ns,
            "empty_ns": middle.empty_ns,
            "batches": figures.len(),
            "calls": pace.calls,
            "executed": middle.instructions,
            "not_executed": self.executed.missing(),
            "note": kinds::note(hook, case),
        });
        println!("{line}");
    }
}

/// What one batch says about one run.
struct Figures {
    /// Nanoseconds, less those of the empty program.
    ns: f64,
    empty_ns: f64,
    /// Executed, less those of the empty program.
    instructions: Option<f64>,
}

/// One service, one established flow, and its mirror: a flow that turns the
/// packets that leave into those that came. So each run of a burst hits.
fn configure(lab: &mut Lab) {
    let (client, vip, backend) = (at(CLIENT), at(VIP), at(BACKEND));
    // The mirror's packets go out where the real ones do.
    ip("route add 198.51.100.0/24 via 10.1.0.11 dev pods");
    lab.free_slots([0]);
    lab.dnat_backend(1, backend);
    lab.service(vip, &[1]);
    lab.expect_forwarded(&Segment::from_client(client, vip, SYN), client, backend);
    lab.expect_forwarded(
        &Segment::from_backend(backend, client, SYN_ACK),
        vip,
        client,
    );
    lab.expect_forwarded(&Segment::from_client(client, vip, ACK), client, backend);
    let mut slot = lab.slot(0);
    assert_eq!((slot.state, slot.tcp_state), (SLOT_ACTIVE, TCP_ESTABLISHED));
    for direction in [DIR_TO_BACKEND, DIR_TO_CLIENT] {
        let key = lab.slot(0).key(direction);
        let mirror = &mut slot.dir[direction as usize];
        (mirror.new_src, mirror.new_dst) = (key.src, key.dst);
        (mirror.new_src_port_be, mirror.new_dst_port_be) = (key.src_port_be, key.dst_port_be);
    }
    for direction in [DIR_TO_BACKEND, DIR_TO_CLIENT] {
        let reference = FlowRef {
            slot: 1,
            generation: slot.generation,
            direction,
        };
        lab.set_flow(&slot.key(direction), reference);
    }
    lab.set_slot(1, slot);
}

/// The mean without the lowest and the highest quarter: a clock that goes in
/// steps of 10 ns has no finer median.
fn middle(values: &mut [u32]) -> f64 {
    values.sort_unstable();
    let inner = &values[values.len() / 4..values.len() - values.len() / 4];
    inner.iter().copied().map(f64::from).sum::<f64>() / inner.len() as f64
}

fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Tc => "tc",
        Hook::Xdp => "xdp",
    }
}
