// SPDX-License-Identifier: Apache-2.0 OR MIT
//! CONNECT of MQTT 3.1.1, answered by CONNACK.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::health::probe::{Outcome, failure};

/// MQTT 3.1.1 section 3.14.
const DISCONNECT: [u8; 2] = [0xe0, 0];
/// First byte of a CONNACK (section 3.2.1).
const CONNACK: u8 = 0x20;
/// Return code "server unavailable" (section 3.2.2.3).
const UNAVAILABLE: u8 = 3;
/// Reason codes of MQTT 5 "server unavailable" and "server busy" (section
/// 3.2.2.2 there): a broker of that version alone may answer with them.
const UNAVAILABLE_5: [u8; 2] = [0x88, 0x89];

/// Connects with an identifier of its own (another client's session of the same
/// name would end) and disconnects. A broker that wants credentials or another
/// version is as alive as one that accepts.
///
/// # Errors
/// When no CONNACK comes, or it says that the broker does not serve.
pub async fn ask<IO>(mut io: IO) -> Result<(), Outcome>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    io.write_all(&connect(fastrand::u64(..)))
        .await
        .map_err(|error| failure(&error))?;
    let mut answer = [0; 4];
    io.read_exact(&mut answer)
        .await
        .map_err(|error| failure(&error))?;
    judge(answer)?;
    // It has answered; whether it hears the goodbye is its own.
    let _ = io.write_all(&DISCONNECT).await;
    Ok(())
}

/// Section 3.1: protocol "MQTT" level 4, clean session, keep alive 10 s, client
/// identifier of 22 characters (all servers take 23).
fn connect(number: u64) -> Vec<u8> {
    let identifier = format!("sluice{number:016x}");
    let mut packet = vec![0x10, 12 + identifier.len() as u8];
    packet.extend(b"\0\x04MQTT\x04\x02\0\x0a");
    packet.extend([0, identifier.len() as u8]);
    packet.extend(identifier.as_bytes());
    packet
}

/// The first four bytes of the answer.
fn judge([kind, length, _, code]: [u8; 4]) -> Result<(), Outcome> {
    // 2 in version 3.1.1, more in version 5.
    if kind != CONNACK || length < 2 {
        Err(Outcome::BadAnswer)
    } else if code == UNAVAILABLE || UNAVAILABLE_5.contains(&code) {
        Err(Outcome::NotServing)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Outcome, connect, judge};

    #[test]
    fn connect_is_as_the_standard_has_it() {
        let packet = connect(0xab);
        assert_eq!(usize::from(packet[1]), packet.len() - 2);
        assert_eq!(&packet[2..12], b"\0\x04MQTT\x04\x02\0\x0a");
        assert_eq!(&packet[12..], b"\0\x16sluice00000000000000ab");
    }

    #[test]
    fn a_broker_that_refuses_the_client_is_alive() {
        for (answer, expected) in [
            ([0x20, 2, 0, 0], Ok(())),
            ([0x20, 2, 0, 1], Ok(())),
            ([0x20, 2, 0, 5], Ok(())),
            ([0x20, 3, 0, 0x84], Ok(())),
            ([0x20, 2, 0, 3], Err(Outcome::NotServing)),
            ([0x20, 3, 0, 0x88], Err(Outcome::NotServing)),
            ([0x20, 0, 0, 0], Err(Outcome::BadAnswer)),
            (*b"HTTP", Err(Outcome::BadAnswer)),
            ([0; 4], Err(Outcome::BadAnswer)),
        ] {
            assert_eq!(judge(answer), expected, "{answer:x?}");
        }
    }
}
