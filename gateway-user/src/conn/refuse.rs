// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Says no, where the client can understand it.

use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    conn::{copy, prefixed::Prefixed},
    telemetry::access::CloseReason,
};

/// Closes a connection: with the TLS alert that fits the reason, with a reset
/// where no one listens for the client, else by simply closing it.
pub(super) async fn close(mut client: Prefixed<TcpStream>, reason: CloseReason) {
    if let Some(description) = alert(reason) {
        // A fatal alert in a record of its own (RFC 8446 sections 5.1 and 6).
        // It fits into the empty send buffer of a fresh socket, so that this
        // does not wait for the client.
        let record = [21, 3, 3, 0, 2, 2, description];
        let _ = client.write_all(&record).await;
        let _ = client.shutdown().await;
    } else if matches!(reason, CloseReason::NoListener | CloseReason::SourceDenied) {
        copy::reset_on_drop(client.inner());
    }
}

/// AlertDescription of RFC 8446 section 6, for clients that speak TLS.
fn alert(reason: CloseReason) -> Option<u8> {
    match reason {
        CloseReason::NoSni | CloseReason::UnknownSni => Some(112),
        CloseReason::HelloMalformed | CloseReason::HelloTooLarge => Some(50),
        _ => None,
    }
}
