// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The datapath in the kernel, as the agent holds it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::{BorrowedFd, OwnedFd},
    sync::Arc,
};

use aya::Ebpf;
use aya_log::EbpfLogger;
use gateway_common::{settings::Settings, steer::SteerValue};

use self::retire::Retired;
use crate::{
    datapath::{
        Applied, DatapathConfig, DatapathError, DatapathReport, FlowReport, Swept,
        account::Account,
        apply,
        attach::{self, Attachments},
        bpffs::Pins,
        drops::DropsByInterface,
        egress::Egress,
        exclusive::{self, Lock},
        fault,
        flows::{Sweeper, monotonic_ns},
        interfaces::{self, Patterns, Role},
        load,
        maps::Maps,
        neighbours::{Kind, Place},
        netlink::{Changes, Netlink},
        peers::Peers,
        plan::{MapOp, State},
        probe,
        relayed::EndedFlow,
        report::Proxied,
        routes::Routes,
        stats, sysctl,
        tables::Desired,
        vips,
    },
    snapshot::Snapshot,
};

mod adopted;
mod catch_up;
mod clients;
mod egress;
mod handoffs;
mod neighbours;
mod retire;
#[cfg(test)]
mod tests;

/// Kernel programs, maps and links. Dropping it leaves all of them at work.
pub struct Datapath {
    config: DatapathConfig,
    patterns: Patterns,
    ebpf: Ebpf,
    /// Writes what the programs have to say to the log.
    flush_log: Option<Box<dyn FnMut() + Send>>,
    maps: Maps,
    drops_by_interface: DropsByInterface,
    egress: Egress,
    clients: clients::Clients,
    /// Where XDP does not lead.
    slow: egress::Slow,
    attachments: Attachments,
    netlink: Netlink,
    changes: Changes,
    routes: Routes,
    /// Entries of the neighbour tables as last written.
    neighbours: BTreeMap<Kind, BTreeSet<Place>>,
    addresses: BTreeSet<IpAddr>,
    /// Indices of the interfaces of default routes, when they matter.
    default_routes: BTreeSet<u32>,
    sweeper: Sweeper,
    peers: Peers,
    state: State,
    /// None until the first [`Datapath::apply`]: what was adopted stays as it
    /// is until somebody knows better.
    desired: Option<Desired>,
    sockets: u32,
    proxied: Vec<Proxied>,
    warnings: BTreeSet<String>,
    /// IPv6 forwarding was switched on, or tried to.
    forwards_ipv6: bool,
    /// Something has changed on the node and is not followed completely.
    behind: bool,
    /// Number of this start.
    epoch: u32,
    /// Keep other agents out of the namespace and from the pins.
    locks: Option<(Lock, Option<Lock>)>,
    retired: Option<Retired>,
}

