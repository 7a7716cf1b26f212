// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two nodes answer on one VIP: connections that move between them go on.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use gateway_tests::{
    admin,
    backend::echo::Echo,
    client::raw::{self, End},
    decap::Decap,
    gateway::{Datapath, Gateway, binary},
    lab::{CLIENT, Lab},
    netns::Netns,
    process::Process,
};
use serde_json::Value;

use crate::{ipv6, modes, scene};

/// Long enough for a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// Forwarded by dnat to [`SERVERS`] servers, and by dsr to one.
const TRANSLATED: u16 = 31_400;
const WRAPPED: u16 = 31_401;
const SERVERS: u8 = 4;
const CONNECTIONS: usize = 12;

#[test]
fn connections_go_on_when_their_packets_take_another_node() {
    let Some(lab) = scene::lab() else { return };
    ipv6::dual_stack(&lab);
    let _decap = modes::answers_itself(&lab);
    let own: Vec<SocketAddr> = (0..SERVERS)
        .map(|index| SocketAddr::from(([10, 99, 1, 10 + index], 7000)))
        .collect();
    for at in &own {
        let address = format!("addr add {}/24 dev eth0", at.ip());
        lab.backends[0].ip(&address).expect("an address");
    }
    let mut echoes: Vec<Echo> = own
        .iter()
        .zip('a'..)
        .map(|(at, name)| Echo::serve(&lab.backends[0], *at, &name.to_string()).expect("echo"))
        .collect();
    let direct = scene::vip(&lab, WRAPPED);
    echoes.push(Echo::serve(&lab.backends[0], direct, "z").expect("echo"));
    let wrapped = scene::tcp("wrapped", WRAPPED, &[scene::backend(&lab, 0, WRAPPED)]).replace(
        "{name: wrapped}",
        "{name: wrapped, annotations: {sluice.dev/forwarding: dsr}}",
    );
    let yaml = scene::tcp("translated", TRANSLATED, &own) + &wrapped;
    let first = scene::serve_with(
        &lab,
        Datapath::Ebpf,
        "shared_vips: true\n",
        &[("several.yaml", yaml)],
    );
    let second = Second::start(&lab, &first);

    let mut held: Vec<(u8, TcpStream)> = (0..CONNECTIONS)
        .map(|_| greeted(&lab, TRANSLATED))
        .chain([greeted(&lab, WRAPPED)])
        .collect();
    let mut servers: Vec<u8> = held.iter().map(|(name, _)| *name).collect();
    servers.sort_unstable();
    servers.dedup();
    assert!(
        servers.len() > 2,
        "a ring of one server would prove nothing"
    );
    assert_eq!(second.flows(), 0);
    for (towards, flows) in [(true, held.len()), (false, held.len()), (true, held.len())] {
        second.route(&lab, towards);
        for (_, stream) in &mut held {
            exchange(stream);
        }
        assert_eq!(second.flows(), flows);
    }
    // A new one by the second node, which ends by the first.
    let (name, mut late) = greeted(&lab, TRANSLATED);
    assert!((b'a'..b'a' + SERVERS).contains(&name));
    second.route(&lab, false);
    exchange(&mut late);
    for (_, mut stream) in held.into_iter().chain([(name, late)]) {
        stream.shutdown(Shutdown::Write).expect("an end");
        let end = raw::read_to_end(&mut stream, DEADLINE).expect("the other end");
        assert_eq!(end, End::Closed(Vec::new()));
    }
    drop(echoes);
}

/// A connection, and what its server calls itself.
fn greeted(lab: &Lab, port: u16) -> (u8, TcpStream) {
    let mut stream = raw::connect(&lab.client, scene::vip(lab, port)).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let mut name = [0; 1];
    stream.read_exact(&mut name).expect("a greeting");
    (name[0], stream)
}

