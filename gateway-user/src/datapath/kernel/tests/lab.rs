// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A gateway between a client's and a backend's network namespace.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use gateway_tests::offload;

use crate::datapath::DatapathConfig;

pub const VIP: &str = "10.97.0.1";
pub const CLIENT: &str = "10.1.0.2";
pub const BACKEND: &str = "10.2.0.2";

/// The gateway is the namespace of the thread that makes the lab; `wire0` leads
/// to the client, `pod0` to the backend.
pub struct Lab {
    name: String,
    bpffs: PathBuf,
}

impl Lab {
    /// None without root.
    pub fn new() -> Option<Self> {
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } != 0 {
            skipped("needs root");
            return None;
        }
        static LABS: AtomicU32 = AtomicU32::new(0);
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let name = format!("d-{}-{number}", std::process::id());
        // SAFETY: only this thread changes its namespace; it was started for
        // one test and ends with it.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "a network namespace");
        let lab = Self {
            bpffs: PathBuf::from(format!("/run/sluice-{name}/bpf")),
            name,
        };
        for (end, interface, near, far) in [
            ("c", "wire0", "10.1.0.1", CLIENT),
            ("b", "pod0", "10.2.0.1", BACKEND),
        ] {
            let netns = lab.netns(end);
            ip(&format!("netns add {netns}"));
            ip(&format!(
                "link add {interface} type veth peer name eth0 netns {netns}"
            ));
            ip(&format!("addr add {near}/24 dev {interface}"));
            ip(&format!("link set {interface} up"));
            ip(&format!("-n {netns} link set lo up"));
            ip(&format!("-n {netns} addr add {far}/24 dev eth0"));
            ip(&format!("-n {netns} link set eth0 up"));
            ip(&format!("-n {netns} route add default via {near}"));
        }
        ip("link set lo up");
        Some(lab)
    }

    fn netns(&self, end: &str) -> String {
        format!("{}-{end}", self.name)
    }

    /// Runs `ip` in the client's (`c`) or backend's (`b`) namespace.
    pub fn ip_in(&self, end: &str, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.netns(end)));
    }

    pub fn config(&self) -> DatapathConfig {
        DatapathConfig {
            bpffs: self.bpffs.clone(),
            wire_interfaces: vec!["wire*".to_owned()],
            pod_interfaces: vec!["pod*".to_owned()],
            vips: vec![ip_addr(VIP)],
            max_flows: 4_096,
            max_services: 8_192,
            max_backends: 8_192,
            ..DatapathConfig::default()
        }
    }

    /// Runs `work` on a thread inside the client's (`c`) or backend's (`b`)
    /// namespace.
    pub fn inside<T: Send + 'static>(
        &self,
        end: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let path = format!("/run/netns/{}", self.netns(end));
        let netns = fs::File::open(path).expect("the namespace");
        thread::spawn(move || {
            use std::os::fd::AsRawFd;
            // SAFETY: `netns` is open; only this thread moves.
            let result = unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(result, 0, "enter the namespace");
            work()
        })
    }

    /// A backend that answers every line with it and the peer's address, for as
    /// many connections as come.
    pub fn echo(&self, port: u16) {
        let ready = Arc::new(AtomicU32::new(0));
        let up = Arc::clone(&ready);
        let _ = self.inside("b", move || {
            let listener = TcpListener::bind((BACKEND, port)).expect("a listener");
            up.store(1, Ordering::Release);
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let peer = stream.peer_addr().expect("a peer").ip().to_string();
                thread::spawn(move || {
                    let mut buffer = [0; 1024];
                    while let Ok(length @ 1..) = stream.read(&mut buffer) {
                        let mut reply = peer.clone().into_bytes();
                        reply.push(b' ');
                        reply.extend_from_slice(&buffer[..length]);
                        if stream.write_all(&reply).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        eventually("the backend listens", || ready.load(Ordering::Acquire) == 1);
    }

    /// Makes veth behave under native XDP as a real device does: full checksums
    /// from the client, and a receive queue with NAPI at the backend.
    pub fn prepare_for_native_xdp(&self) {
        for end in ["c", "b"] {
            self.inside(end, || offload::like_a_wire("eth0").expect("set offloads"))
                .join()
                .expect("the offloads");
        }
    }

    /// A client's connection.
    pub fn connect(&self, destination: &str) -> TcpStream {
        let destination: SocketAddr = destination.parse().expect("an address");
        let connect = move || {
            let stream = TcpStream::connect_timeout(&destination, Duration::from_secs(10));
            stream.unwrap_or_else(|error| panic!("connect to {destination}: {error}"))
        };
        self.inside("c", connect).join().expect("the connection")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for end in ["c", "b"] {
            let _ = Command::new("ip")
                .args(["netns", "del", &self.netns(end)])
                .status();
        }
        let _ = Command::new("umount").arg(&self.bpffs).status();
        let _ = fs::remove_dir_all(self.bpffs.parent().expect("a parent"));
    }
}

/// Says that a test does not run; in CI that is a failure.
pub fn skipped(reason: &str) {
    assert!(std::env::var("CI").is_err(), "SKIPPED in CI: {reason}");
    eprintln!("SKIPPED: {reason}");
}

pub fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.expect("ip runs").success(), "ip {arguments}");
}

pub fn output(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split(' ')).output();
    String::from_utf8(output.expect("it runs").stdout).expect("text")
}

pub fn ip_addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::yield_now();
    }
}

/// What the peer answers to a line: its view of the source, then the line.
pub fn ask(stream: &mut TcpStream, line: &str) -> String {
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    stream.write_all(line.as_bytes()).expect("to be sent");
    let mut buffer = [0; 1024];
    let length = stream.read(&mut buffer).expect("an answer");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}
