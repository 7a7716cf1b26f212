// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which service a packet is for, and which of its backends takes a new flow.

use gateway_common::{
    addr::Addr16,
    backend::{Backend, NO_BACKEND},
    drop_reason::DropReason,
    maglev,
    names::{MAP_BACKENDS, MAP_RINGS},
    service::{RING_CHUNK_IDS, ServiceKey, ServiceValue},
};

use super::{Model, parse::Tuple};
use crate::maps::capacity;

impl Model {
    /// The service a packet is addressed to: that of its port, else that of a
    /// range the port is in.
    pub fn service(&self, tuple: &Tuple) -> Option<&ServiceValue> {
        let addr = tuple.dst.ip().into();
        let port = tuple.dst.port();
        let of = |first: u16, last: u16| {
            self.services.get(&ServiceKey {
                addr,
                port_be: first.to_be(),
                last_port_be: last.to_be(),
                proto: tuple.protocol,
                _pad: [0; 3],
            })
        };
        of(port, port).or_else(|| {
            let ranges = (self.settings.port_ranges != 0)
                .then(|| self.port_ranges.get(&(addr, tuple.protocol)))??;
            let (first, last) = *ranges
                .iter()
                .find(|(first, last)| (*first..=*last).contains(&port))?;
            of(first, last)
        })
    }

    /// The backend at the flow's place in the service's ring.
    pub fn select(
        &self,
        tuple: &Tuple,
        service: &ServiceValue,
    ) -> Result<(u32, Backend), DropReason> {
        if service.ring_size == 0 {
            return Err(DropReason::NoBackend);
        }
        let seed = self.settings.hash_seed;
        let place = maglev::slot(&tuple.key(), service.hash_policy, seed, service.ring_size);
        let chunk = service
            .ring_chunk
            .checked_add(place / RING_CHUNK_IDS)
            .filter(|&chunk| chunk < capacity(MAP_RINGS))
            .ok_or(DropReason::BadMapEntry)?;
        let id = self.rings.get(&chunk).map_or(NO_BACKEND, |ring| {
            ring.backend_ids[(place % RING_CHUNK_IDS) as usize]
        });
        if id == NO_BACKEND {
            return Err(DropReason::NoBackend);
        }
        if id >= capacity(MAP_BACKENDS) {
            return Err(DropReason::BadMapEntry);
        }
        let backend = self.backends.get(&id).filter(|it| it.forwarding != 0);
        let backend = *backend.ok_or(DropReason::NoRoute)?;
        // A packet is not translated between the families.
        let foreign = |addr: &Addr16| addr.is_v4() != tuple.src.is_ipv4();
        let snat_addr = &backend.snat_addr;
        if foreign(&backend.addr) || *snat_addr != Addr16::ANY && foreign(snat_addr) {
            return Err(DropReason::BadMapEntry);
        }
        Ok((id, backend))
    }
}
