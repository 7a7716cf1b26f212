// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which interfaces send frames that XDP redirects to them.
//!
//! That takes a function of the driver (`ndo_xdp_xmit`), and often a program or a
//! setting that switches it on. The kernel says so by the `netdev` family of generic
//! netlink (Documentation/netlink/specs/netdev.yaml, Linux 6.3). An older one does
//! not, and sends such frames into nothing; there a card is believed that has a
//! program of its own in a driver that is known to do it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use gateway_common::names::MAP_XDP_EGRESS;
use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use rtnetlink::packet_core::{
    DecodeError, Emitable, NLM_F_DUMP, NlasIterator, ParseableParametrized,
};

use crate::datapath::{
    DatapathError, ethtool,
    interfaces::Interface,
    maps::{failed, missing_is_fine, typed},
    netlink::Netlink,
};

// Numbers of linux/netdev.h.
const DEV_GET: u8 = 1;
const ATTRIBUTE_IFINDEX: u16 = 1;
const ATTRIBUTE_XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_NDO_XMIT`.
const SENDS_REDIRECTED: u64 = 4;

/// Drivers of cards whose `ndo_xdp_xmit` Linux 6.1 has, by what ethtool calls them.
const DRIVERS: [&str; 13] = [
    "atlantic",
    "bnxt_en",
    "ena",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "mlx5_core",
    "mvneta",
    "qede",
    "sfc",
    "virtio_net",
];

/// XDP_EGRESS, and whom to ask.
pub struct Egress {
    map: HashMap<MapData, u32, u32>,
    written: Option<BTreeSet<u32>>,
    /// The socket, and the number of the family; none where there is none.
    kernel: Option<(Netlink, u16)>,
}

impl Egress {
    /// Takes the map out of a loaded object.
    ///
    /// # Errors
    /// When it is missing or of another type.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            map: typed(ebpf, MAP_XDP_EGRESS)?,
            written: None,
            // Whatever the reason, the drivers are known as well.
            kernel: family().ok(),
        })
    }

    /// Indices of those of `interfaces` that send redirected frames.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn able(&mut self, interfaces: &BTreeMap<String, Interface>) -> io::Result<BTreeSet<u32>> {
        let Some((netlink, family)) = &mut self.kernel else {
            let able = interfaces.iter().filter(|(name, interface)| {
                !interface.is_virtual
                    && !interface.xdp.is_empty()
                    && ethtool::driver(name).is_some_and(|it| DRIVERS.contains(&it.as_str()))
            });
            return Ok(able.map(|(_, interface)| interface.index).collect());
        };
        let mut request = GenlMessage::from_payload(Device::default());
        request.set_resolved_family_id(*family);
        let answers = netlink.ask(request, NLM_F_DUMP)?.into_iter();
        let devices = answers.map(|answer| answer.payload);
        let able = devices.filter(|device| device.features & SENDS_REDIRECTED != 0);
        Ok(able.map(|device| device.index).collect())
    }

    /// Lets the programs redirect frames to these interfaces, and to no others.
    ///
    /// # Errors
    /// When the kernel refuses; frames to the rest are sent by the stack.
    pub fn follow(&mut self, wanted: &BTreeSet<u32>) -> Result<(), DatapathError> {
        if self.written.as_ref() == Some(wanted) {
            return Ok(());
        }
        self.written = None;
        let there: BTreeSet<u32> = self.map.keys().filter_map(Result::ok).collect();
        for index in there.difference(wanted) {
            missing_is_fine(self.map.remove(index)).map_err(failed(
                MAP_XDP_EGRESS,
                "remove",
                index,
            ))?;
        }
        for index in wanted.difference(&there) {
            let added = self.map.insert(index, 1, 0);
            added.map_err(failed(MAP_XDP_EGRESS, "add", index))?;
        }
        self.written = Some(wanted.clone());
        Ok(())
    }
}

/// A generic socket and the number of the family `netdev`.
fn family() -> io::Result<(Netlink, u16)> {
    let mut netlink = Netlink::open_generic()?;
    let request = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName(Device::family_name().to_owned())],
    });
    let answers = netlink.ask(request, 0)?;
    let mut attributes = answers.into_iter().flat_map(|answer| answer.payload.nlas);
    let family = attributes.find_map(|attribute| match attribute {
        GenlCtrlAttrs::FamilyId(family) => Some(family),
        _ => None,
    });
    let family = family.ok_or(io::ErrorKind::NotFound)?;
    Ok((netlink, family))
}

/// `NETDEV_CMD_DEV_GET`: a request for all devices, or one of them.
#[derive(Debug, Default)]
struct Device {
    index: u32,
    features: u64,
}

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        DEV_GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        0
    }

    fn emit(&self, _buffer: &mut [u8]) {}
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(buffer: &[u8], _header: GenlHeader) -> Result<Self, DecodeError> {
        let mut device = Self::default();
        for attribute in NlasIterator::new(buffer) {
            let attribute = attribute?;
            match (attribute.kind(), attribute.value()) {
                (ATTRIBUTE_IFINDEX, &[a, b, c, d]) => {
                    device.index = u32::from_ne_bytes([a, b, c, d]);
                }
                (ATTRIBUTE_XDP_FEATURES, value) => {
                    let bytes = value.first_chunk::<8>();
                    device.features = bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes));
                }
                _ => {}
            }
        }
        Ok(device)
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_generic::GenlHeader;
    use rtnetlink::packet_core::ParseableParametrized;

    use super::Device;

    #[test]
    fn what_a_device_can_do_is_read() {
        let header = GenlHeader { cmd: 1, version: 1 };
        let mut bytes = Vec::new();
        for (kind, value) in [
            (1_u16, &7_u32.to_ne_bytes()[..]),
            (3, &0x17_u64.to_ne_bytes()),
            // One that a later kernel has added.
            (99, &[1, 2, 3, 4]),
        ] {
            bytes.extend((4 + value.len() as u16).to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
        }
        let device = Device::parse_with_param(&bytes, header).expect("well-formed");
        assert_eq!((device.index, device.features), (7, 0x17));
        // An attribute that claims more than there is.
        assert!(Device::parse_with_param(&bytes[..10], header).is_err());
        let nothing = Device::parse_with_param(&[], header).expect("nothing said");
        assert_eq!(nothing.features, 0);
    }
}
