// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What reaches an upstream, and what the gateway answers by itself.

use super::rig::{Backend, Gateway, run, to};

#[test]
fn a_request_reaches_its_upstream_and_comes_back() {
    run(async {
        let backend = Backend::echo().await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        for n in 0..3 {
            let answer = client
                .ask(format!("GET /a?{n} HTTP/1.1\r\nHost: a.test\r\n\r\n"))
                .await;
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.text(), format!("/a?{n}|"));
        }
        assert_eq!(backend.connections.get(), 1, "one upstream connection");
        assert_eq!(gateway.counters.upstream_reused.value(), 2);
    });
}
