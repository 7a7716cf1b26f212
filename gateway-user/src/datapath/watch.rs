// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Watches what the programs decide, packet by packet. Works on the pinned maps
//! and needs no agent; ends by itself in the kernel when the watcher is gone.

use std::{collections::HashMap, fs::File, mem::size_of, time::Duration};

use aya::maps::{Array, Map, MapData, PerCpuArray, RingBuf};
use gateway_common::{
    addr::Addr16,
    counters::VerdictCounter,
    drop_reason::DropReason,
    flow::{DIR_TO_CLIENT, PROTOCOL_TCP, PROTOCOL_UDP},
    names::{MAP_DECISIONS, MAP_WATCH, MAP_WATCH_STATE},
    watch::{
        Decision, EndpointFilter, PACKET_KNOWN, PACKET_NEW, WATCH_KNOWN, WATCH_NEW, Watch,
        WatchState,
    },
};

use crate::datapath::{
    DatapathConfig, DatapathError,
    bpffs::Pins,
    error::Cause,
    flows::monotonic_ns,
    interfaces,
    netlink::Netlink,
    probe,
    report::{DecisionReport, EndpointMatch, WatchFilter},
    stats::socket_addr,
};

/// How long the programs go on telling after [`Watcher::refresh`].
const LEASE: Duration = Duration::from_secs(2);

/// The one watcher of a gateway; dropping it ends the watch.
pub struct Watcher {
    watch: Array<MapData, Watch>,
    state: PerCpuArray<MapData, WatchState>,
    decisions: RingBuf<MapData>,
    wanted: Watch,
    /// Left out before this watch began.
    left_out_before: u64,
    names: HashMap<u32, String>,
    _lock: File,
}

impl Watcher {
    /// Starts a watch; to be refreshed within two seconds, again and again.
    ///
    /// # Errors
    /// When the maps cannot be used, or somebody else watches.
    pub fn start(config: &DatapathConfig, filter: &WatchFilter) -> Result<Self, DatapathError> {
        let missing = probe::capabilities();
        if !missing.is_empty() {
            return Err(DatapathError::NotAllowed { missing });
        }
        let maps = Pins::new(&config.bpffs).maps();
        if !maps.join(MAP_WATCH).exists() {
            return Err(DatapathError::NothingPinned { path: maps });
        }
        let lock = File::open(&maps).map_err(DatapathError::file("open", &maps))?;
        lock.try_lock()
            .map_err(|_| DatapathError::Watched { path: maps.clone() })?;
        let open = |name| {
            let map = MapData::from_pin(maps.join(name)).and_then(Map::from_map_data);
            map.map_err(failed(name, "open"))
        };
        let mut watcher = Self {
            watch: Array::try_from(open(MAP_WATCH)?).map_err(failed(MAP_WATCH, "open"))?,
            state: PerCpuArray::try_from(open(MAP_WATCH_STATE)?)
                .map_err(failed(MAP_WATCH_STATE, "open"))?,
            decisions: RingBuf::try_from(open(MAP_DECISIONS)?)
                .map_err(failed(MAP_DECISIONS, "open"))?,
            wanted: wanted(filter),
            left_out_before: 0,
            names: HashMap::new(),
            _lock: lock,
        };
        // What an earlier watch has left.
        while watcher.decisions.next().is_some() {}
        watcher.left_out_before = watcher.all_left_out()?;
        watcher.refresh()?;
        Ok(watcher)
    }

