// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What options and queries pick by: addresses, ports and server names. Pure.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use crate::datapath::report::EndpointMatch;

/// An address, a prefix or a port: `10.0.0.1`, `10.0.0.0/8`, `10.0.0.1:80`,
/// `[fd00::1]:80`, `80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressMatch {
    /// Address and length of the prefix, bits.
    prefix: Option<(IpAddr, u8)>,
    port: Option<u16>,
}

/// A server name, or all below one: `a.example.com`, `*.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameMatch(String);

/// Not a [`NameMatch`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no server name (as a.example.com, or *.example.com)")]
pub struct NameMatchError(String);

/// Not an [`AddressMatch`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is none of ADDRESS, ADDRESS/BITS, ADDRESS:PORT and PORT (as 10.0.0.1, 10.0.0.0/8, 10.0.0.1:80, 80)"
)]
pub struct AddressMatchError(String);

impl AddressMatch {
    /// The address and the port, when it names one endpoint.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        let (ip, bits) = self.prefix?;
        (bits == width(ip)).then_some(SocketAddr::new(ip, self.port?))
    }

    /// Whether `address` is meant.
    pub fn matches(&self, address: SocketAddr) -> bool {
        self.port.is_none_or(|port| port == address.port())
            && self
                .prefix
                .is_none_or(|(prefix, bits)| starts_with(address.ip(), prefix, bits))
    }
}

impl From<AddressMatch> for EndpointMatch {
    fn from(wanted: AddressMatch) -> Self {
        let AddressMatch { prefix, port } = wanted;
        Self { prefix, port }
    }
}

/// Whether the first `bits` of both are the same.
fn starts_with(ip: IpAddr, prefix: IpAddr, bits: u8) -> bool {
    let same = |difference: u128, width: u8| {
        u32::from(width.saturating_sub(bits)) >= u128::BITS - difference.leading_zeros()
    };
    match (ip.to_canonical(), prefix) {
        (IpAddr::V4(ip), IpAddr::V4(prefix)) => {
            same(u128::from(ip.to_bits() ^ prefix.to_bits()), 32)
        }
        (IpAddr::V6(ip), IpAddr::V6(prefix)) => same(ip.to_bits() ^ prefix.to_bits(), 128),
        _ => false,
    }
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

impl FromStr for AddressMatch {
    type Err = AddressMatchError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || AddressMatchError(text.to_owned());
        if let Ok(port) = text.trim_start_matches(':').parse() {
            return Ok(Self {
                prefix: None,
                port: Some(port),
            });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            let ip = address.ip().to_canonical();
            return Ok(Self {
                prefix: Some((ip, width(ip))),
                port: Some(address.port()),
            });
        }
        let (ip, bits) = match text.split_once('/') {
            Some((ip, bits)) => (ip, Some(bits.parse::<u8>().map_err(|_| refuse())?)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| refuse())?;
        let bits = bits.unwrap_or(width(ip));
        if bits > width(ip) {
            return Err(refuse());
        }
        Ok(Self {
            prefix: Some((ip, bits)),
            port: None,
        })
    }
}

impl fmt::Display for AddressMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.prefix, self.port) {
            (Some((ip, _)), Some(port)) => write!(f, "{}", SocketAddr::new(ip, port)),
            (Some((ip, bits)), None) => write!(f, "{ip}/{bits}"),
            (None, Some(port)) => write!(f, "{port}"),
            (None, None) => Ok(()),
        }
    }
}

impl NameMatch {
    /// Whether `name` is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_prefix('*') {
            Some(suffix) => {
                name.len() > suffix.len()
                    && name
                        .get(name.len() - suffix.len()..)
                        .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
            None => name.eq_ignore_ascii_case(&self.0),
        }
    }
}

impl FromStr for NameMatch {
    type Err = NameMatchError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let is_letter =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(is_letter) {
            return Err(NameMatchError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for NameMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{AddressMatch, NameMatch};

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_a_prefix_or_a_port_is_meant() {
        for (text, meant, not) in [
            ("10.0.0.1", "10.0.0.1:80", "10.0.0.2:80"),
            ("10.0.0.1:80", "10.0.0.1:80", "10.0.0.1:81"),
            ("80", "10.0.0.1:80", "10.0.0.1:8080"),
            (":80", "[fd00::1]:80", "[fd00::1]:81"),
            ("10.0.0.0/8", "10.255.0.1:1", "11.0.0.0:1"),
            ("10.128.0.0/9", "10.128.0.1:1", "10.127.255.255:1"),
            ("0.0.0.0/0", "192.0.2.1:1", "[2001:db8::1]:1"),
            ("fd00::/63", "[fd00:0:0:1::9]:1", "[fd00:0:0:2::9]:1"),
            ("::/0", "[fd00::1]:1", "10.0.0.1:1"),
            ("[fd00::1]:80", "[fd00::1]:80", "[fd00::1]:81"),
        ] {
            let wanted: AddressMatch = text.parse().expect(text);
            assert!(wanted.matches(address(meant)), "{text} means {meant}");
            assert!(!wanted.matches(address(not)), "{text} does not mean {not}");
            let again: AddressMatch = wanted.to_string().parse().expect(text);
            assert_eq!(again, wanted, "{text} is written as {wanted}");
        }
        for text in [
            "",
            ":",
            "a.test",
            "10.0.0.0/33",
            "10.0.0.0/",
            "70000",
            "10.0.0.1:x",
        ] {
            text.parse::<AddressMatch>().expect_err(text);
        }
    }

    #[test]
    fn a_name_or_all_below_one_is_meant() {
        for (text, meant, not) in [
            ("a.example.com", "a.example.com", "b.a.example.com"),
            ("a.example.com", "A.Example.com", "a.example.co"),
            ("*.example.com", "a.example.com", "example.com"),
            ("*.example.com", "b.a.example.com", "aexample.com"),
        ] {
            let wanted: NameMatch = text.parse().expect(text);
            assert!(wanted.matches(meant), "{text} means {meant}");
            assert!(!wanted.matches(not), "{text} does not mean {not}");
            assert_eq!(wanted.to_string(), text);
        }
        for text in ["", "*", "*.", "a.*.com", "a b", "a&b"] {
            text.parse::<NameMatch>().expect_err(text);
        }
    }
}
