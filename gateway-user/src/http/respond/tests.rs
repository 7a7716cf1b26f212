// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where redirects lead, and what direct answers hold.

use http::StatusCode;

use super::{Asked, direct, https_redirect, raw, redirect};
use crate::model::{DirectResponse, Redirect};

fn location(response: &http::Response<bytes::Bytes>) -> &str {
    response.headers()["location"].to_str().expect("ASCII")
}

#[test]
fn https_redirect_keeps_host_path_and_query() {
    let cases = [
        ("a.com", "/x?y=1", "https://a.com/x?y=1"),
        ("a.com:80", "/", "https://a.com/"),
        ("A.com", "/%20", "https://A.com/%20"),
        ("a.com:8080", "/", "https://a.com:8080/"),
        ("[::1]:80", "/", "https://[::1]/"),
        ("a.com", "*", "https://a.com/"),
    ];
    for (host, target, expected) in cases {
        let asked = Asked {
            scheme: "http",
            host,
            target,
        };
        let response = https_redirect(asked);
        assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY);
        assert_eq!(location(&response), expected, "{host} {target}");
        assert!(response.body().is_empty());
    }
}

#[test]
fn redirect_replaces_what_it_names() {
    let same = Redirect {
        status: StatusCode::FOUND,
        scheme: None,
        authority: None,
        port: None,
        path: None,
    };
    let cases = [
        (same.clone(), "http://a.com:8080/x?y"),
        (
            Redirect {
                authority: Some("b.com".into()),
                ..same.clone()
            },
            "http://b.com/x?y",
        ),
        (
            Redirect {
                port: Some(80),
                ..same.clone()
            },
            "http://a.com/x?y",
        ),
        (
            Redirect {
                scheme: Some("https".into()),
                port: Some(443),
                ..same.clone()
            },
            "https://a.com/x?y",
        ),
        (
            Redirect {
                port: Some(8443),
                scheme: Some("https".into()),
                ..same.clone()
            },
            "https://a.com:8443/x?y",
        ),
        (
            Redirect {
                path: Some("/new".into()),
                ..same.clone()
            },
            "http://a.com:8080/new?y",
        ),
        (
            Redirect {
                path: Some("/new?z=1".into()),
                ..same
            },
            "http://a.com:8080/new?z=1",
        ),
    ];
    for (configured, expected) in cases {
        let asked = Asked {
            scheme: "http",
            host: "a.com:8080",
            target: "/x?y",
        };
        let response = redirect(&configured, asked);
        assert_eq!(response.status(), StatusCode::FOUND);
        assert_eq!(location(&response), expected);
    }
}

#[test]
fn direct_answers_have_their_status_and_body() {
    let response = direct(&DirectResponse {
        status: StatusCode::IM_A_TEAPOT,
        body: "short".into(),
    });
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(response.headers()["content-type"], "text/plain");
    assert_eq!(response.body(), "short");
}

#[test]
fn refusals_end_the_connection() {
    assert_eq!(
        String::from_utf8(raw(StatusCode::BAD_REQUEST)).expect("ASCII"),
        "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
}
