// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A namespace with two interfaces and the programs loaded in it.
//!
//! ```text
//! client 192.0.2.2   ── wire 192.0.2.1   │ gateway │ pods 10.1.0.1 ── backends 10.1.0.11 ..
//!        2001:db8::2          2001:db8::1  │         │      fd01::1              fd01::b
//! ```
//!
//! The neighbours exist as permanent entries only: nothing is ever sent.

use std::{
    fs, io,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::ProgramArray,
    programs::{
        Program, ProgramError, ProgramInfo, SchedClassifier, TestRun, TestRunOptions, Xdp, XdpMode,
    },
};
use gateway_common::names;
use gateway_tests::skip;
use gateway_user::datapath::object::OBJECT;

use crate::maps;

pub const WIRE: &str = "wire";
pub const PODS: &str = "pods";

pub const WIRE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const PODS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];

/// MAC address of the backend whose address ends in `last`.
pub const fn backend_mac(last: u8) -> [u8; 6] {
    [2, 0, 0, 0, 2, last]
}

/// Where the forwarding program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Tc,
    Xdp,
}

/// What a program decided, in the words of neither hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Pass,
    Drop,
    /// Out of another interface.
    Redirect,
    /// Out of the interface it came from (XDP only).
    Back,
}

/// The end of one run.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub action: Action,
    pub frame: Vec<u8>,
}

pub struct Lab {
    pub hook: Hook,
    pub ebpf: Ebpf,
}

/// Runs a case at both hooks, each in a fresh lab.
pub fn at_both_hooks(case: impl Fn(&mut Lab)) {
    if !skip::is_root() {
        return skip::skipped("loading kernel programs needs root");
    }
    for hook in [Hook::Tc, Hook::Xdp] {
        eprintln!("at {hook:?}");
        case(&mut Lab::new(hook));
    }
}

impl Lab {
    /// Moves this thread to new namespaces, makes the interfaces and loads the
    /// programs. All of it goes with the thread, or with the next call.
    pub fn new(hook: Hook) -> Self {
        unshare();
        for command in [
            "link set lo up",
            "link add wire address 02:00:00:00:00:01 type veth peer name client",
            "link add pods address 02:00:00:00:00:02 type veth peer name backends",
            "link set wire addrgenmode none",
            "link set pods addrgenmode none",
            "link set wire up",
            "link set pods up",
            "link set client up",
            "link set backends up",
            "addr add 192.0.2.1/24 dev wire",
            "addr add 10.1.0.1/24 dev pods",
            "addr add 2001:db8::1/64 dev wire nodad",
            "addr add fd01::1/64 dev pods nodad",
            // Neighbours are asked for from such an address.
            "addr add fe80::1/64 dev wire nodad",
            "addr add fe80::2/64 dev pods nodad",
            "neigh add 2001:db8::2 dev wire lladdr 02:00:00:00:01:02 nud permanent",
            "neigh add fd01::b dev pods lladdr 02:00:00:00:02:0b nud permanent",
            "neigh add 192.0.2.2 dev wire lladdr 02:00:00:00:01:02 nud permanent",
            "neigh add 10.1.0.11 dev pods lladdr 02:00:00:00:02:0b nud permanent",
            "neigh add 10.1.0.12 dev pods lladdr 02:00:00:00:02:0c nud permanent",
            "neigh add 10.1.0.13 dev pods lladdr 02:00:00:00:02:0d nud permanent",
        ] {
            // Only the gateway's own ends have IPv6, and only these addresses:
            // nobody there says anything by itself.
            if command.contains("addr add 192") {
                for interface in [WIRE, PODS] {
                    fs::write(
                        format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"),
                        "0",
                    )
                    .unwrap();
                }
            }
            ip(command);
        }
        set_forwarding(true);

        let mut ebpf = load();
        for (_, program) in ebpf.programs_mut() {
            match program {
                Program::Xdp(program) => retried(|| program.load()),
                Program::SchedClassifier(program) => retried(|| program.load()),
                Program::SkLookup(program) => retried(|| program.load()),
                other => panic!("nothing loads a program of type {:?}", other.prog_type()),
            }
        }
        for (map, index, name) in names::CALLED {
            let called = ebpf.program(name).unwrap().fd().unwrap().try_clone();
            let map = ebpf.map_mut(map).unwrap();
            let mut map: ProgramArray<_> = map.try_into().unwrap();
            map.set(index, &called.unwrap(), 0).unwrap();
        }
        // A veth registers its receive queues, which a run needs, only while
        // it has an XDP program.
        if hook == Hook::Xdp {
            let xdp: &mut Xdp = program(&mut ebpf, names::PROG_XDP);
            xdp.attach(WIRE, XdpMode::Driver).unwrap();
            xdp.attach(PODS, XdpMode::Driver).unwrap();
        }
        let mut lab = Self { hook, ebpf };
        maps::set_settings(&mut lab.ebpf);
        for interface in [WIRE, PODS] {
            lab.sends_redirected(interface, true);
        }
        lab
    }

    /// Runs the program on a frame that came in by `interface`.
    pub fn run(&mut self, interface: &str, frame: &[u8]) -> Outcome {
        self.run_segmented(interface, frame, 0)
    }