    /// Keeps the watch going, and learns the names of new interfaces.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn refresh(&mut self) -> Result<(), DatapathError> {
        let asked = |cause| DatapathError::Netlink {
            operation: "list the interfaces".to_owned(),
            cause,
        };
        let mut netlink = Netlink::open().map_err(asked)?;
        let interfaces = interfaces::interfaces(&mut netlink).map_err(asked)?;
        let names = interfaces.into_iter();
        self.names = names.map(|(name, one)| (one.index, name)).collect();
        self.wanted.until_ns = monotonic_ns() + LEASE.as_nanos() as u64;
        self.write()
    }

    /// Decisions that have come since the last call.
    pub fn decisions(&mut self) -> Vec<DecisionReport> {
        let mut reports = Vec::new();
        while let Some(item) = self.decisions.next() {
            if item.len() < size_of::<Decision>() {
                continue;
            }
            // SAFETY: the length was just compared; any bytes are a Decision
            // (`Pod`), and reading makes no demand on their alignment.
            let decision = unsafe { item.as_ptr().cast::<Decision>().read_unaligned() };
            reports.push(report(&decision, &self.names));
        }
        reports
    }

    /// Decisions left out of this watch: more than the rate, or no room.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn left_out(&self) -> Result<u64, DatapathError> {
        Ok(self.all_left_out()?.saturating_sub(self.left_out_before))
    }

    fn all_left_out(&self) -> Result<u64, DatapathError> {
        let states = self.state.get(&0, 0);
        let states = states.map_err(failed(MAP_WATCH_STATE, "read"))?;
        Ok(states.iter().map(|state| state.left_out).sum())
    }

    fn write(&mut self) -> Result<(), DatapathError> {
        let written = self.watch.set(0, self.wanted, 0);
        written.map_err(failed(MAP_WATCH, "write"))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.wanted = Watch::OFF;
        // Should the kernel refuse, the lease runs out.
        let _ = self.write();
    }
}

/// What the programs are asked for.
fn wanted(filter: &WatchFilter) -> Watch {
    let mut flags = 0;
    if !filter.drops_only {
        flags |= WATCH_NEW;
        if filter.known_flows {
            flags |= WATCH_KNOWN;
        }
    }
    Watch {
        until_ns: 0,
        interval_ns: 1_000_000_000 / u64::from(filter.per_second.max(1)),
        flags,
        _pad: 0,
        from: endpoint(filter.from),
        to: endpoint(filter.to),
    }
}

fn endpoint(wanted: EndpointMatch) -> EndpointFilter {
    let port_be = wanted.port.map(u16::to_be);
    match wanted.prefix {
        Some((ip, bits)) => {
            let mapped = if ip.is_ipv4() { 96 } else { 0 };
            EndpointFilter::new(ip.into(), mapped + u32::from(bits), port_be)
        }
        None => EndpointFilter::new(Addr16::ANY, 0, port_be),
    }
}

fn report(decision: &Decision, names: &HashMap<u32, String>) -> DecisionReport {
    let key = &decision.key;
    let from = socket_addr(key.src, key.src_port_be);
    let to = socket_addr(key.dst, key.dst_port_be);
    let is_sent = decision.new_src != Addr16::ANY;
    let new_from = socket_addr(decision.new_src, decision.new_src_port_be);
    let new_to = socket_addr(decision.new_dst, decision.new_dst_port_be);
    let is_answer = is_sent && u32::from(decision.direction) == DIR_TO_CLIENT;
    let verdict = VerdictCounter::ALL.get(usize::from(decision.verdict));
    let is_drop = u32::from(decision.verdict) == VerdictCounter::Dropped as u32;
    let reason = DropReason::ALL.get(usize::from(decision.reason));
    let interface = names.get(&decision.ifindex).cloned();
    DecisionReport {
        age_ns: monotonic_ns().saturating_sub(decision.time_ns),
        interface: interface.unwrap_or_else(|| decision.ifindex.to_string()),
        protocol: match key.proto {
            PROTOCOL_TCP => "tcp",
            PROTOCOL_UDP => "udp",
            _ => "icmp",
        },
        from,
        to,
        packet: match decision.packet {
            PACKET_NEW => "new",
            PACKET_KNOWN => "known",
            _ => "none",
        },
        verdict: verdict.map_or("unknown", |(_, name)| name),
        reason: reason.filter(|_| is_drop).map(|reason| reason.name()),
        service: if is_answer { new_from } else { to },
        backend: match (is_sent, is_answer) {
            (false, _) => None,
            (true, true) => Some(from),
            (true, false) => Some(new_to),
        },
        source: (is_sent && !is_answer).then_some(new_from),
        client: is_answer.then_some(new_to),
        bytes: decision.ip_len,
    }
}

fn failed<E: Into<Cause>>(
    map: &'static str,
    operation: &'static str,
) -> impl FnOnce(E) -> DatapathError {
    move |cause| DatapathError::Map {
        map,
        operation,
        key: "the watch".to_owned(),
        cause: cause.into(),
    }
}
