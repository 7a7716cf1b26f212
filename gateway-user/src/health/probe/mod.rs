// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One question to one endpoint. However the endpoint behaves, a probe ends
//! within its timeout and reads at most [`MAX_ANSWER`].

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use crate::{
    model::{ProbeProtocol, ProbeTarget},
    proxy_header,
};

mod capped;
mod http;
mod kafka;
mod mqtt;
#[cfg(test)]
mod tests;
mod tls;

use capped::Capped;
pub use tls::client_config;

/// Bytes a probe reads before it gives up: a TLS handshake with long chains
/// fits, an endless answer does not.
pub const MAX_ANSWER: usize = 256 * 1024;

/// What came of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The answer was the wanted one.
    Passed,
    /// The endpoint refused the connection.
    Refused,
    /// No way to the endpoint.
    Unreachable,
    /// Not complete in time.
    Timeout,
    /// The endpoint closed or reset before it had answered.
    Closed,
    /// An answer, but not one that the protocol allows, or too long.
    BadAnswer,
    /// The endpoint says that it does not serve.
    NotServing,
    /// It could not be asked, for want of a descriptor or a port on this side:
    /// that says nothing of the endpoint.
    NotAsked,
}

impl Outcome {
    /// Whether it speaks for the endpoint; nothing when it says nothing.
    pub fn passed(self) -> Option<bool> {
        match self {
            Self::NotAsked => None,
            outcome => Some(outcome == Self::Passed),
        }
    }

    /// The word used in output and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::BadAnswer => "bad_answer",
            Self::NotServing => "not_serving",
            Self::NotAsked => "not_asked",
        }
    }
}

/// Asks once.
pub async fn ask(target: &ProbeTarget, tls: &Arc<rustls::ClientConfig>) -> Outcome {
    let asked = async {
        let mut stream = connect(target.address).await?;
        if let Some(version) = target.probe.proxy_protocol {
            let header = proxy_header::local(version).map_err(|_| Outcome::NotAsked)?;
            let sent = stream.write_all(&header).await;
            sent.map_err(|error| failure(&error))?;
        }
        match &target.probe.protocol {
            ProbeProtocol::Tcp => Ok(()),
            ProbeProtocol::Http(wanted) => http::ask(stream, wanted).await,
            ProbeProtocol::Tls { server_name } => {
                tls::ask(stream, server_name, target.address.ip(), Arc::clone(tls)).await
            }
            ProbeProtocol::Mqtt => mqtt::ask(stream).await,
            ProbeProtocol::Kafka => kafka::ask(stream).await,
        }
    };
    match timeout(target.probe.timeout, asked).await {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(outcome)) => outcome,
        Err(_) => Outcome::Timeout,
    }
}

async fn connect(address: SocketAddr) -> Result<Capped<TcpStream>, Outcome> {
    let stream = TcpStream::connect(address).await.map_err(|error| {
        match (error.kind(), error.raw_os_error()) {
            (io::ErrorKind::ConnectionRefused, _) => Outcome::Refused,
            (io::ErrorKind::ConnectionReset, _) => Outcome::Closed,
            (io::ErrorKind::TimedOut, _) => Outcome::Timeout,
            (io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory, _)
            | (_, Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS)) => Outcome::NotAsked,
            _ => Outcome::Unreachable,
        }
    })?;
    Ok(Capped::new(stream, MAX_ANSWER))
}

/// What an error while talking means.
fn failure(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::InvalidData => Outcome::BadAnswer,
        io::ErrorKind::TimedOut => Outcome::Timeout,
        _ => Outcome::Closed,
    }
}
