// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A client's host with many addresses, an agent, and what it forwards.

use std::{
    net::SocketAddr,
    sync::{Arc, mpsc},
};

use super::{
    Datapath,
    lab::{CLIENT, Lab, VIP, eventually, ip, ip_addr},
    run,
};
use crate::{
    datapath::{
        AttachMode, DatapathConfig, Destination, FlowReport, TraceQuery, TraceReport, detach, trace,
    },
    model::{FlowLimits, ForwardingMode, HashPolicy, ListenAddress, Sources, Transport},
    origin::Origin,
    snapshot::{BackendTarget, ListenKey, Listener, ListenerTable, Service, Snapshot, SniTable},
};

const VIP6: &str = "fd97::1";
/// Clients are anywhere in these; all of it is the client's host.
const CLIENTS: &str = "10.1.64.0/18";
const CLIENTS6: &str = "fd01:1::/64";
/// So few that some are taken.
const PORTS: std::ops::RangeInclusive<u16> = 61_000..=61_095;

/// A client's host with many addresses, and an agent.
pub struct Scene {
    pub config: DatapathConfig,
    pub datapath: Datapath,
    pub packets: mpsc::Sender<(SocketAddr, Destination)>,
    pub lab: Lab,
}

impl Scene {
    pub fn new(attach: AttachMode) -> Option<Self> {
        let lab = Lab::new()?;
        for interface in ["wire0", "pod0"] {
            ip(&format!("link set {interface} addrgenmode none"));
        }
        for (end, interface, near, far) in [
            ("c", "wire0", "fd01::1", "fd01::2"),
            ("b", "pod0", "fd02::1", "fd02::2"),
        ] {
            ip(&format!("addr add {near}/64 dev {interface} nodad"));
            lab.ip_in(end, &format!("addr add {far}/64 dev eth0 nodad"));
            lab.ip_in(end, &format!("route add default via {near}"));
        }
        for last in 3..=4 {
            lab.ip_in("b", &format!("addr add 10.2.0.{last}/24 dev eth0"));
            lab.ip_in("b", &format!("addr add fd02::{last}/64 dev eth0 nodad"));
        }
        for (clients, router) in [(CLIENTS, CLIENT), (CLIENTS6, "fd01::2")] {
            lab.ip_in("c", &format!("route add local {clients} dev lo"));
            ip(&format!("route add {clients} via {router} dev wire0"));
        }
        let config = DatapathConfig {
            attach,
            vips: vec![ip_addr(VIP), ip_addr(VIP6)],
            snat_ports: PORTS,
            ..lab.config()
        };
        let datapath = run(Datapath::open(config.clone())).expect("to open");
        let (packets, queue) = mpsc::channel();
        let _ = lab.inside("c", move || send_all(&queue));
        Some(Self {
            config,
            datapath,
            packets,
            lab,
        })
    }

