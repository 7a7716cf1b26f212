// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The bytes of a PROXY header (haproxy.org, doc/proxy-protocol.txt): pure.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use ppp::{
    v1,
    v2::{self, Command, Protocol, Type, Version, WriteToHeader},
};

use crate::model::ProxyProtocol;

#[cfg(test)]
mod tests;

/// Bytes of a header at most: as many as the smallest segment that every host
/// takes, so that it arrives in one piece (section 2.2).
const MAX_LEN: usize = 536;

/// `PP2_CLIENT_SSL` (section 2.2.5): the client uses TLS.
const CLIENT_SSL: u8 = 0x01;
/// Of `verify`: the client has shown no certificate.
const NOT_VERIFIED: u32 = 1;

/// A connection as its client sees it.
#[derive(Clone, Copy, Debug)]
pub struct Proxied<'a> {
    /// The client.
    pub client: SocketAddr,
    /// The address it connected to.
    pub destination: SocketAddr,
    /// Server name of its ClientHello; version 2 only, as all below.
    pub authority: Option<&'a str>,
    /// The protocol spoken, if that is certain.
    pub alpn: Option<&'a str>,
    /// TLS that ended here.
    pub tls: Option<TlsVersion>,
}

/// The version of a TLS connection that ended here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

impl TlsVersion {
    /// What rustls says of a connection after its handshake.
    pub fn of(connection: &rustls::CommonState) -> Option<Self> {
        match connection.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_2 => Some(Self::V1_2),
            rustls::ProtocolVersion::TLSv1_3 => Some(Self::V1_3),
            _ => None,
        }
    }

    /// As OpenSSL names it, which is what receivers know.
    const fn name(self) -> &'static str {
        match self {
            Self::V1_2 => "TLSv1.2",
            Self::V1_3 => "TLSv1.3",
        }
    }
}

/// The header of a connection of a client.
///
/// # Errors
/// When a part is longer than 65,535 bytes: names and protocols of a ClientHello
/// are not.
pub fn proxied(version: ProxyProtocol, of: &Proxied<'_>) -> io::Result<Vec<u8>> {
    match version {
        ProxyProtocol::V1 => Ok(text(of).to_string().into_bytes()),
        ProxyProtocol::V2 => binary(of),
    }
}

/// The header of a connection of this gateway's own, such as a probe: `LOCAL`,
/// or the nearest that version 1 has.
///
/// # Errors
/// As [`proxied`].
pub fn local(version: ProxyProtocol) -> io::Result<Vec<u8>> {
    match version {
        ProxyProtocol::V1 => Ok(v1::Addresses::Unknown.to_string().into_bytes()),
        ProxyProtocol::V2 => v2::Builder::with_addresses(
            Version::Two | Command::Local,
            Protocol::Unspecified,
            v2::Addresses::Unspecified,
        )
        .build(),
    }
}

/// Both addresses without the IPv6 form of IPv4 ones, which a socket for both
/// families has them in.
fn ends(of: &Proxied<'_>) -> [SocketAddr; 2] {
    [of.client, of.destination].map(|end| SocketAddr::new(end.ip().to_canonical(), end.port()))
}

fn text(of: &Proxied<'_>) -> v1::Addresses {
    let [client, to] = ends(of);
    match (client.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(ip)) => {
            v1::Addresses::new_tcp4(from, ip, client.port(), to.port())
        }
        (IpAddr::V6(from), IpAddr::V6(ip)) => {
            v1::Addresses::new_tcp6(from, ip, client.port(), to.port())
        }
        // No connection has both; the line has no word for it.
        _ => v1::Addresses::Unknown,
    }
}

fn binary(of: &Proxied<'_>) -> io::Result<Vec<u8>> {
    let [client, to] = ends(of);
    let addresses: v2::Addresses = match (client.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(ip)) => {
            v2::IPv4::new(from, ip, client.port(), to.port()).into()
        }
        (from, ip) => {
            let mapped = |ip| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            v2::IPv6::new(mapped(from), mapped(ip), client.port(), to.port()).into()
        }
    };
    let mut builder =
        v2::Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, addresses);
    let mut len = v2_len(addresses.len());
    if let Some(version) = of.tls {
        let mut value = vec![CLIENT_SSL];
        value.extend(NOT_VERIFIED.to_be_bytes());
        value.extend((Type::SSLVersion, version.name().as_bytes()).to_bytes()?);
        len += tlv_len(&value);
        builder = builder.write_tlv(Type::SSL, &value)?;
    }
    let names = [(Type::Authority, of.authority), (Type::ALPN, of.alpn)];
    for (kind, value) in names {
        let Some(value) = value.map(str::as_bytes) else {
            continue;
        };
        // What is left out says nothing wrong.
        if len + tlv_len(value) > MAX_LEN {
            continue;
        }
        len += tlv_len(value);
        builder = builder.write_tlv(kind, value)?;
    }
    builder.build()
}

/// Signature, version, family and length stand before the addresses.
const fn v2_len(addresses: usize) -> usize {
    16 + addresses
}

/// Type and length stand before the value.
const fn tlv_len(value: &[u8]) -> usize {
    3 + value.len()
}
