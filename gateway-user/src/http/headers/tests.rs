// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Header fields before and after.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{announce_client, edit, join_cookies, strip_hop_by_hop, takes_trailers};
use crate::model::HeaderEdits;

fn fields(list: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in list {
        map.append(*name, HeaderValue::from_static(value));
    }
    map
}

#[test]
fn hop_by_hop_fields_and_those_connection_names_are_removed() {
    let mut map = fields(&[
        ("connection", "keep-alive, X-Mine"),
        ("connection", "x-other,,host"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("http2-settings", "AAMAAABk"),
        ("x-mine", "1"),
        ("x-other", "2"),
        ("host", "a"),
        ("trailer", "x-sum"),
        ("x-kept", "3"),
    ]);
    strip_hop_by_hop(&mut map);
    let mut left: Vec<_> = map.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["host", "trailer", "x-kept"]);
}

#[test]
fn the_client_is_announced() {
    let peer = "192.0.2.7".parse().expect("an address");
    let mut map = fields(&[
        ("x-forwarded-for", "198.51.100.1"),
        ("x-forwarded-for", "198.51.100.2"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-client-cert", "Hash=1"),
    ]);
    announce_client(&mut map, peer, "http");
    assert_eq!(
        map["x-forwarded-for"],
        "198.51.100.1, 198.51.100.2, 192.0.2.7"
    );
    assert_eq!(map["x-forwarded-proto"], "http");
    assert!(!map.contains_key("x-forwarded-client-cert"));
}

#[test]
fn a_valid_request_id_is_kept_and_any_other_replaced() {
    let peer = "::ffff:192.0.2.7".parse().expect("an address");
    for (given, kept) in [
        ("abc-1", true),
        ("", false),
        ("a b", false),
        ("\u{e9}", false),
    ] {
        let mut map = HeaderMap::new();
        map.insert(
            "x-request-id",
            HeaderValue::from_bytes(given.as_bytes()).expect("a value"),
        );
        let id = announce_client(&mut map, peer, "https");
        assert_eq!(id == given, kept, "{given}");
        assert_eq!(map["x-request-id"], id);
        assert_eq!(map["x-forwarded-for"], "192.0.2.7", "IPv4 as such");
    }
    let mut map = HeaderMap::new();
    let id = announce_client(&mut map, peer, "https");
    let id = uuid::Uuid::parse_str(id.to_str().expect("ASCII")).expect("a UUID");
    assert_eq!(id.get_version_num(), 4);
}

#[test]
fn edits_set_then_add_then_remove_and_leave_framing_alone() {
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    let edits = HeaderEdits {
        set: vec![
            (name("a"), value("1")),
            (name("content-length"), value("9")),
        ],
        add: vec![
            (name("a"), value("2")),
            (name("b"), value("3")),
            (name("transfer-encoding"), value("chunked")),
        ],
        remove: vec![name("c"), name("host")],
        authority: None,
    };
    let mut map = fields(&[
        ("a", "0"),
        ("c", "0"),
        ("host", "h"),
        ("content-length", "4"),
    ]);
    edit(&mut map, &edits);
    let all: Vec<_> = map.get_all("a").iter().collect();
    assert_eq!(all, ["1", "2"]);
    assert_eq!(map["b"], "3");
    assert!(!map.contains_key("c") && !map.contains_key("transfer-encoding"));
    assert_eq!(
        (&map["host"], &map["content-length"]),
        (&value("h"), &value("4"))
    );
}

#[test]
fn cookies_of_http2_are_joined() {
    let mut map = fields(&[("cookie", "a=1"), ("cookie", "b=2; c=3")]);
    join_cookies(&mut map);
    assert_eq!(map["cookie"], "a=1; b=2; c=3");
    assert_eq!(map.get_all("cookie").iter().count(), 1);
}

#[test]
fn trailers_are_taken_where_te_says_so() {
    assert!(takes_trailers(&fields(&[("te", "gzip;q=1, Trailers")])));
    assert!(!takes_trailers(&fields(&[("te", "gzip")])));
}
