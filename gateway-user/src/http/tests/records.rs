// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One record for each request, however it ends.

use std::{
    fmt::{self, Write},
    sync::{Arc, Mutex},
};

use tracing::{
    Dispatch, Event, Metadata, Subscriber, dispatcher,
    field::{Field, Visit},
    span,
};

use super::rig::{Backend, Gateway, run, to, until};

/// Keeps the records as text.
struct Records(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}

impl Subscriber for Records {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "access"
    }
    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().expect("no panic in the middle").push(text.0);
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[test]
fn every_request_leaves_one_record() {
    let records = Arc::new(Mutex::new(Vec::new()));
    // With one dispatcher alone, the thread that comes first to a callsite decides
    // by its own default whether it is of interest to anyone, and here those of
    // other tests have none (tracing-core, `callsite::Rebuilder::JustOne`).
    let [dispatch, _second] = [0, 1].map(|_| Dispatch::new(Records(Arc::clone(&records))));
    let guard = dispatcher::set_default(&dispatch);
    let lines = Arc::clone(&records);
    run(async move {
        let backend = Backend::start(|mut peer| async move {
            while let Some(request) = peer.request().await {
                if request.start.contains("/hang") {
                    peer.ended().await;
                    return;
                }
                peer.write("HTTP/1.1 201 Made\r\nContent-Length: 4\r\n\r\nmade")
                    .await;
            }
        })
        .await;
        let gateway = Gateway::start(to(backend.address)).await;
        let mut client = gateway.client().await;
        client
            .ask(
                "POST /x?secret HTTP/1.1\r\nHost: A.test:80\r\nX-Request-Id: id-1\r\n\
                 Content-Length: 3\r\n\r\nabc",
            )
            .await;
        client
            .write("GET /hang HTTP/1.1\r\nHost: a.test\r\n\r\n")
            .await;
        until(|| backend.seen.borrow().len() == 2).await;
        drop(client);
        gateway.closed(1).await;
        let records = lines.lock().expect("no panic in the middle").clone();
        assert_eq!(records.len(), 2, "{records:?}");
        let upstream = format!("upstream={} ", backend.address);
        for part in [
            "kind=\"request\"",
            "mode=\"plain-http\"",
            "method=\"POST\"",
            "host=\"a.test\"",
            "path=\"/x\"",
            "request_id=\"id-1\"",
            "rule=\"test.yaml:1\"",
            "cluster=\"b:80\"",
            upstream.as_str(),
            "status=201",
            "bytes_in=3",
            "bytes_out=4",
            "reason=\"routed\"",
        ] {
            assert!(records[0].contains(part), "{part} in {}", records[0]);
        }
        for part in ["path=\"/hang\"", "status=0", "reason=\"client_reset\""] {
            assert!(records[1].contains(part), "{part} in {}", records[1]);
        }
    });
    drop(guard);
}