    /// How a packet goes back to the client that came in by the wire.
    pub fn to_client(&self) -> Action {
        match self.hook {
            Hook::Tc => Action::Redirect,
            Hook::Xdp => Action::Back,
        }
    }

    /// As [`Self::run`], for a super-packet of segments with `segment_len` bytes
    /// of payload (tc only).
    pub fn run_segmented(&mut self, interface: &str, frame: &[u8], segment_len: u32) -> Outcome {
        self.run_at(interface_index(interface), frame, segment_len)
    }

    /// As [`Self::run_segmented`], for the interface with an index.
    pub fn run_at(&mut self, ifindex: u32, frame: &[u8], segment_len: u32) -> Outcome {
        let mut out = vec![0; 4096];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let (action, len) = match self.hook {
            Hook::Tc => {
                let context = skb_context(ifindex, segment_len);
                options.ctx_in = Some(&context);
                let tc: &mut SchedClassifier = program(&mut self.ebpf, names::PROG_TC);
                let result = tc.test_run(options).unwrap();
                let action = match result.return_value as i32 {
                    -1 => Action::Pass,
                    2 => Action::Drop,
                    7 => Action::Redirect,
                    other => panic!("tc returned {other}"),
                };
                (action, result.data_size_out)
            }
            Hook::Xdp => {
                let context = xdp_context(ifindex, frame.len());
                options.ctx_in = Some(&context);
                let xdp: &mut Xdp = program(&mut self.ebpf, names::PROG_XDP);
                let result = xdp.test_run(options).unwrap();
                let action = match result.return_value {
                    1 => Action::Drop,
                    2 => Action::Pass,
                    3 => Action::Back,
                    4 => Action::Redirect,
                    other => panic!("xdp returned {other}"),
                };
                (action, result.data_size_out)
            }
        };
        out.truncate(len as usize);
        Outcome { action, frame: out }
    }
}

/// A program of the object.
pub fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut P
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name).unwrap().try_into().unwrap()
}

/// What the kernel says about a loaded program.
pub fn program_info(lab: &Lab, name: &str) -> ProgramInfo {
    lab.ebpf.program(name).unwrap().info().unwrap()
}

/// Runs `ip` with arguments in this thread's namespace.
pub fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Switches forwarding in this thread's namespace.
pub fn set_forwarding(on: bool) {
    // The kernel shows each thread the settings of its own namespace.
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        fs::write(format!("/proc/sys/net/{key}"), if on { "1" } else { "0" }).unwrap();
    }
}

fn load() -> Ebpf {
    // The maps are pinned by name: in a file system of this thread's own.
    static LABS: AtomicU32 = AtomicU32::new(0);
    let dir = std::env::temp_dir().join(format!(
        "sluice-bpf-{}-{}",
        std::process::id(),
        LABS.fetch_add(1, Ordering::Relaxed)
    ));
    fs::create_dir(&dir).unwrap();
    mount("bpf", dir.to_str().unwrap(), "bpf", 0);
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(&dir);
    for (name, entries) in maps::CAPACITIES {
        loader.map_max_entries(name, entries);
    }
    let ebpf = loader.load(OBJECT).unwrap();
    let target = std::ffi::CString::new(dir.to_str().unwrap()).unwrap();
    // SAFETY: the pointer is a string that outlives the call.
    let result = unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    fs::remove_dir(&dir).unwrap();
    ebpf
}

/// Loads a program. The verifier gives up with EAGAIN when a signal is pending.
fn retried(mut load: impl FnMut() -> Result<(), ProgramError>) {
    for _ in 0..49 {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result.unwrap(),
        }
    }
    load().unwrap();
}

/// Moves this thread to new network and mount namespaces.
pub fn unshare() {
    // SAFETY: no pointers; only this thread changes namespaces.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    mount("none", "/", "", libc::MS_REC | libc::MS_PRIVATE);
    // The kernel's own chatter would be counted with the packets of the cases.
    fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
}

fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong) {
    let [source, path, kind] = [source, target, kind].map(|s| std::ffi::CString::new(s).unwrap());
    // SAFETY: the pointers are strings that outlive the call, or null.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            path.as_ptr(),
            kind.as_ptr(),
            flags,
            std::ptr::null(),
        )
    };
    assert_eq!(result, 0, "mount {target}: {}", io::Error::last_os_error());
}

pub fn interface_index(name: &str) -> u32 {
    let name = std::ffi::CString::new(name).unwrap();
    // SAFETY: the pointer is a string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "{}", io::Error::last_os_error());
    index
}

/// `struct __sk_buff` of linux/bpf.h with the fields that a run takes.
pub fn skb_context(ifindex: u32, segment_len: u32) -> [u8; 192] {
    let mut context = [0; 192];
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    context[176..180].copy_from_slice(&segment_len.to_ne_bytes());
    context
}

/// `struct xdp_md` of linux/bpf.h.
pub fn xdp_context(ifindex: u32, len: usize) -> [u8; 24] {
    let mut context = [0; 24];
    context[4..8].copy_from_slice(&(len as u32).to_ne_bytes());
    context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
    context
}