impl Datapath {
    /// Loads the programs, or replaces those of an earlier agent and adopts its
    /// maps; attaches, claims the VIPs, and sets what the kernel needs. Flows in
    /// the kernel go on throughout.
    ///
    /// # Errors
    /// [`DatapathError::Unavailable`] where eBPF is not possible,
    /// [`DatapathError::InUse`] while another agent runs; else the first thing
    /// that failed. What was in force before still is.
    pub async fn open(config: DatapathConfig) -> Result<Self, DatapathError> {
        let missing = probe::probe(&config);
        if !missing.is_empty() {
            return Err(DatapathError::Unavailable { missing });
        }
        let patterns = Patterns::new(&config)?;
        let pins = Pins::new(&config.bpffs);
        let namespace = exclusive::namespace()?;
        pins.create()?;
        let locks = (namespace, exclusive::pins(pins.root())?);

        let loaded = load::load(&config, &pins.maps())?;
        let mut warnings: BTreeSet<String> = loaded.warnings.into_iter().collect();
        let mut ebpf = loaded.ebpf;
        let flush_log = match EbpfLogger::init(&mut ebpf) {
            Ok(mut logger) => Some(Box::new(move || logger.flush()) as Box<dyn FnMut() + Send>),
            Err(error) => {
                warnings.insert(format!(
                    "messages of the kernel programs are not logged: {error}"
                ));
                None
            }
        };
        let mut maps = Maps::take(&mut ebpf)?;
        let drops_by_interface = DropsByInterface::take(&mut ebpf)?;
        let egress = Egress::take(&mut ebpf)?;
        let found = maps.settings()?;
        let settings = Settings {
            hash_seed: config.hash_seed,
            flow_slots: maps.slots.len(),
            snat_port_min: u32::from(*config.snat_ports.start()),
            snat_port_max: u32::from(*config.snat_ports.end()),
            config_generation: found.config_generation,
            port_ranges: found.port_ranges,
            adopts_flows: u32::from(config.shared_vips),
            client_mark: found.client_mark,
            handoff_port_min: u32::from(*config.handoff_ports.start()),
            handoff_port_max: u32::from(*config.handoff_ports.end()),
            limits: config
                .protection
                .node_limits(found.limits.source_key, maps.counts.source_buckets()),
        };
        change("write", "the settings")?;
        maps.set_settings(settings)?;
        // No agent's but this one's, as good as certainly.
        let epoch = fastrand::u32(1..);
        let account = Account::new(Arc::clone(&maps.labels), epoch);
        let sweeper = if loaded.adopted {
            Sweeper::new(account)
        } else {
            for slot in 0..maps.slots.len() {
                change("give out", "a slot")?;
                maps.push_free_slot(slot)?;
            }
            Sweeper::fresh(account)
        };
        let state = apply::read(&maps)?;
        warnings.extend(sysctl::enable_forwarding());
        warnings.extend(sysctl::reserve_ports(&config.snat_ports));

        let attachments = Attachments::new(pins.links(), config.attach);
        let mut datapath = Self {
            patterns,
            ebpf,
            flush_log,
            maps,
            drops_by_interface,
            egress,
            clients: clients::Clients::new(found.client_mark != 0),
            slow: egress::Slow::default(),
            attachments,
            netlink: Netlink::open().map_err(netlink("open a netlink socket"))?,
            changes: Changes::open().map_err(netlink("open a netlink socket"))?,
            routes: Routes::default(),
            neighbours: BTreeMap::new(),
            addresses: BTreeSet::new(),
            default_routes: BTreeSet::new(),
            sweeper,
            peers: Peers::new(&config),
            state,
            desired: None,
            sockets: 0,
            proxied: Vec::new(),
            warnings: BTreeSet::new(),
            forwards_ipv6: false,
            behind: false,
            epoch,
            locks: Some(locks),
            retired: None,
            config,
        };
        datapath.claim()?;
        let (_, failed) = datapath.look_around()?;
        for (role, error) in failed {
            if role == Role::Wire {
                return Err(error);
            }
            warnings.insert(error.to_string());
        }
        if !datapath
            .attachments
            .report()
            .iter()
            .any(|i| i.role == Role::Wire.name())
        {
            warnings.insert(
                "no wire interface yet: none matches wire_interfaces or has a default route; \
                 nothing is forwarded until one does"
                    .to_owned(),
            );
        }
        attach::attach_sk_lookup(&mut datapath.ebpf, &pins.links())?;
        for warning in warnings {
            datapath.warn(warning);
        }
        Ok(datapath)
    }

    /// Puts the agent's listening sockets, one per worker thread, where steered
    /// connections find them. They leave by themselves when they are closed.
    ///
    /// # Errors
    /// When the kernel refuses a socket.
    pub fn set_sockets(&mut self, sockets: &[BorrowedFd<'_>]) -> Result<(), DatapathError> {
        for (index, socket) in (0..).zip(sockets) {
            change("add", "a socket")?;
            self.maps.set_socket(index, *socket)?;
        }
        let count = sockets.len() as u32;
        self.sockets = count;
        let steered = self
            .state
            .steer
            .iter()
            .filter(|(_, value)| value.socket_count != count);
        let value = SteerValue {
            socket_base: 0,
            socket_count: count,
        };
        let ops: Vec<MapOp> = steered
            .map(|(key, _)| MapOp::SetSteer(*key, value))
            .collect();
        apply::run(&mut self.maps, &mut self.state, &ops)?;
        self.maps.clear_sockets_from(count)
    }

    /// Makes the kernel serve `snapshot`.
    ///
    /// # Errors
    /// The first map operation the kernel refuses. What was in force before
    /// still is, wholly or in part; the next call goes on from there.
    pub async fn apply(&mut self, snapshot: &Snapshot) -> Result<Applied, DatapathError> {
        self.desired = Some(Desired::from(snapshot));
        self.catch_up()
    }

    /// Becomes readable when interfaces, addresses or routes change, and until
    /// [`Datapath::refresh`] has looked.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn watch(&self) -> io::Result<OwnedFd> {
        self.changes.watch()
    }

    /// Follows interfaces, addresses and routes; true when anything changed.
    /// Cheap while nothing happens: to be called about every second.
    ///
    /// # Errors
    /// As [`Datapath::apply`].
    pub async fn refresh(&mut self) -> Result<bool, DatapathError> {
        self.behind |= self.changes.any();
        // What a device does with redirected frames is not among the changes.
        if self.attachments.any_at_xdp() || self.slow.any() {
            self.keep_egress();
        }
        self.behind |= self.attachments.against_xdp() != self.against_xdp();
        if !self.behind {
            return Ok(false);
        }
        self.routes.forget();
        let (changed, failed) = self.look_around()?;
        let complete = failed.is_empty();
        for (_, error) in failed {
            self.warn(error.to_string());
        }
        let applied = self.catch_up()?;
        self.behind = !complete;
        Ok(changed || applied.operations > 0)
    }

