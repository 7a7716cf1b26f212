// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Keys of the maps, and what they stand for: pure.

use gateway_common::{
    addr::Addr16,
    flow::{FlowKey, PROTOCOL_TCP, PROTOCOL_UDP},
    port_range::{
        MAX_PORT_RANGES, PortRange, PortRanges, PortRangesKey, RANGES_OF_SERVICES,
        RANGES_OF_STEERED,
    },
    service::ServiceKey,
    steer::SteerKey,
};

use crate::{
    datapath::{
        Destination,
        ranges::{RangeTable, Ranges, RangesOf},
        stats::socket_addr,
    },
    model::{ListenAddress, Transport},
    snapshot::ListenKey,
};

/// The key of a service.
pub fn service(destination: Destination) -> ServiceKey {
    ServiceKey {
        addr: destination.ip().into(),
        port_be: destination.address.port().to_be(),
        last_port_be: destination.last_port.to_be(),
        proto: protocol(destination.transport),
        _pad: [0; 3],
    }
}

/// What a service's key stands for.
pub fn destination(key: &ServiceKey) -> Destination {
    Destination {
        address: socket_addr(key.addr, key.port_be),
        last_port: u16::from_be(key.last_port_be),
        transport: transport(key.proto),
    }
}

/// The key of a steered listener.
pub fn steer(key: ListenKey) -> SteerKey {
    SteerKey {
        addr: addr(key.address),
        port_be: key.port.to_be(),
        last_port_be: key.last_port.to_be(),
        proto: PROTOCOL_TCP,
        _pad: [0; 3],
    }
}

/// The listener that is steered under `key`.
pub fn listener(key: &SteerKey) -> ListenKey {
    ListenKey {
        last_port: u16::from_be(key.last_port_be),
        ..ListenKey::tcp(address(key.addr), u16::from_be(key.port_be))
    }
}

/// The key of an address's ranges of ports.
pub fn of_ranges(of: RangesOf) -> PortRangesKey {
    PortRangesKey {
        addr: addr(of.address),
        proto: protocol(of.transport),
        table: match of.table {
            RangeTable::Services => RANGES_OF_SERVICES,
            RangeTable::Steered => RANGES_OF_STEERED,
        },
        _pad: [0; 2],
    }
}

/// Whose ranges stand under `key`.
pub fn ranges_of(key: &PortRangesKey) -> RangesOf {
    RangesOf {
        table: match key.table {
            RANGES_OF_STEERED => RangeTable::Steered,
            _ => RangeTable::Services,
        },
        address: address(key.addr),
        transport: transport(key.proto),
    }
}

/// Ranges as the kernel has them. No address is given more than there is room
/// for (`tables`).
pub fn port_ranges(ranges: &Ranges) -> PortRanges {
    let mut value = PortRanges {
        count: 0,
        ranges: [PortRange::UNUSED; MAX_PORT_RANGES],
    };
    for (place, (first, last)) in value.ranges.iter_mut().zip(ranges) {
        *place = PortRange {
            first: u32::from(*first),
            last: u32::from(*last),
        };
        value.count += 1;
    }
    value
}

/// The same back.
pub fn ranges(value: &PortRanges) -> Ranges {
    let used = value.ranges.iter().take(value.count as usize);
    used.map(|range| (range.first as u16, range.last as u16))
        .collect()
}

/// A flow's key in words.
pub fn display(key: &FlowKey) -> String {
    format!(
        "{} to {}",
        socket_addr(key.src, key.src_port_be),
        socket_addr(key.dst, key.dst_port_be)
    )
}

fn protocol(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => PROTOCOL_TCP,
        Transport::Udp => PROTOCOL_UDP,
    }
}

/// Every number in the tables is one that [`protocol`] has given.
fn transport(proto: u8) -> Transport {
    match proto {
        PROTOCOL_UDP => Transport::Udp,
        _ => Transport::Tcp,
    }
}

fn addr(address: ListenAddress) -> Addr16 {
    match address {
        ListenAddress::Any => Addr16::ANY,
        ListenAddress::Ip(ip) => ip.into(),
    }
}

fn address(addr: Addr16) -> ListenAddress {
    match addr {
        Addr16::ANY => ListenAddress::Any,
        addr => ListenAddress::Ip(addr.into()),
    }
}
