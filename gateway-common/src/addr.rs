// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One address type for both families.

/// An IPv6 address, or an IPv4 address mapped into `::ffff:0:0/96`
/// (RFC 4291 section 2.5.5.2), in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr16 {
    /// The 16 bytes as they stand in an IPv6 header.
    pub bytes: [u8; 16],
}

const _: () = assert!(size_of::<Addr16>() == 16 && align_of::<Addr16>() == 1);

impl Addr16 {
    /// The unspecified address: "any" in service and steer keys.
    pub const ANY: Self = Self { bytes: [0; 16] };

    /// Maps an IPv4 address given as its four network-order bytes.
    #[inline(always)]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        let [a, b, c, d] = v4;
        Self {
            bytes: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d],
        }
    }

    /// The last four bytes: the IPv4 address when [`Self::is_v4`].
    #[inline(always)]
    pub const fn v4(&self) -> [u8; 4] {
        let b = &self.bytes;
        [b[12], b[13], b[14], b[15]]
    }

    /// Whether this is a mapped IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        let b = &self.bytes;
        b[0] | b[1] | b[2] | b[3] | b[4] | b[5] | b[6] | b[7] | b[8] | b[9] == 0
            && b[10] == 0xff
            && b[11] == 0xff
    }
}

#[cfg(feature = "user")]
mod std_net {
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::Addr16;

    impl From<IpAddr> for Addr16 {
        fn from(ip: IpAddr) -> Self {
            match ip {
                IpAddr::V4(v4) => Self::from_v4(v4.octets()),
                IpAddr::V6(v6) => Self { bytes: v6.octets() },
            }
        }
    }

    impl From<Addr16> for IpAddr {
        fn from(addr: Addr16) -> Self {
            if addr.is_v4() {
                IpAddr::V4(Ipv4Addr::from(addr.v4()))
            } else {
                IpAddr::V6(Ipv6Addr::from(addr.bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Addr16;

    #[test]
    fn v4_is_mapped_and_back() {
        let addr = Addr16::from_v4([10, 97, 0, 1]);
        assert!(addr.is_v4());
        assert_eq!(addr.v4(), [10, 97, 0, 1]);
        assert!(!Addr16::ANY.is_v4());
    }

    #[test]
    fn only_the_mapped_prefix_is_v4() {
        let mapped = Addr16::from_v4([1, 2, 3, 4]);
        for i in 0..12 {
            let mut other = mapped;
            other.bytes[i] ^= 0x10;
            assert!(!other.is_v4(), "byte {i}");
        }
    }

    #[cfg(feature = "user")]
    #[test]
    fn standard_addresses_survive_both_ways() {
        use core::net::IpAddr;

        for text in ["0.0.0.0", "10.97.0.1", "255.255.255.255", "fd97::1", "::1"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Addr16::from(ip)), ip);
        }
    }
}