    /// Ends flows that are over. To be called once or twice a second.
    pub fn sweep(&mut self) -> Swept {
        if let Some(flush) = &mut self.flush_log {
            flush();
        }
        let swept = self
            .sweeper
            .sweep(&mut self.maps, &mut self.peers, monotonic_ns());
        if let Some(warning) = self.peers.take_warning() {
            self.warn(warning);
        }
        match swept {
            Ok(swept) => swept,
            Err(error) => {
                self.warn(error.to_string());
                Swept::default()
            }
        }
    }

    /// Handed-off connections that have ended since the last call.
    pub fn take_ended(&mut self) -> Vec<EndedFlow> {
        self.sweeper.account().take_ended()
    }

    /// Counters and tables.
    pub fn report(&self) -> DatapathReport {
        let mut warnings: Vec<String> = self.warnings.iter().cloned().collect();
        let mut or_warn = |error: DatapathError| warnings.push(error.to_string());
        let drops = self.drops_by_interface.read().map_err(&mut or_warn);
        let mut drops = drops.unwrap_or_default();
        let mut interfaces = self.attachments.report();
        for interface in &mut interfaces {
            interface.drops = drops.remove(&interface.index).unwrap_or_default();
        }
        DatapathReport {
            generation: self.state.settings.config_generation,
            interfaces,
            verdicts: stats::verdicts(&self.maps)
                .map_err(&mut or_warn)
                .unwrap_or_default(),
            drops: stats::drops(&self.maps)
                .map_err(&mut or_warn)
                .unwrap_or_default(),
            services: stats::services(&self.maps, &self.state)
                .map_err(&mut or_warn)
                .unwrap_or_default(),
            backends: stats::backends(&self.maps, &self.state)
                .map_err(&mut or_warn)
                .unwrap_or_default(),
            steered: self.state.steer.len(),
            proxied: self.proxied.clone(),
            flows: self.sweeper.report(&self.maps, self.peers.counts()),
            warnings,
        }
    }

    /// Every flow in use.
    pub fn flows(&self) -> impl Iterator<Item = FlowReport> {
        stats::flows(&self.maps, &self.maps.labels)
    }

    fn claim(&mut self) -> Result<(), DatapathError> {
        let interfaces =
            interfaces::interfaces(&mut self.netlink).map_err(netlink("list the interfaces"))?;
        let wanted: BTreeSet<IpAddr> = self.config.vips.iter().map(IpAddr::to_canonical).collect();
        let loopback = interfaces.values().find(|interface| interface.loopback);
        match loopback {
            Some(loopback) => vips::claim(&mut self.netlink, &wanted, loopback.index),
            None if wanted.is_empty() => Ok(()),
            None => Err(netlink("find a loopback interface for the VIPs")(
                io::ErrorKind::NotFound.into(),
            )),
        }
    }

    /// Interfaces and addresses as they are now.
    fn look_around(&mut self) -> Result<(bool, Vec<(Role, DatapathError)>), DatapathError> {
        let interfaces =
            interfaces::interfaces(&mut self.netlink).map_err(netlink("list the interfaces"))?;
        let default_routes = if self.patterns.follow_default_route() {
            let found = interfaces::default_routes(&mut self.netlink);
            let found = found.map_err(netlink("list the routes"))?;
            // While there is none, as when a lease is renewed, its interfaces
            // stay what they are: flows would be reset.
            if !found.is_empty() {
                self.default_routes = found;
            }
            self.default_routes.clone()
        } else {
            BTreeSet::new()
        };
        self.addresses = if self.config.vips.is_empty() {
            interfaces::addresses(&mut self.netlink).map_err(netlink("list the addresses"))?
        } else {
            self.config.vips.iter().map(IpAddr::to_canonical).collect()
        };
        let wanted = self.patterns.choose(&interfaces, &default_routes);
        let before: BTreeSet<String> = self.attachments.names().map(str::to_owned).collect();
        let against = self.against_xdp();
        let (changed, failed) =
            self.attachments
                .follow(&mut self.ebpf, &mut self.netlink, &wanted, against);
        if changed {
            let indices = self.attachments.indices();
            if let Err(error) = self.drops_by_interface.follow(&indices) {
                self.warn(error.to_string());
            }
        }
        if changed {
            self.keep_egress();
        }
        let now: Vec<String> = self.attachments.names().map(str::to_owned).collect();
        for name in now.iter().filter(|name| !before.contains(*name)) {
            for warning in sysctl::enable_interface(name) {
                self.warn(warning);
            }
        }
        Ok((changed, failed))
    }

    /// Tells the operator once.
    fn warn(&mut self, warning: String) {
        if self.warnings.insert(warning.clone()) {
            tracing::warn!("{warning}");
        }
    }
}

/// Stands before a change of a map that is not part of a plan.
fn change(operation: &'static str, what: &str) -> Result<(), DatapathError> {
    fault::point().map_err(|error| DatapathError::Map {
        map: "of the agent",
        operation,
        key: what.to_owned(),
        cause: error.into(),
    })
}

fn netlink(operation: &str) -> impl FnOnce(io::Error) -> DatapathError {
    let operation = operation.to_owned();
    move |cause| DatapathError::Netlink { operation, cause }
}
