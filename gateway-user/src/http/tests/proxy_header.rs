// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Upstreams whose connections begin with a PROXY header: each is for one
//! client alone.

use std::{net::SocketAddr, sync::Arc};

use super::rig::{Backend, Client, Gateway, cluster, rule, run, table};
use crate::{model::ProxyProtocol, snapshot::Cluster};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// The first line of what a client's connection begins with.
fn line(client: &Client, gateway: &Gateway) -> String {
    let from = client.stream.local_addr().expect("connected");
    let to: SocketAddr = gateway.address;
    format!(
        "PROXY TCP4 {} {} {} {}",
        from.ip(),
        to.ip(),
        from.port(),
        to.port()
    )
}

#[test]
fn a_connection_that_names_its_client_serves_no_other() {
    run(async {
        // A header of version 1 is a line in front of the request's: the rig takes
        // it for the start line.
        let backend = Backend::start(|mut peer| async move {
            while peer.request().await.is_some() {
                peer.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .await;
            }
        })
        .await;
        let headed = Cluster {
            proxy_protocol: Some(ProxyProtocol::V1),
            ..Cluster::clone(&cluster("b", &[backend.address]))
        };
        let gateway = Gateway::start(table(vec![rule(&[("b", 1)])], &[Arc::new(headed)])).await;
        let mut first = gateway.client().await;
        let mut second = gateway.client().await;
        for client in [&mut first, &mut second] {
            for _ in 0..2 {
                assert_eq!(client.ask(GET).await.status(), 200);
            }
        }
        assert_eq!(first.ask(GET).await.status(), 200);
        let seen: Vec<String> = backend
            .seen
            .borrow()
            .iter()
            .map(|one| one.start.clone())
            .collect();
        let asked = "GET / HTTP/1.1".to_owned();
        assert_eq!(
            seen,
            [
                line(&first, &gateway),
                asked.clone(),
                line(&second, &gateway),
                asked.clone(),
                asked
            ]
        );
        assert_eq!(backend.connections.get(), 2);

        // They end with their client.
        drop((first, second));
        gateway.closed(2).await;
        let mut third = gateway.client().await;
        assert_eq!(third.ask(GET).await.status(), 200);
        assert_eq!(backend.connections.get(), 3);
        let last = backend.seen.borrow().last().map(|one| one.start.clone());
        assert_eq!(last, Some(line(&third, &gateway)));
    });
}
