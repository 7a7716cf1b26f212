// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is known of a connection, and its one access record; that of a
//! handed-off one is written when the kernel's flow has ended.

use std::{io, net::SocketAddr, rc::Rc, sync::Arc, time::Instant};

use crate::{
    conn::{Worker, prefixed::ByteCounts},
    datapath::returning::NotKept,
    drain::DrainGuard,
    model::SourceAddress,
    origin::Origin,
    proxy_header::{self, Proxied, TlsVersion},
    snapshot::Cluster,
    telemetry::access::{CloseReason, ConnectionRecord, Mode},
};

/// One connection. Its end is recorded when it is dropped, so that there is
/// exactly one record whatever happens; its handing off is counted only.
pub(super) struct Session {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) mode: Mode,
    pub(super) sni: Option<String>,
    pub(super) alpn: Option<String>,
    /// The protocol that the connection speaks, where that is certain: the one
    /// agreed upon here, or the only one offered.
    pub(super) spoken: Option<String>,
    /// TLS that ended here.
    pub(super) tls: Option<TlsVersion>,
    pub(super) cluster: Option<Arc<Cluster>>,
    pub(super) upstream: Option<SocketAddr>,
    pub(super) kept: Option<Result<(), NotKept>>,
    pub(super) counts: Rc<ByteCounts>,
    rule: Option<Origin>,
    reason: Option<CloseReason>,
    pub(super) accepted: Instant,
    worker: Rc<Worker>,
    _busy: DrainGuard,
}

impl Session {
    /// Counts it as opened.
    pub(super) fn new(peer: SocketAddr, local: SocketAddr, worker: Rc<Worker>) -> Self {
        worker.counters.opened.add(1);
        Self {
            peer,
            local,
            mode: Mode::Refused,
            sni: None,
            alpn: None,
            spoken: None,
            tls: None,
            cluster: None,
            upstream: None,
            kept: None,
            counts: ByteCounts::new(Arc::clone(&worker.counters)),
            rule: None,
            reason: None,
            accepted: Instant::now(),
            _busy: worker.drain.guard(),
            worker,
        }
    }

    /// Notes how it is served, and by which rule.
    pub(super) fn decided(&mut self, mode: Mode, rule: &Origin) {
        self.mode = mode;
        self.rule = Some(rule.clone());
    }

    /// Which way its bytes went to its upstream, as far as there is a choice.
    fn path(&self) -> Option<&'static str> {
        self.upstream?;
        match self.mode {
            Mode::Passthrough | Mode::Forward | Mode::TerminateTcp => {
                Some(if self.counts.is_spliced() {
                    "splice"
                } else {
                    "copy"
                })
            }
            Mode::TerminateHttp | Mode::PlainHttp | Mode::Refused => None,
        }
    }

    /// What a connection to a cluster begins with on its behalf.
    ///
    /// # Errors
    /// Those of the encoder.
    pub(super) fn header(&self, cluster: &Cluster) -> io::Result<Vec<u8>> {
        let Some(version) = cluster.proxy_protocol else {
            return Ok(Vec::new());
        };
        let of = Proxied {
            client: self.peer,
            destination: self.local,
            authority: self.sni.as_deref(),
            alpn: self.spoken.as_deref(),
            tls: self.tls,
        };
        proxy_header::proxied(version, &of)
    }

    /// The rule by which it is served.
    pub(super) fn rule(&self) -> Option<&Origin> {
        self.rule.as_ref()
    }

    /// Records its end.
    pub(super) fn end(mut self, reason: CloseReason) {
        self.reason = Some(reason);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Dropped without an end: the worker stops, or has a fault.
        let reason = self.reason.unwrap_or(if std::thread::panicking() {
            CloseReason::Internal
        } else {
            CloseReason::Drained
        });
        self.worker.counters.count_close(self.mode, reason);
        if reason == CloseReason::HandedOff {
            // It goes on; who finds its end has the record.
            return;
        }
        ConnectionRecord {
            peer: self.peer,
            local: self.local,
            mode: self.mode,
            sni: self.sni.take(),
            alpn: self.alpn.take(),
            rule: self.rule.as_ref().map(Origin::to_string),
            cluster: self.cluster.as_ref().map(|cluster| cluster.id.to_string()),
            upstream: self.upstream,
            source: self.kept.map(|kept| match kept {
                Ok(()) => SourceAddress::Client.name(),
                Err(reason) => reason.name(),
            }),
            bytes_in: self.counts.read(),
            bytes_out: self.counts.written(),
            duration: self.accepted.elapsed(),
            reason,
            path: self.path(),
        }
        .emit();
    }
}
