// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The syntax of `Host` and `:authority`.

/// A name of letters, digits, `-`, `.`, `_` and `~`, an IPv4 address or an
/// IPv6 address in brackets, and a port or none. RFC 3986 allows more, but no
/// name that a route can have.
pub fn is_host(host: &[u8]) -> bool {
    let (name_holds, port) = if let Some(rest) = host.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|&b| b == b']') else {
            return false;
        };
        let address = std::str::from_utf8(&rest[..end]);
        (
            address.is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok()),
            &rest[end + 1..],
        )
    } else {
        let end = host.iter().position(|&b| b == b':').unwrap_or(host.len());
        let name = &host[..end];
        (
            (1..=255).contains(&name.len())
                && name[0] != b'.'
                && !name.windows(2).any(|pair| pair == b"..")
                && name
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(b)),
            &host[end..],
        )
    };
    name_holds
        && match port.strip_prefix(b":") {
            None => port.is_empty(),
            Some(port) => {
                (1..=5).contains(&port.len())
                    && port.iter().all(u8::is_ascii_digit)
                    && port
                        .iter()
                        .fold(0_u32, |sum, d| sum * 10 + u32::from(d - b'0'))
                        <= 65535
            }
        }
}

/// Whether two authorities name the same host and port.
pub fn same_authority(scheme: &[u8], a: &[u8], b: &[u8]) -> bool {
    let own_port: &[u8] = if scheme == b"https" { b":443" } else { b":80" };
    let bare = |authority: &'_ [u8]| authority.strip_suffix(own_port).unwrap_or(authority).len();
    a[..bare(a)].eq_ignore_ascii_case(&b[..bare(b)])
}

#[cfg(test)]
mod tests {
    use super::{is_host, same_authority};

    #[test]
    fn hosts_are_names_or_addresses() {
        for host in [
            "a",
            "a.b-c.d_e",
            "a.",
            "127.0.0.1:1",
            "[fd97::1]",
            "[::]:65535",
            "xn--a-ecp",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "",
            ":80",
            "a:65536",
            "a:000080",
            "*.a",
            "a;b",
            "a$",
            "[]",
            "[1.2.3.4]",
            "::1",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn the_default_port_may_be_left_out() {
        assert!(same_authority(b"http", b"a:80", b"A"));
        assert!(same_authority(b"https", b"a", b"a:443"));
        assert!(!same_authority(b"http", b"a:443", b"a"));
        assert!(!same_authority(b"http", b"a", b"b"));
    }
}
