// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an earlier agent has left in the kernel, as the first snapshot.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use gateway_common::{
    backend::{FORWARD_DNAT, FORWARD_DSR, FORWARD_SNAT},
    service::HASH_SOURCE_ADDRESS,
};

use super::Datapath;
use crate::{
    datapath::stats,
    model::{FlowLimits, ForwardingMode, HashPolicy, ListenAddress},
    snapshot::{BackendTarget, ListenKey, Service, Snapshot},
};

impl Datapath {
    /// What the kernel serves already, as a snapshot whose ids and number the
    /// first compilation goes on from. Without it, ids that change hands refuse flows for a
    /// moment while the first snapshot is applied.
    pub fn adopted(&self) -> Snapshot {
        let mut services: BTreeMap<ListenKey, Arc<Service>> = BTreeMap::new();
        for (destination, installed) in &self.state.services {
            let value = &installed.value;
            let mut shares: BTreeMap<u32, u32> = BTreeMap::new();
            for id in installed.ring.iter() {
                *shares.entry(*id).or_default() += 1;
            }
            let timeout = u64::from(value.established_timeout_s);
            let service = Service {
                id: value.service_id,
                hash_policy: if value.hash_policy == HASH_SOURCE_ADDRESS {
                    HashPolicy::SourceAddress
                } else {
                    HashPolicy::FiveTuple
                },
                forwarding: ForwardingMode::Auto,
                idle_timeout: (timeout > 0).then(|| Duration::from_secs(timeout)),
                members: shares.into_iter().collect(),
                standby: Arc::default(),
                ring: Arc::clone(&installed.ring),
                sources: None,
                limits: FlowLimits::default(),
                proxy_header: false,
            };
            let key = ListenKey {
                address: ListenAddress::Ip(destination.ip()),
                port: destination.address.port(),
                last_port: destination.last_port,
                transport: destination.transport,
            };
            services.insert(key, Arc::new(service));
        }
        let backends = self.state.backends.iter().map(|(id, backend)| {
            let target = BackendTarget {
                address: stats::socket_addr(backend.addr, backend.port_be),
                forwarding: match backend.forwarding {
                    FORWARD_DNAT => ForwardingMode::Dnat,
                    FORWARD_SNAT => ForwardingMode::Snat,
                    FORWARD_DSR => ForwardingMode::Dsr,
                    _ => ForwardingMode::Auto,
                },
            };
            (*id, target)
        });
        Snapshot {
            services,
            generation: u64::from(self.state.settings.config_generation),
            backends: backends.collect(),
            ..Snapshot::default()
        }
    }
}