/// More than a window, both ways.
fn exchange(stream: &mut TcpStream) {
    const LEN: u64 = 200_000;
    let pattern = modes::Pattern::new();
    let mut sending = stream.try_clone().expect("a copy");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pattern.write(&mut sending, LEN);
            sending.flush().expect("flush");
        });
        pattern.read(stream, LEN);
    });
}

/// The other node: linked to the client and to the first backend.
struct Second {
    netns: Netns,
    _decap: Decap,
    _agent: Process,
}

impl Second {
    const TO_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 95, 0, 1);
    const TO_BACKEND: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
    const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15_021);

    /// With the files that the first one serves.
    fn start(lab: &Lab, first: &Gateway<'_>) -> Self {
        let name = lab.gateway.name().replace("gateway", "second");
        let netns = Netns::create(&name).expect("a namespace");
        let backend = &lab.backends[0];
        for (device, peer, other, near, far) in [
            ("wire", "eth1", &lab.client, Self::TO_CLIENT, "10.95.0.2"),
            ("pod1", "eth1", backend, Self::TO_BACKEND, "10.96.0.2"),
        ] {
            let add = format!(
                "link add {device} type veth peer name {peer} netns {}",
                other.name()
            );
            for (at, command) in [
                (&netns, add),
                (&netns, format!("addr add {near}/24 dev {device}")),
                (&netns, format!("link set {device} mtu 1600 up")),
                (other, format!("addr add {far}/24 dev {peer}")),
                (other, format!("link set {peer} mtu 1600 up")),
            ] {
                at.ip(&command).expect("a link");
            }
        }
        for route in [
            format!("route add {CLIENT}/32 via 10.95.0.2 mtu 1500"),
            "route add 10.99.1.0/24 via 10.96.0.2".to_owned(),
        ] {
            netns.ip(&route).expect("a route");
        }
        netns.sysctl("net.ipv4.ip_forward", "1").expect("forward");
        let decap = Decap::attach(backend, "eth1").expect("unwrap");

        let bootstrap = fs::read_to_string(first.bootstrap_file()).expect("the first one's");
        let bpffs = lab.bpffs();
        let bootstrap = bootstrap
            .replace(&first.admin().to_string(), &Self::ADMIN.to_string())
            .replace(
                &bpffs.join("sluice").to_string_lossy().into_owned(),
                &bpffs.join("second").to_string_lossy(),
            );
        let file = lab.dir().join("second.yaml");
        fs::write(&file, bootstrap).expect("write");
        let mut command = netns.command(&binary().expect("an agent").to_string_lossy());
        command.args(["run", "--datapath", "ebpf", "--bootstrap"]);
        command.arg(file).arg("--config").arg(first.config_dir());
        let mut agent = lab.spawn(command, "second").expect("start");
        agent
            .ready("/readyz answers 200", DEADLINE, |_| {
                admin::fetch(&netns, Self::ADMIN, "/readyz").is_ok_and(|got| got.status == 200)
            })
            .expect("ready");
        Self {
            netns,
            _decap: decap,
            _agent: agent,
        }
    }

    /// Sends the client's packets and the backend's answers by this node, or by
    /// the first one again.
    fn route(&self, lab: &Lab, here: bool) {
        let (client, backend) = if here {
            (Self::TO_CLIENT, Self::TO_BACKEND)
        } else {
            (Ipv4Addr::new(10, 98, 0, 1), Ipv4Addr::new(10, 99, 1, 1))
        };
        let vip = lab.vip();
        let to_vip = format!("route replace {vip}/32 via {client} src {CLIENT}");
        lab.client.ip(&to_vip).expect("the client's route");
        let back = format!("route replace default via {backend} mtu 1500");
        lab.backends[0].ip(&back).expect("the backend's route");
    }

    /// Flows that this node has.
    fn flows(&self) -> usize {
        let answer = admin::fetch(&self.netns, Self::ADMIN, "/flows").expect("flows");
        let list: Value = serde_json::from_str(&answer.body).expect("JSON");
        list["flows"].as_array().expect("a list").len()
    }
}
