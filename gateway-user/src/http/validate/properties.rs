// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Damaged heads: what passes reads the same to the parser that hyper uses.

use super::{Framing, request};

/// A head with some of its bytes replaced, doubled or taken away.
fn mutated(seed: &str, changes: &[(usize, u8, u8)]) -> Vec<u8> {
    let mut bytes = format!("{seed}||").replace('|', "\r\n").into_bytes();
    for &(at, kind, byte) in changes {
        let at = at % bytes.len();
        match kind % 3 {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            _ => drop(bytes.remove(at)),
        }
    }
    bytes
}

proptest::proptest! {
    #[test]
    fn what_passes_has_the_same_reading_in_httparse(
        seed in 0..4_usize,
        changes in proptest::collection::vec(
            (0..200_usize, 0..3_u8, proptest::sample::select(b"\r\n\t :,;a1-_/\0\x7f\xe9HT".to_vec())),
            0..4,
        ),
    ) {
        let seeds = [
            "GET /a?b HTTP/1.1|Host: a.com|X: y",
            "POST /a HTTP/1.1|Host: a.com|Content-Length: 12",
            "POST /a HTTP/1.1|Host: a.com|Transfer-Encoding: chunked",
            "GET http://a.com/ HTTP/1.0|Host: a.com|Connection: close",
        ];
        let bytes = mutated(seeds[seed], &changes);
        // As the framer does: up to the first empty line.
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
        if let Some(end) = end
            && let Ok(framing) = request(&bytes[..end], 64)
        {
            let head = &bytes[..end];
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut parsed = httparse::Request::new(&mut fields);
            proptest::prop_assert_eq!(parsed.parse(head), Ok(httparse::Status::Complete(end)));
            let named = |name: &str| {
                parsed
                    .headers
                    .iter()
                    .filter(|field| field.name.eq_ignore_ascii_case(name))
                    .map(|field| String::from_utf8_lossy(field.value).into_owned())
                    .collect::<Vec<_>>()
            };
            let (length, coding) = (named("content-length"), named("transfer-encoding"));
            match framing {
                Framing::Chunked => proptest::prop_assert!(length.is_empty() && coding.len() == 1),
                Framing::Length(n) => {
                    proptest::prop_assert!(coding.is_empty());
                    proptest::prop_assert_eq!(length[0].parse::<u64>(), Ok(n));
                }
                _ => proptest::prop_assert!(coding.is_empty()),
            }
        }
    }
}
