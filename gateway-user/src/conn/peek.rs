// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads a client's first bytes until they are a ClientHello or cannot become
//! one.

use std::io;

use tokio::{net::TcpStream, time::timeout};

use crate::{
    conn::{
        client_hello::{HelloReader, Outcome},
        limits::ConnectionLimits,
        scratch,
    },
    telemetry::access::CloseReason,
};

/// Bytes taken off the socket at a time: a hello of the usual kind at once, and
/// little of what may follow it.
const READ_LEN: usize = 16 * 1024;

/// Appends to `received` until there is an outcome other than
/// [`Outcome::NeedMore`]. Holds no memory before the first byte arrives, and
/// only what arrived after.
///
/// # Errors
/// `HelloTimeout`, `HelloIncomplete` when the client closed first,
/// `ClientReset`.
pub async fn peek(
    stream: &TcpStream,
    received: &mut Vec<u8>,
    limits: &ConnectionLimits,
) -> Result<Outcome, CloseReason> {
    timeout(
        limits.hello_timeout,
        read(stream, received, limits.hello_max),
    )
    .await
    .unwrap_or(Err(CloseReason::HelloTimeout))
}

async fn read(
    stream: &TcpStream,
    received: &mut Vec<u8>,
    max_len: usize,
) -> Result<Outcome, CloseReason> {
    let mut reader = HelloReader::new(max_len);
    loop {
        stream.readable().await.map_err(reason)?;
        let read = scratch::with(|scratch| {
            let read = stream.try_read(&mut scratch[..READ_LEN]);
            if let Ok(len @ 1..) = read {
                if received.is_empty() {
                    received.reserve_exact(len);
                }
                received.extend_from_slice(&scratch[..len]);
            }
            read
        });
        match read {
            Ok(0) => return Err(CloseReason::HelloIncomplete),
            Ok(_) => match reader.read(received) {
                Outcome::NeedMore => {}
                outcome => return Ok(outcome),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(reason(error)),
        }
    }
}

fn reason(error: io::Error) -> CloseReason {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::TimedOut => CloseReason::ClientReset,
        _ => CloseReason::Internal,
    }
}
