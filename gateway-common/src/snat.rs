// SPDX-License-Identifier: Apache-2.0 OR MIT
//! In which order source ports are looked at for a new flow.
//!
//! A range no longer than the tries is looked at whole, from a place that the
//! flow's hash gives. Of a longer one as many random places are, which are all
//! taken once in 500,000 flows when 19 of 20 ports are, and once in 13 when 99 of
//! 100 are.

use crate::{flow::FlowKey, limits::SNAT_PORT_TRIES, maglev, settings::Settings};

/// A place in the order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortPlace {
    hash: u32,
    /// In the range.
    position: u32,
}

impl PortPlace {
    /// The first one for a flow whose first packet has this key.
    #[inline(always)]
    pub fn first(key: &FlowKey, settings: &Settings) -> Self {
        let hash = maglev::hash(key, settings.hash_seed);
        Self {
            hash,
            position: maglev::scale(hash, ports(settings)),
        }
    }

    /// The port here, network order.
    #[inline(always)]
    pub fn port_be(self, settings: &Settings) -> u16 {
        (settings.snat_port_min.wrapping_add(self.position) as u16).to_be()
    }

    /// The one to look at after this.
    #[inline(always)]
    pub fn next(self, settings: &Settings) -> Self {
        let ports = ports(settings);
        if ports <= SNAT_PORT_TRIES {
            let position = self.position.wrapping_add(1);
            Self {
                position: if position >= ports { 0 } else { position },
                ..self
            }
        } else {
            let hash = maglev::rehash(self.hash);
            Self {
                hash,
                position: maglev::scale(hash, ports),
            }
        }
    }
}

/// How many there are.
#[inline(always)]
fn ports(settings: &Settings) -> u32 {
    let after = settings.snat_port_max.wrapping_add(1);
    after.wrapping_sub(settings.snat_port_min)
}

#[cfg(test)]
mod tests {
    use super::{PortPlace, SNAT_PORT_TRIES};
    use crate::{
        addr::Addr16,
        flow::{FlowKey, PROTOCOL_TCP},
        settings::Settings,
    };

    fn settings(ports: u32) -> Settings {
        Settings {
            hash_seed: 7,
            snat_port_min: 61_000,
            snat_port_max: 61_000 + ports - 1,
            ..Settings::NONE
        }
    }

    fn key(port: u16) -> FlowKey {
        FlowKey {
            src: Addr16::from_v4([192, 0, 2, 1]),
            dst: Addr16::from_v4([198, 51, 100, 1]),
            src_port_be: port.to_be(),
            dst_port_be: 443_u16.to_be(),
            proto: PROTOCOL_TCP,
            _pad: [0; 3],
        }
    }

    /// How often each port comes by in as many steps as there are tries.
    fn seen(ports: u32, client: u16) -> [u16; 5_000] {
        let settings = settings(ports);
        let mut seen = [0; 5_000];
        let mut place = PortPlace::first(&key(client), &settings);
        for _ in 0..SNAT_PORT_TRIES {
            let port = u16::from_be(place.port_be(&settings));
            seen[usize::from(port - 61_000)] += 1;
            place = place.next(&settings);
        }
        seen
    }

    #[test]
    fn a_small_range_is_looked_at_whole() {
        for ports in [1, 2, 16, SNAT_PORT_TRIES] {
            let seen = seen(ports, 40_000);
            let (range, beyond) = seen.split_at(ports as usize);
            assert!(range.iter().all(|count| *count > 0), "{ports}");
            assert!(beyond.iter().all(|count| *count == 0), "{ports}");
        }
    }

    #[test]
    fn a_large_range_is_looked_at_in_places_that_seldom_repeat() {
        for client in 40_000..40_050 {
            let seen = seen(4_536, client);
            let places = seen.iter().filter(|count| **count > 0).count();
            assert!(places > 230, "{places}");
            assert!(seen[4_536..].iter().all(|count| *count == 0));
        }
        assert_ne!(seen(4_536, 40_000), seen(4_536, 40_001));
    }
}
