// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Headers against the bytes of the specification.

use std::net::SocketAddr;

use super::{MAX_LEN, Proxied, TlsVersion, local, proxied};
use crate::model::ProxyProtocol::{V1, V2};

/// Section 2.2: "\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A".
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn of(client: &str, destination: &str) -> Proxied<'static> {
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    Proxied {
        client: address(client),
        destination: address(destination),
        authority: None,
        alpn: None,
        tls: None,
    }
}

#[test]
fn version_1_is_the_line_of_the_specification() {
    let line = |of: &Proxied<'_>| {
        let bytes = proxied(V1, of).expect("it fits");
        String::from_utf8(bytes).expect("text")
    };
    // Section 2.1, "example of such a line".
    assert_eq!(
        line(&of("192.168.0.1:56324", "192.168.0.11:443")),
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    );
    // As a socket for both families has them.
    assert_eq!(
        line(&of(
            "[::ffff:192.168.0.1]:56324",
            "[::ffff:192.168.0.11]:443"
        )),
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    );
    assert_eq!(
        line(&of("[2001:db8::1]:1", "[fd97::1]:65535")),
        "PROXY TCP6 2001:db8::1 fd97::1 1 65535\r\n"
    );
    let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe]:65535";
    // Section 2.1: 107 bytes with its end, less what UNKNOWN is longer than
    // TCP6.
    assert_eq!(line(&of(longest, longest)).len(), 104);
    // Both families at once cannot be said.
    assert_eq!(
        line(&of("192.0.2.1:1", "[2001:db8::1]:2")),
        "PROXY UNKNOWN\r\n"
    );
    assert_eq!(local(V1).expect("it fits"), b"PROXY UNKNOWN\r\n");
}

#[test]
fn version_2_has_the_addresses_in_network_order() {
    let v4 = [
        SIGNATURE,
        // Version 2 and PROXY, AF_INET and STREAM, 12 bytes.
        &[0x21, 0x11, 0, 12],
        &[192, 0, 2, 7, 198, 51, 100, 9, 0xdc, 0x04, 0x01, 0xbb],
    ]
    .concat();
    for (client, to) in [
        ("192.0.2.7:56324", "198.51.100.9:443"),
        ("[::ffff:192.0.2.7]:56324", "[::ffff:198.51.100.9]:443"),
    ] {
        assert_eq!(proxied(V2, &of(client, to)).expect("it fits"), v4);
    }
    let mut v6 = [SIGNATURE, &[0x21, 0x21, 0, 36]].concat();
    v6.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    v6.extend([0xfd, 0x97, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    v6.extend([0, 1, 0xff, 0xff]);
    let header = proxied(V2, &of("[2001:db8::1]:1", "[fd97::2]:65535"));
    assert_eq!(header.expect("it fits"), v6);
    // Both families at once: the one that has room for the other.
    let mixed = proxied(V2, &of("192.0.2.7:1", "[fd97::2]:2")).expect("it fits");
    assert_eq!(mixed[13], 0x21);
    assert_eq!(
        mixed[16..32],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 0, 2, 7]
    );
}

#[test]
fn version_2_says_local_without_an_address() {
    let header = [SIGNATURE, &[0x20, 0x00, 0, 0]].concat();
    assert_eq!(local(V2).expect("it fits"), header);
}

#[test]
fn version_2_names_the_server_the_protocol_and_tls() {
    let named = Proxied {
        authority: Some("a.example"),
        alpn: Some("mqtt"),
        tls: Some(TlsVersion::V1_3),
        ..of("192.0.2.7:56324", "198.51.100.9:443")
    };
    let header = proxied(V2, &named).expect("it fits");
    let tlvs = [
        // PP2_TYPE_SSL: the client uses TLS, no certificate was verified, and in
        // it PP2_SUBTYPE_SSL_VERSION.
        &b"\x20\x00\x0f\x01\x00\x00\x00\x01\x21\x00\x07TLSv1.3"[..],
        // PP2_TYPE_AUTHORITY, PP2_TYPE_ALPN.
        b"\x02\x00\x09a.example",
        b"\x01\x00\x04mqtt",
    ]
    .concat();
    assert_eq!(header[14..16], (12 + tlvs.len() as u16).to_be_bytes());
    assert_eq!(header[28..], tlvs);
}

#[test]
fn a_header_arrives_in_one_segment_whatever_the_client_offers() {
    let name = "a".repeat(253);
    for (alpn, is_said) in [("b".repeat(206), true), ("b".repeat(255), false)] {
        let named = Proxied {
            authority: Some(&name),
            alpn: Some(&alpn),
            tls: Some(TlsVersion::V1_2),
            ..of("[2001:db8::1]:1", "[fd97::2]:2")
        };
        let header = proxied(V2, &named).expect("it fits");
        assert!(header.len() <= MAX_LEN, "{}", header.len());
        let has = |value: &str| {
            let mut parts = header.windows(value.len());
            parts.any(|part| part == value.as_bytes())
        };
        assert!(has(&name));
        assert_eq!(has(&alpn), is_said);
        let len = u16::from_be_bytes([header[14], header[15]]);
        assert_eq!(usize::from(len), header.len() - 16);
    }
}
