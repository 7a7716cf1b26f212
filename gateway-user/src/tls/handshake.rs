// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The server's side of a handshake, with a deadline.

use std::{io, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How a handshake fails.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Not complete by the deadline.
    #[error("the tls handshake was not complete within {0:?}")]
    Timeout(Duration),
    /// Refused by either side, or the connection ended. An alert was sent where
    /// one applies.
    #[error("the tls handshake failed: {0}")]
    Failed(#[from] io::Error),
}

/// Completes a handshake within `deadline`.
///
/// # Errors
/// [`HandshakeError`].
pub async fn accept<IO>(
    io: IO,
    config: Arc<ServerConfig>,
    deadline: Duration,
) -> Result<TlsStream<IO>, HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    match timeout(deadline, TlsAcceptor::from(config).accept(io)).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(HandshakeError::Timeout(deadline)),
    }
}