    pub fn apply(&mut self, services: &[Forwarded<'_>]) {
        run(self.datapath.apply(&snapshot(services))).expect("to apply");
    }

    pub fn trace(&self, from: SocketAddr, to: Destination) -> TraceReport {
        let query = TraceQuery {
            from,
            to,
            interface: None,
        };
        trace(&self.config, &query).expect("to be traced")
    }

    /// The flow of a client's tuple, once there is one.
    pub fn flow(&self, from: SocketAddr, to: Destination) -> FlowReport {
        let mut found = None;
        eventually("the flow", || {
            found = self.datapath.flows().find(|flow| {
                (flow.client, flow.destination) == (from, to.address)
                    && flow.protocol == to.transport.name()
            });
            found.is_some()
        });
        found.expect("just found")
    }

    /// Foretells a packet, sends it, and compares the counters.
    pub fn verdict(&self, from: &str, to: &str) -> TraceReport {
        let (from, to) = (address(from), udp(to));
        let said = self.trace(from, to);
        let count = || {
            let report = self.datapath.report();
            let verdicts = report.verdicts[said.verdict].packets;
            let drops = said.reason.map(|reason| report.drops[reason].packets);
            (verdicts, drops)
        };
        let before = count();
        self.packets.send((from, to)).expect("a client");
        eventually(&format!("{said:?}"), || {
            let now = count();
            now.0 > before.0 && (now.1 > before.1 || said.reason.is_none())
        });
        said
    }

    pub fn end(self) {
        drop(self.datapath);
        run(detach(&self.config)).expect("to detach");
    }
}

/// Sends one packet for each tuple: a datagram, or what opens a connection.
fn send_all(queue: &mpsc::Receiver<(SocketAddr, Destination)>) {
    let mut open: Vec<socket2::Socket> = Vec::new();
    for (from, to) in queue {
        let kind = match to.transport {
            Transport::Tcp => socket2::Type::STREAM,
            Transport::Udp => socket2::Type::DGRAM,
        };
        let domain = socket2::Domain::for_address(from);
        let socket = socket2::Socket::new(domain, kind, None).expect("a socket");
        socket.set_nonblocking(true).expect("a setting");
        socket.set_reuse_address(true).expect("a setting");
        // Routes make the addresses local; IPv6 wants them on an interface.
        if from.is_ipv6() {
            socket.set_freebind_v6(true).expect("a setting");
        }
        socket.bind(&from.into()).expect("to bind");
        // In progress, with TCP.
        let _ = socket.connect(&to.address.into());
        if to.transport == Transport::Udp {
            let _ = socket.send(b"x");
        }
        open.push(socket);
    }
}

/// A forwarded port.
pub struct Forwarded<'a> {
    pub key: Destination,
    pub backends: &'a [&'a str],
    pub forwarding: ForwardingMode,
    pub policy: HashPolicy,
}

pub fn forwarded<'a>(
    to: &str,
    backends: &'a [&'a str],
    forwarding: ForwardingMode,
) -> Forwarded<'a> {
    Forwarded {
        key: udp(to),
        backends,
        forwarding,
        policy: HashPolicy::FiveTuple,
    }
}

/// Services on rings without a pattern; a listener that is steered at port 443.
fn snapshot(services: &[Forwarded<'_>]) -> Snapshot {
    let mut snapshot = Snapshot {
        generation: 1,
        ..Snapshot::default()
    };
    let mut next = 1;
    for (id, wanted) in (0..).zip(services) {
        let ids: Vec<u32> = (next..).take(wanted.backends.len()).collect();
        next += wanted.backends.len() as u32;
        for (id, backend) in ids.iter().zip(wanted.backends) {
            let target = BackendTarget {
                address: address(backend),
                forwarding: wanted.forwarding,
            };
            snapshot.backends.insert(*id, target);
        }
        let ring: Vec<u32> = match ids.len() {
            0 => Vec::new(),
            count => (0..251).map(|slot| ids[slot * 7 % 5 % count]).collect(),
        };
        for transport in [Transport::Tcp, Transport::Udp] {
            let service = Service {
                id,
                hash_policy: wanted.policy,
                forwarding: wanted.forwarding,
                idle_timeout: None,
                members: ids.iter().map(|id| (*id, 1)).collect(),
                standby: [].into(),
                ring: ring.clone().into(),
                sources: None,
                limits: FlowLimits::default(),
                proxy_header: false,
            };
            let key = ListenKey {
                address: ListenAddress::Ip(wanted.key.ip()),
                port: wanted.key.address.port(),
                last_port: wanted.key.last_port,
                transport,
            };
            snapshot.services.insert(key, Arc::new(service));
        }
    }
    let listener = Listener {
        origin: Origin::new("test.yaml", 1),
        table: ListenerTable::Tls(SniTable::default()),
        sources: Sources::everyone(),
    };
    let steered = ListenKey::tcp(ListenAddress::Any, 443);
    snapshot.listeners.insert(steered, Arc::new(listener));
    snapshot
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

pub fn udp(to: &str) -> Destination {
    Destination::new(address(to), Transport::Udp)
}

/// Whether a step says something with `text`.
pub fn says(report: &TraceReport, step: &str, text: &str) -> bool {
    let mut steps = report.steps.iter();
    steps.any(|found| found.step == step && found.text.contains(text))
}
