// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Paths: dot segments and the split of a target into path and query.

use std::borrow::Cow;

/// `path` without `.` and `..` segments, also where the dots are written
/// `%2e` (RFC 3986 section 5.2.4; Istio's default `BASE`). Slashes are not
/// merged and nothing else is decoded. Rules see this path and so does the
/// upstream, so that `/public/../admin` cannot pass for `/public`.
pub fn normalise(path: &str) -> Cow<'_, str> {
    if !path.starts_with('/') || !path.split('/').any(|segment| dots(segment).is_some()) {
        return Cow::Borrowed(path);
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_dots = false;
    for segment in path[1..].split('/') {
        let count = dots(segment);
        ends_in_dots = count.is_some();
        match count {
            Some(1) => {}
            Some(_) => {
                kept.pop();
            }
            None => kept.push(segment),
        }
    }
    let mut normal = String::with_capacity(path.len());
    for segment in kept {
        normal.push('/');
        normal.push_str(segment);
    }
    if ends_in_dots || normal.is_empty() {
        normal.push('/');
    }
    Cow::Owned(normal)
}

/// 1 or 2 when the segment is `.` or `..`, in any spelling.
fn dots(segment: &str) -> Option<usize> {
    if !matches!(segment.len(), 1..=6) {
        return None;
    }
    let mut rest = segment;
    let mut count = 0;
    while !rest.is_empty() {
        rest = rest.strip_prefix('.').or_else(|| {
            rest.get(..3)
                .filter(|head| head.eq_ignore_ascii_case("%2e"))
                .map(|_| &rest[3..])
        })?;
        count += 1;
    }
    (count <= 2).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::normalise;

    #[test]
    fn dot_segments_are_removed_in_any_spelling() {
        let cases = [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a/%2e/b", "/a/b"),
            ("/..", "/"),
            ("/../../etc", "/etc"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/a//b/../c", "/a//c"),
            ("//..", "/"),
            ("/...", "/..."),
            ("/a/..b/.c", "/a/..b/.c"),
            ("/%2e%2e%2e", "/%2e%2e%2e"),
            ("*", "*"),
            ("/é/..", "/"),
        ];
        for (path, expected) in cases {
            assert_eq!(normalise(path), expected, "{path}");
        }
    }
}
