// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ApiVersions of the Kafka protocol: answered before any authentication, by
//! every broker since 0.10.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::health::probe::{Outcome, failure};

/// Key of ApiVersions; version 0 has the oldest header.
const API_VERSIONS: i16 = 18;
/// `UNSUPPORTED_VERSION`: the broker answers, in the only version it has left.
const UNSUPPORTED_VERSION: i16 = 35;
/// Bytes of the error code and the correlation id.
const LEAST: i32 = 6;
/// Longest answer believed: brokers send less than 2 KiB.
const MOST: i32 = 64 * 1024;

/// Asks and reads as far as the error code.
///
/// # Errors
/// When the answer is not one to this question, or an error.
pub async fn ask<IO>(mut io: IO) -> Result<(), Outcome>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let correlation = fastrand::i32(..);
    io.write_all(&request(correlation))
        .await
        .map_err(|error| failure(&error))?;
    let mut answer = [0; 10];
    io.read_exact(&mut answer)
        .await
        .map_err(|error| failure(&error))?;
    judge(answer, correlation)
}

/// Request header version 1: size, key, version, correlation id, client id.
fn request(correlation: i32) -> Vec<u8> {
    const CLIENT: &[u8] = b"sluice-health";
    let mut body = Vec::with_capacity(32);
    body.extend(API_VERSIONS.to_be_bytes());
    body.extend(0_i16.to_be_bytes());
    body.extend(correlation.to_be_bytes());
    body.extend((CLIENT.len() as i16).to_be_bytes());
    body.extend(CLIENT);
    let mut request = (body.len() as i32).to_be_bytes().to_vec();
    request.extend(body);
    request
}

/// Size, correlation id and error code of the answer.
fn judge(answer: [u8; 10], correlation: i32) -> Result<(), Outcome> {
    let [s0, s1, s2, s3, c0, c1, c2, c3, e0, e1] = answer;
    let size = i32::from_be_bytes([s0, s1, s2, s3]);
    let answered = i32::from_be_bytes([c0, c1, c2, c3]);
    let error = i16::from_be_bytes([e0, e1]);
    if !(LEAST..=MOST).contains(&size) || answered != correlation {
        Err(Outcome::BadAnswer)
    } else if error == 0 || error == UNSUPPORTED_VERSION {
        Ok(())
    } else {
        Err(Outcome::NotServing)
    }
}

#[cfg(test)]
mod tests {
    use super::{Outcome, judge, request};

    #[test]
    fn the_request_says_its_own_length() {
        let request = request(7);
        assert_eq!(request.len(), 4 + 10 + 13);
        assert_eq!(&request[..4], 23_i32.to_be_bytes());
        assert_eq!(&request[8..12], 7_i32.to_be_bytes());
    }

    #[test]
    fn only_an_answer_to_this_question_counts() {
        for (size, correlation, error, expected) in [
            (256, 7, 0, Ok(())),
            (6, 7, 35, Ok(())),
            (256, 7, 1, Err(Outcome::NotServing)),
            (256, 8, 0, Err(Outcome::BadAnswer)),
            (5, 7, 0, Err(Outcome::BadAnswer)),
            (-1, 7, 0, Err(Outcome::BadAnswer)),
            // "HTTP", read as a length.
            (0x4854_5450, 7, 0, Err(Outcome::BadAnswer)),
        ] {
            let mut answer = [0; 10];
            answer[..4].copy_from_slice(&i32::to_be_bytes(size));
            answer[4..8].copy_from_slice(&i32::to_be_bytes(correlation));
            answer[8..].copy_from_slice(&i16::to_be_bytes(error));
            assert_eq!(judge(answer, 7), expected, "{size} {correlation} {error}");
        }
    }
}
