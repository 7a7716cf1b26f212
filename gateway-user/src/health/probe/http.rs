// SPDX-License-Identifier: Apache-2.0 OR MIT
//! GET over HTTP/1.1, judged by the status.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{
    health::probe::{Outcome, failure},
    model::HttpProbe,
};

/// Bytes of a response head.
const MAX_HEAD: usize = 16 * 1024;
/// Headers of a response.
const MAX_HEADERS: usize = 128;

/// Asks and reads the head of the answer; its body is not waited for.
///
/// # Errors
/// When the answer is not a wanted one.
pub async fn ask<IO>(mut io: IO, wanted: &HttpProbe) -> Result<(), Outcome>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: sluice-health\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        wanted.path, wanted.host
    );
    io.write_all(request.as_bytes())
        .await
        .map_err(|error| failure(&error))?;
    let mut head = Vec::with_capacity(1024);
    loop {
        let count = io
            .read_buf(&mut head)
            .await
            .map_err(|error| failure(&error))?;
        if count == 0 {
            return Err(Outcome::Closed);
        }
        match status(&head)? {
            Some(status) if (wanted.status_from..=wanted.status_to).contains(&status) => {
                return Ok(());
            }
            Some(_) => return Err(Outcome::NotServing),
            None if head.len() >= MAX_HEAD => return Err(Outcome::BadAnswer),
            None => {}
        }
    }
}

/// The status of a response head; nothing when more of it has to come.
pub(super) fn status(head: &[u8]) -> Result<Option<u16>, Outcome> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(head) {
        Ok(httparse::Status::Complete(_)) => Ok(response.code),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(Outcome::BadAnswer),
    }
}
